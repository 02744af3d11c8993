"""The migrations of the history's tables, one file for each version."""
