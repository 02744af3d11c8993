"""A hook's life: routed, decided within its budget, answered once."""
