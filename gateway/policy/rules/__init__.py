"""Verdicts without a backend: an app's rules, the globs and times of day that they are written with."""
