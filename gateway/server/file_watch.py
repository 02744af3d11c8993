"""Reloads the configuration's file by itself when it has changed, however it was replaced, and is whole.

It is looked at instead of being watched through the system: that costs a ``stat`` per look, works on every file system
and through every symbolic link (Kubernetes swaps one beside the file), and what else is written in its directory, a
log for instance, wakes nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from gateway.admin.reload import Reloader
from gateway.config import file_digest
from gateway.model.keep_going import KeepGoing

LOOK_EVERY: Final = 0.25
"""Seconds from one look at the file to the next."""
_GRAIN: Final = 2.0
"""Seconds after which a file's time of change tells it from a later one: times are as coarse as their file system."""


async def watch_file(reloader: Reloader, stop: asyncio.Event) -> None:
    """Reload the file whenever it has changed, as ``server.watch`` in force says; ends when *stop* is set.

    A text that was not taken is tried again after a while: what was wrong may have been a certificate, or memory.
    """
    watched = WatchedFile(reloader.loaded.path)
    keep_going = KeepGoing("the watch of the configuration's file")
    while not stop.is_set():
        with keep_going:
            await _look(watched, reloader)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LOOK_EVERY)


async def _look(watched: WatchedFile, reloader: Reloader) -> None:
    settings = reloader.loaded.config.server.watch
    if settings is None:
        return
    digest = await asyncio.to_thread(watched.look, settings.settle)
    if digest is not None and digest != reloader.tried:
        await reloader.follow(digest)
    elif reloader.is_due:
        await reloader.try_again()


class _Stamp(NamedTuple):
    """What changes whenever a file does, but for its granularity; times in nanoseconds."""

    mtime: int
    ctime: int
    size: int
    inode: int
    device: int


class WatchedFile:
    """A file, and what was known of it at the last look."""

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        """*wall* tells the time that files are stamped with. It may jump: at worst that costs the settle time."""
        self._path = path
        self._clock = clock
        self._wall = wall
        self._last: _Stamp | None = None
        self._since = 0.0
        """When it was first seen as it is, by the clock."""
        self._is_another = False
        """Whether it took another file's place, and has been the same since."""
        self._read: _Stamp | None = None

    def look(self, settle: float = 0.0) -> str | None:
        """The digest of the file's text, or why it can never be read; blocking.

        None where that cannot have changed since it was last told, and while the file may not be whole yet: it must
        have been the same for *settle* seconds, and for two looks in any case. One that took the place of another, and
        had not been written to for so long before, is whole: it was renamed into place.
        """
        stamp, before, now = _stamp_of(self._path), self._last, self._clock()
        self._last = stamp
        if stamp != before:
            self._since = now
            self._is_another = _is_another(stamp, before)
            return None
        if stamp is not None and (stamp == self._read or not self._is_whole(stamp, settle, now)):
            return None
        digest = file_digest(self._path)
        if _stamp_of(self._path) != stamp:
            return None
        if stamp is not None and digest is not None and self._is_past_the_grain(stamp, now):
            self._read = stamp
        return digest

    def _is_whole(self, stamp: _Stamp, settle: float, now: float) -> bool:
        if now - self._since >= settle:
            return True
        return self._is_another and self._wall() - stamp.mtime / 1e9 > settle

    def _is_past_the_grain(self, stamp: _Stamp, now: float) -> bool:
        return now - self._since > _GRAIN or self._wall() - max(stamp.mtime, stamp.ctime) / 1e9 > _GRAIN


def _is_another(stamp: _Stamp | None, before: _Stamp | None) -> bool:
    return stamp is not None and (before is None or (stamp.inode, stamp.device) != (before.inode, before.device))


def _stamp_of(path: Path) -> _Stamp | None:
    """None where there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _Stamp(status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)
