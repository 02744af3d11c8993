"""How many undelivered events each key has: a table in memory that the store's process writes and all workers read.

A worker looks here before each attempt to deliver an event: while its key has a backlog, the event must queue behind
it, or the order within the key would be lost. The look takes no system call and no lock. The table is of fixed size:
keys that share a slot only send an event through the store needlessly.

While a gateway starts, nobody knows yet what the databases hold. Until the store's process has said so, every key
counts as one with a backlog; but no longer than START_LIMIT seconds, which begin again while it reads what there is.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Final

SLOTS: Final = 2**21
START_LIMIT: Final = 5.0
"""Seconds after the table's creation, or the last sign that it is being filled, from which on a store that has not been
opened is taken for one that is down."""

_HEADER: Final = 1024
"""Words before the first slot."""
_STATE: Final = 0
_DUTY: Final = 1
_PROGRESS: Final = 1
"""Word of 8 bytes: monotonic time in ns at which the table was made, or was last seen to be filled."""
_STARTING: Final = 0
_KNOWN: Final = 1
_MOST: Final = 2**32 - 1
_CHUNK: Final = 4096
"""Bytes that are compared at once, and keys that are read between two signs of progress."""


def create_table(slots: int = SLOTS) -> int:
    """A descriptor of memory for the table; the caller closes it. Pages that nobody has come to cost nothing."""
    fd = os.memfd_create("gateway-backlog")
    try:
        os.ftruncate(fd, 4 * (_HEADER + slots))
        os.pwrite(fd, time.monotonic_ns().to_bytes(8, "little"), 8 * _PROGRESS)
    except BaseException:
        os.close(fd)
        raise
    return fd


class BacklogTable:
    """The table as those see it that decide hooks."""

    def __init__(self, fd: int) -> None:
        memory = memoryview(mmap.mmap(fd, 0))
        self._words = memory.cast("I")
        self._slots = len(self._words) - _HEADER
        self._times = memory.cast("Q")

    def slot(self, key: bytes) -> int:
        """The slot of a key (``policy.spooling.ordering_key``), which other gateways' tables have too."""
        return int.from_bytes(key[:4], "little") % self._slots

    def count(self, key: bytes) -> int:
        """Undelivered events in the key's slot, of all gateways."""
        return self._words[_HEADER + self.slot(key)]

    def has_backlog(self, key: bytes) -> bool:
        """Whether an event with this key must queue behind earlier ones."""
        return self._words[_HEADER + self.slot(key)] != 0 or self.is_starting

    @property
    def is_starting(self) -> bool:
        """Whether it is not known yet what the databases hold."""
        return not self.is_known and time.monotonic() < self._times[_PROGRESS] / 1e9 + START_LIMIT

    @property
    def is_known(self) -> bool:
        """Whether the store has been opened since this gateway's start, or cannot be opened."""
        return self._words[_STATE] == _KNOWN


class BacklogWriter(BacklogTable):
    """The table as the store's process sees it. Any of its threads may call any method.

    Each count is exact: it is changed with every transaction, and replaced when a connection to the database is opened.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._memory = mmap.mmap(fd, 0)
        self._words = memoryview(self._memory).cast("I")
        self._times = memoryview(self._memory).cast("Q")
        self._changing = threading.Lock()

    def __repr__(self) -> str:
        used = sum(1 for count in self._words[_HEADER:] if count)
        return f"<BacklogWriter {used} slots of {self._slots}>"

    def add(self, keys: Iterable[bytes]) -> None:
        """One more event for each of these keys. To be called in their transaction, before its commit."""
        with self._changing:
            for key in keys:
                self._change(self._words, _HEADER + self.slot(key), 1)

    def remove(self, keys: Iterable[bytes]) -> None:
        """One event less for each of these keys. To be called after the commit of their deletion, and before the next
        reading of the database."""
        with self._changing:
            for key in keys:
                self._change(self._words, _HEADER + self.slot(key), -1)

    def change(self, slots: Mapping[int, int]) -> None:
        """Events more (or less) by slot, as other gateways that share the database report."""
        with self._changing:
            for slot, change in slots.items():
                self._change(self._words, _HEADER + slot, change)

    def replace(self, counts: Iterable[tuple[bytes, int]]) -> None:
        """Replace all counts by these, as just read from the database; from then on the backlogs are known.

        No slot that has events is 0 meanwhile. No transaction of this gateway may commit between that reading and the
        end of this call.
        """
        fresh = bytearray(4 * self._slots)
        words = memoryview(fresh).cast("I")
        self._times[_PROGRESS] = time.monotonic_ns()
        for number, (key, count) in enumerate(counts):
            self._change(words, self.slot(key), count)
            if not number % _CHUNK:
                self._times[_PROGRESS] = time.monotonic_ns()
        with self._changing:
            for start in range(0, len(fresh), _CHUNK):  # pages that stay 0 are not written
                end = min(start + _CHUNK, len(fresh))
                at = slice(4 * _HEADER + start, 4 * _HEADER + end)
                if self._memory[at] != fresh[start:end]:
                    self._memory[at] = fresh[start:end]
            self._words[_STATE] = _KNOWN

    def give_up(self) -> None:
        """The databases cannot be opened: only what the table has counts from now on."""
        self._words[_STATE] = _KNOWN

    @property
    def duty(self) -> int:
        """The pid of the worker that redelivers, 0 where none does; it outlives the store's process."""
        return self._words[_DUTY]

    @duty.setter
    def duty(self, pid: int) -> None:
        self._words[_DUTY] = pid

    @staticmethod
    def _change(words: memoryview[int], at: int, change: int) -> None:
        """Add to a count within what it can hold."""
        words[at] = min(max(words[at] + change, 0), _MOST)
