"""Consumers of decisions: log, journal, metrics, traces and shadow results."""
