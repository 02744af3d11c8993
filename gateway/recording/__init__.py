"""Hooks written down with their decisions, as JSON lines, for a replay against another backend."""

from .lines import Record, RecordError
from .recorder import Recorder
from .settings import FILES, MASKED, MAX_SIZE, RecordSettings

__all__ = ["FILES", "MASKED", "MAX_SIZE", "Record", "RecordError", "RecordSettings", "Recorder"]
