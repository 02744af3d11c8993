"""Notices that the configuration's file has changed, however it was replaced.

It is looked at instead of being watched through the system: that costs a ``stat`` per look, works on every file system
and through every symbolic link (Kubernetes swaps one beside the file), and what else is written in its directory, a
log for instance, wakes nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from gateway.config import digest_at

LOOK_EVERY: Final = 0.25
"""Seconds from one look at the file to the next."""
_SETTLED: Final = 2.0
"""Seconds after which a file's time of change tells it from a later one: times are as coarse as their file system."""
_Stamp = tuple[int, int, int, int, int]


async def changes(path: Path, seen: Callable[[], str | None], stop: asyncio.Event) -> AsyncIterator[None]:
    """Yield each time the file's text is another than the one with the digest *seen*; ends when *stop* is set."""
    watched = Watched(path)
    while not stop.is_set():
        digest = await asyncio.to_thread(watched.look)
        if digest is not None and digest != seen():
            yield
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LOOK_EVERY)


class Watched:
    """A file, and what was known of it at the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: _Stamp | None = None
        self._read: _Stamp | None = None

    def look(self) -> str | None:
        """The digest of the file's text, or why it can never be read; blocking.

        None where that cannot have changed since it was last told, and while it may be changing just now: a file that
        is written in several steps is read once it has been the same for two looks.
        """
        stamp = _stamp_of(self._path)
        before, self._last = self._last, stamp
        if stamp != before or (stamp is not None and stamp == self._read):
            return None
        digest = digest_at(self._path)
        if stamp is not None and digest is not None and time.time() - max(stamp[:2]) / 1e9 > _SETTLED:
            self._read = stamp
        return digest


def _stamp_of(path: Path) -> _Stamp | None:
    """What changes whenever the file does, but for its granularity; times in nanoseconds. None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev
