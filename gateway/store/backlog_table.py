"""How many undelivered events each key has: a table in memory that the store's process writes and all workers read.

A worker looks here before each attempt to deliver an event: while its key has a backlog, the event must queue behind
it, or the order within the key would be lost. The look takes no system call and no lock. The table is of fixed size:
keys that share a slot only send an event through the store needlessly.

While a gateway starts, nobody knows yet what the databases hold. Until the store's process has said so, and for at most
START_LIMIT seconds, every key counts as one with a backlog.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from array import array
from collections.abc import Iterable, Mapping
from typing import Final

SLOTS: Final = 2**21
START_LIMIT: Final = 5.0
"""Seconds after the table's creation from which on a store that has not been opened is taken for one that is down."""

_HEADER: Final = 1024
"""Words before the first slot."""
_SIZE: Final = 4 * (_HEADER + SLOTS)
_STATE: Final = 0
_DUTY: Final = 1
_CREATED: Final = 1
"""Word of 8 bytes: monotonic time in ns at which the table was made."""
_STARTING: Final = 0
_KNOWN: Final = 1
_MOST: Final = 2**32 - 1
_CHUNK: Final = 1024
"""Slots that are compared at once."""


def create_table() -> int:
    """A descriptor of memory for the table; the caller closes it. Pages that nobody has come to cost nothing."""
    fd = os.memfd_create("gateway-backlog")
    try:
        os.ftruncate(fd, _SIZE)
        os.pwrite(fd, time.monotonic_ns().to_bytes(8, "little"), 8 * _CREATED)
    except BaseException:
        os.close(fd)
        raise
    return fd


def slot_number(key: bytes) -> int:
    """The slot of a key (``policy.spooling.ordering_key``)."""
    return int.from_bytes(key[:4], "little") % SLOTS


class BacklogTable:
    """The table as those see it that decide hooks."""

    def __init__(self, fd: int) -> None:
        memory = memoryview(mmap.mmap(fd, _SIZE))
        self._words = memory.cast("I")
        self._starts_until = memory.cast("Q")[_CREATED] / 1e9 + START_LIMIT

    def has_backlog(self, key: bytes) -> bool:
        """Whether an event with this key must queue behind earlier ones."""
        return self._words[_HEADER + slot_number(key)] != 0 or self.is_starting

    @property
    def is_starting(self) -> bool:
        """Whether it is not known yet what the databases hold."""
        return self._words[_STATE] == _STARTING and time.monotonic() < self._starts_until


class BacklogWriter:
    """The table as the store's process sees it. Any of its threads may call any method.

    Own events are those of this gateway's database rows that it kept itself, or all where it is the only gateway.
    Others' are those that other gateways have kept in the same database.
    """

    def __init__(self, fd: int) -> None:
        self._words = memoryview(mmap.mmap(fd, _SIZE)).cast("I")
        self._others = _private_slots()
        self._changing = threading.Lock()

    def __repr__(self) -> str:
        used = sum(1 for count in self._words[_HEADER:] if count)
        return f"<BacklogWriter {used} slots of {SLOTS}>"

    def count(self, key: bytes) -> int:
        """Undelivered events of the key's slot, of all gateways."""
        return self._words[_HEADER + slot_number(key)]

    def add(self, keys: Iterable[bytes]) -> None:
        """One more event for each of these keys. To be called before their commit."""
        with self._changing:
            for key in keys:
                self._add_to(slot_number(key), 1)

    def remove(self, keys: Iterable[bytes]) -> None:
        """One event less for each of these keys. To be called after the commit of their deletion."""
        with self._changing:
            for key in keys:
                self._add_to(slot_number(key), -1)

    def add_others(self, slots: Mapping[int, int]) -> None:
        """Changes that other gateways report: events more (or less) by slot number."""
        with self._changing:
            for slot, change in slots.items():
                before = self._others[slot]
                self._others[slot] = after = min(max(before + change, 0), _MOST)
                self._add_to(slot, after - before)

    def replace(self, own: Iterable[tuple[bytes, int]], others: Iterable[tuple[bytes, int]] = ()) -> None:
        """Replace all counts by these, as just read from the database; from then on the backlogs are known.

        No slot that has events is 0 meanwhile. Nothing may be added or removed between that reading and this call.
        """
        fresh, fresh_others = array("I", bytes(4 * SLOTS)), array("I", bytes(4 * SLOTS))
        for counts, slots in ((own, (fresh,)), (others, (fresh, fresh_others))):
            for key, count in counts:
                number = slot_number(key)
                for array_ in slots:
                    array_[number] = min(array_[number] + count, _MOST)
        with self._changing:
            _copy(memoryview(fresh), self._words[_HEADER:])
            _copy(memoryview(fresh_others), self._others)
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

    def _add_to(self, slot: int, change: int) -> None:
        at = _HEADER + slot
        self._words[at] = min(max(self._words[at] + change, 0), _MOST)


def _private_slots() -> memoryview[int]:
    return memoryview(mmap.mmap(-1, 4 * SLOTS)).cast("I")


def _copy(source: memoryview[int], target: memoryview[int]) -> None:
    """Copy what differs: pages that stay 0 are not written."""
    for start in range(0, SLOTS, _CHUNK):
        part = slice(start, start + _CHUNK)
        if source[part] != target[part]:
            target[part] = source[part]
