"""The vocabulary that every room shares: hooks, verdicts, decisions, what they mean to the media server."""
