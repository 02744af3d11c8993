"""Hooks written down with their decisions, as JSON lines, for a replay against another backend."""

from gateway.recording.format import Record, RecordError
from gateway.recording.recorder import Recorder
from gateway.recording.settings import FILES, MASKED, MAX_SIZE, RecordSettings

__all__ = ["FILES", "MASKED", "MAX_SIZE", "Record", "RecordError", "RecordSettings", "Recorder"]
