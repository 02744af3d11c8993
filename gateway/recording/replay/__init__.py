"""Recorded hooks played against a backend, and its answers compared with those of then."""

from gateway.recording.replay.player import Options, Player
from gateway.recording.replay.reader import FAILED, MAX_HOOKS, HookFilter, Recording, UnreadableError
from gateway.recording.replay.report import BODIES_DIFFER, Example, Report, Tally

__all__ = [
    "BODIES_DIFFER",
    "FAILED",
    "MAX_HOOKS",
    "Example",
    "HookFilter",
    "Options",
    "Player",
    "Recording",
    "Report",
    "Tally",
    "UnreadableError",
]
