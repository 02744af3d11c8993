"""What of the hooks is written down, and where."""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.recording.pseudonyms import Key

MAX_SIZE: Final = 64 * 2**20
"""Bytes of one file, unless configured."""
FILES: Final = 8
"""How many files there are, unless configured."""
MASKED: Final = ("caller", "callee")
"""The fields that are written as pseudonyms, unless configured."""
THIS_RUN: Final = Key()
"""A new one with every start, in memory only. It is sent with the configuration: all workers have the supervisor's."""


class RecordSettings(NamedTuple):
    """What is written down, and where."""

    path: str
    """The current file; older ones are ``path.1``, ``path.2`` … beside it, the highest number is the newest."""
    sample: float = 1.0
    """The share of sessions, above 0 and at most 1: of a session, all hooks are written or none."""
    failures_only: bool = False
    """Only hooks that no backend, rule or static verdict decided."""
    max_size: int = MAX_SIZE
    """Bytes that a file grows to, at most."""
    files: int = FILES
    """Maximum number of full files, the current one included; at least 1."""
    mask: tuple[str, ...] = MASKED
    """Names of fields whose values are written as pseudonyms, at any depth, in any case."""
    key: Key = THIS_RUN
    """What the pseudonyms are made with."""
