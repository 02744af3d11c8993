"""What each session's answer to connect said of refusals, remembered by all workers together.

The connect may reach one worker and the call another, and a worker may die in between: so it is one table of fixed size
in memory that the supervisor keeps and every worker has mapped. There are no locks. An entry is three words of eight
bytes; its first one is the session's key, changed by the second: an entry that is half written, or written by two at
once, is nobody's, and its session merely not known (the lockless hash table of Hyatt and Mann, "A lock-less
transposition-table implementation for parallel search", ICGA Journal 25:1, 2002).
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Collection
from hashlib import blake2b
from typing import Final
from zlib import crc32

from gateway.hooks import CATALOGUE, Hook, MethodType, own_session, text_of

KEEP: Final = 24 * 3600.0
"""Seconds for which a session is remembered; a new connect begins them anew. Nothing need be forgotten sooner: a
session that is over sends no more hooks, and whoever takes its id after it begins with a connect."""
_ROW: Final = 8
"""Entries among which a session's place is; the oldest of them makes room."""
_ROWS: Final = 32 * 1024
CAPACITY: Final = _ROW * _ROWS
"""Sessions at most; with 100,000 of them one in 500 has had to make room."""
_WORDS: Final = 3
"""Of an entry: the key exclusive-or the bits, the methods' bits, and the second in which it was made; 0 = free."""
_HEAD: Final = 8
"""Words before the first row; the first two are the key of the hash, drawn when the memory is made."""
_KEY: Final = 16
MEMORY: Final = 8 * (_HEAD + CAPACITY * _WORDS)
"""Bytes; pages that no session has come to cost nothing."""
_BITS: Final = {
    method: 1 << bit
    for bit, method in enumerate(
        sorted(method for method, kind in CATALOGUE.items() if kind in {MethodType.DIRECT, MethodType.INCOMING})
    )
}
"""Of the methods that the catalogue knows and that can be stopped. Every worker counts them alike."""
_OTHERS: Final = 64 - len(_BITS)
"""Bits that all other methods share by their names' checksums, so that a reload need not tell anybody of new ones."""


class Sessions:
    """The table. Without *fd* it is this process's alone; with ``shared_memory()``'s it is everybody's who has that."""

    def __init__(self, fd: int = -1, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock  # monotonic: on Linux all processes have the same one
        memory = mmap.mmap(fd, MEMORY)
        if fd < 0:
            memory[:_KEY] = os.urandom(_KEY)
        # The key goes in once; a copy has it in already.
        self._digest = blake2b(key=memory[:_KEY], digest_size=8)
        self._words = memoryview(memory).cast("Q")

    def __repr__(self) -> str:
        return f"<Sessions {self.count()} of {CAPACITY}>"

    def count(self) -> int:
        """Sessions that are remembered: counted one by one, for tests and people."""
        oldest = int(self._clock() - KEEP)
        return sum(1 for made in self._words[_HEAD + 2 :: _WORDS] if made and made > oldest)

    def remember(self, session: str | None, failing: Collection[str]) -> None:
        """The session's refusals stop something for the *failing* methods, and for no others."""
        if session is None:
            return
        key, row = self._place(session)
        words, now = self._words, int(self._clock()) + 1
        at, oldest = row, now + 1
        for entry in range(row, row + _ROW * _WORDS, _WORDS):
            made = words[entry + 2]
            if words[entry] ^ words[entry + 1] == key and made:
                at = entry
                break
            if made < oldest:
                at, oldest = entry, made
        bits = 0
        for method in failing:
            bits |= _bit(method)
        words[at] = key ^ bits
        words[at + 1] = bits
        words[at + 2] = now

    def stops(self, session: str | None, method: str) -> bool | None:
        """Whether the media server stops what a refusal of this method refuses; None = not known."""
        if session is None:
            return None
        key, row = self._place(session)
        words = self._words
        for entry in range(row, row + _ROW * _WORDS, _WORDS):
            bits = words[entry + 1]
            if words[entry] ^ bits == key:
                made = words[entry + 2]
                return bits & _bit(method) != 0 if made and made > self._clock() - KEEP else None
        return None

    def _place(self, session: str) -> tuple[int, int]:
        """The session's key, and the index of its row's first word."""
        digest = self._digest.copy()
        digest.update(session.encode("utf-8", "surrogatepass"))
        key = int.from_bytes(digest.digest(), "little")
        return key, _HEAD + key % _ROWS * (_ROW * _WORDS)


def shared_memory() -> int:
    """The descriptor of memory for ``Sessions`` of several processes: handed on to them, and closed by its maker."""
    fd = os.memfd_create("gateway-sessions")
    try:
        os.ftruncate(fd, MEMORY)
        os.pwrite(fd, os.urandom(_KEY), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def session_of(hook: Hook, method: str = "") -> str | None:
    """What tells a hook's session from all others; None where the hook names none, the empty one, or one of HLS.

    A session's id is made of addresses, which two media servers in two private networks can have in common.
    """
    session = text_of(own_session(hook, method))
    return f"{text_of(hook.node_id)} {session}" if session else None


def _bit(method: str) -> int:
    """The method's bit. Two outside the catalogue may have one in common: then FAIL of the one counts for the other."""
    bit = _BITS.get(method)
    if bit is None:
        bit = 1 << (len(_BITS) + crc32(method.encode("utf-8", "surrogatepass")) % _OTHERS)
    return bit
