"""Recorded hooks played against a backend, and its answers compared with those of then."""

from gateway.replay.playing import Options, Player
from gateway.replay.reading import MAX_HOOKS, Recording, UnreadableError, Wanted
from gateway.replay.tally import BODIES_DIFFER, Example, Report, Tally

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
