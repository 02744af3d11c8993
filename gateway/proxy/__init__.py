"""What happens to a hook: it is routed, decided within its budget, and answered once."""
