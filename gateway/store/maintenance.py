"""What an operator does with a store: check, prune, backup, restore, moving a damaged file aside.

Each function opens the store itself, by its URL, so that it works while no gateway runs; all but ``restore`` and
``move_aside`` also work beside one that runs. All raise StoreError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gateway.store.engine import Part


class PartCheck(msgspec.Struct, frozen=True):
    """How one of the two databases is."""

    part: str
    """``spool`` or ``history``."""
    place: str
    """The file, or the server without its password."""
    problems: list[str]
    """What is wrong, in plain words; empty where nothing is."""
    size: int
    """Bytes."""
    rows: int | None
    """Kept events, or decisions; None where they cannot be counted."""
    oldest: float | None
    """Unix time of the oldest one."""
    schema: int | None
    """Version of the tables; None where there are none yet."""


class StoreCheck(msgspec.Struct, frozen=True):
    """How a store is."""

    engine: str
    parts: list[PartCheck]
    is_held: bool
    """Whether a gateway that runs owns it (SQLite)."""

    @property
    def is_sound(self) -> bool:
        """Whether no problem was found."""
        return not any(part.problems for part in self.parts)


class Pruned(msgspec.Struct, frozen=True):
    """What ``prune`` removed."""

    events: int
    bytes: int
    """That the files have become smaller."""
    is_spool_left_out: bool
    """Whether the spool was left to the gateway that runs; it drops what is too old by itself."""


class BackupReport(msgspec.Struct, frozen=True):
    """A backup that was written or restored."""

    file: str
    bytes: int
    time: float
    """Unix time at which it was made."""
    events: int
    decisions: int
    moved: list[str] = []
    """Restore: where the files that were there before are now."""


@contextmanager
def hold(url: str) -> Iterator[None]:
    """Own the store until the end of the block. StoreError where another process does. Nothing on PostgreSQL, which
    several gateways share."""
    yield


def check(url: str) -> StoreCheck:
    """Read everything and say what is wrong. Long for large databases; harms nothing, also beside a gateway."""
    raise NotImplementedError


def prune(url: str, apps: frozenset[str]) -> Pruned:
    """Drop events of these configured apps that are too old, and give free room back to the file system."""
    raise NotImplementedError


def backup(url: str, file: Path) -> BackupReport:
    """Copy both databases, each in one state, into one file (a tar with a list of checksums), beside a gateway.

    SQLite only; for PostgreSQL the StoreError says to use pg_dump.
    """
    raise NotImplementedError


def restore(url: str, file: Path) -> BackupReport:
    """Put a backup in the place of both databases, once it has been verified. The old files are kept beside them.

    Refused while a gateway owns the store. Events that were delivered since the backup are delivered again.
    """
    raise NotImplementedError


def move_aside(url: str, part: Part) -> list[str]:
    """Rename a damaged SQLite file, and what belongs to it, to ``….damaged-<time>``; the next start makes a new one.

    Refused while a gateway owns the store. Returns the new names.
    """
    raise NotImplementedError
