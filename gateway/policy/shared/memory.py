"""The memory that workers share: where what lies in it, who of them lives, and locks that nobody waits for.

Each worker has a slot, and a number that changes with every process in it: what a dead one has left behind is known by
that. A worker that lives says so several times a second; one that has been silent for a second counts as lost, be it
dead, stopped or held up, until it speaks again.

Locks are POSIX record locks on bytes of the file: held by a process, released by the kernel when it ends. They are
held for microseconds. Who does not get one after a few tries (its owner was stopped in just that moment) goes on alone.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from typing import Final, NamedTuple

MAX_WORKERS: Final = 256
SILENCE_LIMIT: Final = 1.0
"""Seconds without a sign of life after which a worker counts as lost."""
BEAT_EVERY: Final = 0.2
"""Seconds between two signs of life."""

ROWS: Final = 4096
ROW: Final = 8
"""Entries per row of claims; in each row the oldest is replaced."""
CLAIM_WORDS: Final = 6
LIMITS: Final = 32 * 1024
"""Apps with a limit, at once."""
LIMIT_WORDS: Final = 4
BREAKERS: Final = 8 * 1024
"""Targets, at once."""
BREAKER_WORDS: Final = 64
ARENA: Final = 8 * 1024 * 1024
"""Bytes of each worker's latest answers that are not the hook itself."""

KEY: Final = 16
"""Bytes of the key with which names and hooks are hashed, drawn when the memory is made."""
_HASHES_ALIKE: Final = 2
"""Word that says whether Python's own hash has the same key in every worker."""
_MEMBERS: Final = 64
_MEMBER_WORDS: Final = 8
_CLAIMS: Final = _MEMBERS + MAX_WORKERS * _MEMBER_WORDS
_LIMITS: Final = _CLAIMS + ROWS * ROW * CLAIM_WORDS
_BREAKERS: Final = _LIMITS + LIMITS * LIMIT_WORDS
_REGIONS: Final = _BREAKERS + BREAKERS * BREAKER_WORDS
_OWN_LIMITS: Final = 0
_OWN_BREAKERS: Final = _OWN_LIMITS + LIMITS
_OWN_CONNECTIONS: Final = _OWN_BREAKERS + BREAKERS
_OWN_WAITING: Final = _OWN_CONNECTIONS + BREAKERS
_OWN_HOLDS: Final = _OWN_WAITING + BREAKERS
_OWN_ARENA: Final = _OWN_HOLDS + (LIMITS + BREAKERS) // 8
_REGION_WORDS: Final = _OWN_ARENA + ARENA // 8

_TRIES: Final = 12
_NAP: Final = 0.0001
"""Seconds between two tries for a lock, after the first ones: about a millisecond is spent in all."""
_LOCK: Final = fcntl.LOCK_EX | fcntl.LOCK_NB
_UNLOCK: Final = fcntl.LOCK_UN

LOCK_OF_CLAIMS: Final = 0
"""A byte for every row."""
LOCK_OF_LIMITS: Final = LOCK_OF_CLAIMS + ROWS
"""A byte for every app, and one for the names."""
LOCK_OF_BREAKERS: Final = LOCK_OF_LIMITS + LIMITS + 1
"""A byte for every target, and one for the names."""


class Names(NamedTuple):
    """Where the entries of one kind lie, which are found by a name's hash."""

    entries: int
    words: int
    """Of an entry; the first is its key."""
    capacity: int
    holds: int
    """Byte of a region at which the worker's marks of the entries that it uses begin."""
    lock: int


LIMIT_NAMES: Final = Names(_LIMITS, LIMIT_WORDS, LIMITS, _OWN_HOLDS * 8, LOCK_OF_LIMITS)
BREAKER_NAMES: Final = Names(_BREAKERS, BREAKER_WORDS, BREAKERS, _OWN_HOLDS * 8 + LIMITS, LOCK_OF_BREAKERS)


def create_memory(workers: int) -> int:
    """Create the memory for this many workers and return its descriptor, which the creator keeps open.

    Pages that nobody has come to cost nothing.
    """
    fd = os.memfd_create("gateway-shared")
    try:
        os.ftruncate(fd, 8 * (_REGIONS + workers * _REGION_WORDS))
        os.pwrite(fd, os.urandom(KEY), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Memory:
    """The memory as one process has it mapped. *slot*: the worker's; none for the supervisor."""

    def __init__(self, fd: int, workers: int, slot: int = 0) -> None:
        self.workers = workers
        self.slot = slot
        self.bytes = mmap.mmap(fd, 8 * (_REGIONS + workers * _REGION_WORDS))
        self.words = memoryview(self.bytes).cast("Q")
        self.floats = memoryview(self.bytes).cast("d")
        self.key = self.bytes[:KEY]
        self._fd = fd
        self._beat = self._member(slot) + 1
        self.owner = (slot << 16 | self.words[self._member(slot)] & 0xFFFF) + 1
        """The worker's number in this process of its: never 0."""

    def __repr__(self) -> str:
        alive = [slot for slot in range(self.workers) if self.is_alive(self._owner(slot))]
        return f"<Memory of {self.workers} workers, slot {self.slot}, alive {alive}>"

    # --- who lives ---

    def beat(self) -> None:
        """Say that this worker lives."""
        self.words[self._beat] = time.monotonic_ns()

    def is_alive(self, owner: int) -> bool:
        """Whether the process with this number has recently given a sign of life."""
        slot = self.owner_slot(owner)
        if slot >= self.workers or self._owner(slot) != owner:
            return False
        return time.monotonic_ns() - self.words[self._member(slot) + 1] < SILENCE_LIMIT * 1e9

    def is_alive_at(self, slot: int) -> bool:
        """Whether a process in this slot has recently given a sign of life."""
        return self.is_alive(self._owner(slot))

    def owner_slot(self, owner: int) -> int:
        """The slot of the process with this number."""
        return owner - 1 >> 16

    def vacate(self, slot: int) -> None:
        """The slot's process has ended: nothing that it counted or held counts any more. For the supervisor."""
        member, region = self._member(slot), self.region(slot)
        self.words[member] += 1
        self.words[member + 1] = 0
        self.words[self.clients(slot)] = 0
        self.bytes[8 * region : 8 * (region + _OWN_ARENA)] = bytes(8 * _OWN_ARENA)

    def _owner(self, slot: int) -> int:
        return (slot << 16 | self.words[self._member(slot)] & 0xFFFF) + 1

    def _member(self, slot: int) -> int:
        return _MEMBERS + slot * _MEMBER_WORDS

    # --- where things lie ---

    @property
    def hashes_alike(self) -> bool:
        """Whether Python's own hash is the same in every worker, with a key that nobody else knows."""
        return self.words[_HASHES_ALIKE] == 1

    def note_hashes_alike(self) -> None:
        """Every worker is started with the same seed. For the supervisor, before the first one."""
        self.words[_HASHES_ALIKE] = 1

    def region(self, slot: int) -> int:
        """The first word of what the worker in this slot alone writes."""
        return _REGIONS + slot * _REGION_WORDS

    def claims(self, row: int) -> int:
        """The first word of a row of claims."""
        return _CLAIMS + row * ROW * CLAIM_WORDS

    def counts(self, entry: int) -> slice:
        """The words in which the workers count an app's hooks, each its own."""
        return self._each(_OWN_LIMITS + entry)

    def successes(self, entry: int) -> slice:
        """The words in which the workers say when a target answered last, each its own."""
        return self._each(_OWN_BREAKERS + entry)

    def connections(self, entry: int) -> slice:
        """The words in which the workers count their connections to a target, each its own."""
        return self._each(_OWN_CONNECTIONS + entry)

    def waiting(self, entry: int) -> slice:
        """The words in which the workers count the hooks that wait for such a connection, each its own."""
        return self._each(_OWN_WAITING + entry)

    def _each(self, word: int) -> slice:
        """This word of every region."""
        return slice(_REGIONS + word, _REGIONS + word + self.workers * _REGION_WORDS, _REGION_WORDS)

    def own(self, words: slice) -> int:
        """This worker's own of such words."""
        return int(words.start) + self.slot * _REGION_WORDS

    def clients(self, slot: int) -> int:
        """The word in which the worker of this slot says how many client connections it has; 0 = it accepts nothing."""
        return self._member(slot) + 3

    def arena_head(self, slot: int) -> int:
        """The word that counts the bytes ever written into the worker's arena; it outlives the process."""
        return self._member(slot) + 2

    def arena(self, slot: int) -> int:
        """The first byte of the worker's arena."""
        return 8 * (self.region(slot) + _OWN_ARENA)

    def held(self, names: Names, entry: int) -> slice:
        """The bytes in which the workers mark that they use this entry, each its own."""
        first = 8 * _REGIONS + names.holds + entry
        return slice(first, first + 8 * self.workers * _REGION_WORDS, 8 * _REGION_WORDS)

    # --- locks ---

    def lock(self, at: int) -> bool:
        """Take the lock of this byte; False where another process has held it for about a millisecond."""
        for number in range(_TRIES):
            try:
                fcntl.lockf(self._fd, _LOCK, 1, at)
            except OSError:
                if number < 2:
                    os.sched_yield()
                else:
                    time.sleep(_NAP)
            else:
                return True
        return False

    def unlock(self, at: int) -> None:
        """Give the lock of this byte back."""
        try:  # noqa: SIM105 (three times as fast)
            fcntl.lockf(self._fd, _UNLOCK, 1, at)
        except OSError:  # it goes with the process at the latest
            pass
