"""The gateways of a fleet side by side, and who of them is behind. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import msgspec


class Replica(msgspec.Struct, kw_only=True):
    """One gateway, as ``GET /api/fleet`` shows it. Points in time are Unix times."""

    id: str
    """Of its process: another one after a restart."""
    name: str
    here: bool = False
    """Whether it is the gateway that was asked."""
    version: str
    revision: str
    admin: str
    since: float
    phase: str
    drained: bool
    store: bool | None
    """Whether its store takes events; None where none is configured, or where it does not answer."""
    state: bool | None
    """Whether it reaches the shared state; None where it does not answer."""
    reloaded: float = 0.0
    """When a reload last changed its configuration; 0: none has since its start."""
    behind: list[str] = []
    """What is older than elsewhere: ``version``, ``revision``."""
    error: str | None = None
    """Why it gives no answer."""
    lost: float | None = None
    """Since when it has shown no sign of life."""


def newest_revision(replicas: Sequence[Replica]) -> str | None:
    """The configuration that the others should have; None without replicas.

    That of the last reload: a gateway that starts with an old file does not make it new. Without any reload, the one
    that most have, and of several the one of the gateway that has started last.
    """
    reloaded = max(replicas, key=lambda replica: replica.reloaded, default=None)
    if reloaded is None or reloaded.reloaded:
        return None if reloaded is None else reloaded.revision
    counts = Counter(replica.revision for replica in replicas)
    return max(replicas, key=lambda replica: (counts[replica.revision], replica.since)).revision


def mark_behind(replicas: Sequence[Replica]) -> None:
    """Say of each gateway what is older than elsewhere; those that are lost count for nothing."""
    living = [replica for replica in replicas if replica.lost is None]
    revision = newest_revision(living)
    version = max((_version_key(replica.version) for replica in living), default=())
    for replica in living:
        older = {"version": _version_key(replica.version) < version, "revision": replica.revision != revision}
        replica.behind = [name for name, is_older in older.items() if is_older]


def _version_key(version: str) -> tuple[tuple[int, str], ...]:
    """Sorts 1.10 after 1.9, and 1.0 after 1.0rc1."""
    parts = re.findall(r"[0-9]+|[a-z]+", version.lower().partition("+")[0])
    return *((int(part), "") if part.isdigit() else (-1, part) for part in parts), (0, "")
