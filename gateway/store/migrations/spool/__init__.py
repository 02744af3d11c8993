"""The migrations of the spool's tables, one file for each version."""
