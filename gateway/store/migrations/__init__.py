"""The migrations of the store's tables; ``gateway.store.migrate`` runs them."""
