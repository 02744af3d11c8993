"""Tests of the front door: the listener that takes the hooks."""
