"""Texts that many sessions have in common, each kept once in memory that several processes share.

There are no locks. A text is found by its hash, which is keyed: it says where the text is, and whether what is there
is that text whole. So what is half written, or written by two processes at once, is not there at all; a process may
die at any moment, and nobody waits for anybody. Slots are reused once no session can name their text any more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

_WAYS: Final = 8
"""Slots among which a text's place is."""
_ROWS: Final = 512
CAPACITY: Final = _WAYS * _ROWS
"""Texts at most."""
_HEAD: Final = 3
"""Words of a slot before the text: its hash, the second in which it was last named, and its length."""
_SLOT: Final = 512
"""Words of a slot: one page of memory, which costs nothing before a text comes to it."""
WORDS: Final = CAPACITY * _SLOT
LONGEST: Final = 8 * (_SLOT - _HEAD)
"""Bytes of the longest text that is kept."""

Write = tuple[int, int]
"""The index of a word, and its value."""


class TextStore:
    """A view of the memory that begins at word *start*; *keep* is for how many seconds a text may be named."""

    def __init__(self, memory: memoryview, start: int, key: bytes, keep: float) -> None:
        self._words = memory.cast("Q")
        self._bytes = memory
        self._start = start
        self._digest = blake2b(key=key, digest_size=8, person=b"settings")
        self._keep = keep

    def name(self, text: bytes) -> int:
        """The number that identifies the text; never 0."""
        digest = self._digest.copy()
        digest.update(text)
        return int.from_bytes(digest.digest(), "little") or 1

    def writes(self, name: int, text: bytes, now: int) -> list[Write] | None:
        """What has to be written, and in which order, so that the text is there; None where there is no room for it."""
        if len(text) > LONGEST:
            return None
        words, free, oldest = self._words, None, now - int(self._keep)
        for slot in self._slots(name):
            if words[slot] == name:
                if self._text_at(slot) == text:
                    return [(slot + 1, now)]
                free = slot  # torn: by two writers, or by one that died
                break
            used = words[slot + 1] if words[slot] else 0
            if (free is None and not used) or used < oldest:
                free, oldest = slot, used
        if free is None:
            return None
        padded = text.ljust(-(-len(text) // 8) * 8, b"\0")
        content = struct.unpack(f"={len(padded) // 8}Q", padded)
        # Not found while it is written; nobody looks for a text whose name is 0.
        return [(free, 0), (free + 1, now), (free + 2, len(text)), *enumerate(content, free + _HEAD), (free, name)]

    def find(self, name: int) -> bytes | None:
        """The text of this name, if it is there whole."""
        for slot in self._slots(name):
            if self._words[slot] == name:
                text = self._text_at(slot)
                if text is not None and self.name(text) == name:
                    return text
        return None

    def _slots(self, name: int) -> Iterator[int]:
        row = self._start + name % _ROWS * _WAYS * _SLOT
        return iter(range(row, row + _WAYS * _SLOT, _SLOT))

    def _text_at(self, slot: int) -> bytes | None:
        length = self._words[slot + 2]
        at = 8 * (slot + _HEAD)
        return bytes(self._bytes[at : at + length]) if length <= LONGEST else None
