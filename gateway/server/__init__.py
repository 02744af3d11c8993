"""Processes: one alone, or a supervisor with its workers; their sockets, signals, and an orderly end."""
