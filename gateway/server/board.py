"""How many connections each worker has, in memory that all of them see: so that they take new ones in turn.

All workers accept on the same sockets, and the system wakes them all; the first one awake would take every connection,
and keep it. Each worker writes its own word and reads the others'. There are no locks: a word is written whole.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Final

_WORD: Final = 8
_SLACK: Final = 2
"""Connections by which one worker may have more than another and still accept."""


class Board:
    """The words of all workers: connections plus one; 0 = there is no such worker."""

    def __init__(self, fd: int, workers: int) -> None:
        self._words = memoryview(mmap.mmap(fd, workers * _WORD)).cast("Q")

    def __repr__(self) -> str:
        return f"<Board {list(self._words)}>"

    def note(self, slot: int, connections: int) -> None:
        """The worker of this slot has so many connections."""
        self._words[slot] = connections + 1

    def forget(self, slot: int) -> None:
        """The worker of this slot has ended."""
        self._words[slot] = 0

    def is_ahead(self, slot: int) -> bool:
        """Whether another worker has clearly fewer connections than that of this slot."""
        mine = self._words[slot]
        return any(word and word + _SLACK <= mine for word in self._words)

    def of(self, slot: int) -> tuple[Callable[[int], None], Callable[[], bool]]:
        """What the worker of this slot notes its connections with, and asks whether it is ahead."""
        return (lambda connections: self.note(slot, connections)), (lambda: self.is_ahead(slot))


def shared_memory(workers: int) -> int:
    """The descriptor of memory for a ``Board``: handed on to the workers, and closed by its maker."""
    fd = os.memfd_create("gateway-connections")
    try:
        os.ftruncate(fd, workers * _WORD)
    except BaseException:
        os.close(fd)
        raise
    return fd
