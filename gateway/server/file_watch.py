"""Reloads the configuration's file when it has changed and is complete, however it was replaced.

The file is polled, not watched through the system: that costs one ``stat`` per look, works on every file system and
through every symbolic link (Kubernetes swaps one beside the file), and other files in its directory, such as a log,
wake nobody.
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
_GRANULARITY: Final = 2.0
"""Seconds after which a later change has another time: times are as coarse as the file system."""


async def watch_file(reloader: Reloader, stop: asyncio.Event) -> None:
    """Reload the file whenever it has changed, as ``server.watch`` in force says; ends when *stop* is set.

    A text that was rejected is tried again after a while: the reason may have been a certificate, or memory.
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
    if digest is not None and digest != reloader.last_digest:
        await reloader.follow(digest)
    elif reloader.is_due:
        await reloader.retry()


class _Stamp(NamedTuple):
    """What changes whenever a file does, within the granularity of its times (nanoseconds)."""

    mtime: int
    ctime: int
    size: int
    inode: int
    device: int


class WatchedFile:
    """A file, and what the last look found."""

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        """*wall* is the clock that files are stamped by. It may jump: at worst that costs the settle time."""
        self._path = path
        self._clock = clock
        self._wall = wall
        self._last: _Stamp | None = None
        self._since = 0.0
        """When it was first seen in its present state, by *clock*."""
        self._replaces_another = False
        """Whether it replaced another file and has not changed since."""
        self._read: _Stamp | None = None

    def look(self, settle: float = 0.0) -> str | None:
        """The digest of the file's text, or the reason why it can never be read. Blocks.

        None where that cannot have changed since it was last returned, and while the file may be incomplete: it must
        have been the same for *settle* seconds, and for two looks in any case. A file that replaced another and had
        not been written to for that long before is complete: it was renamed into place.
        """
        stamp, before, now = _stamp(self._path), self._last, self._clock()
        self._last = stamp
        if stamp != before:
            self._since = now
            self._replaces_another = _replaces_another(stamp, before)
            return None
        if stamp is not None and (stamp == self._read or not self._is_complete(stamp, settle, now)):
            return None
        digest = file_digest(self._path)
        if _stamp(self._path) != stamp:
            return None
        if stamp is not None and digest is not None and self._is_past_granularity(stamp, now):
            self._read = stamp
        return digest

    def _is_complete(self, stamp: _Stamp, settle: float, now: float) -> bool:
        if now - self._since >= settle:
            return True
        return self._replaces_another and self._wall() - stamp.mtime / 1e9 > settle

    def _is_past_granularity(self, stamp: _Stamp, now: float) -> bool:
        return now - self._since > _GRANULARITY or self._wall() - max(stamp.mtime, stamp.ctime) / 1e9 > _GRANULARITY


def _replaces_another(stamp: _Stamp | None, before: _Stamp | None) -> bool:
    return stamp is not None and (before is None or (stamp.inode, stamp.device) != (before.inode, before.device))


def _stamp(path: Path) -> _Stamp | None:
    """None where there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _Stamp(status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)
