"""Recorded hooks played against a backend, and its answers compared with those of then."""

from .playing import Options, Player
from .reading import MAX_HOOKS, Recording, UnreadableError, Wanted
from .tally import BODIES_DIFFER, Example, Report, Tally

__all__ = [
    "BODIES_DIFFER",
    "MAX_HOOKS",
    "Example",
    "Options",
    "Player",
    "Recording",
    "Report",
    "Tally",
    "UnreadableError",
    "Wanted",
]
