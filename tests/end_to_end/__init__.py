"""The gateway as a whole, between real clients and real backends."""
