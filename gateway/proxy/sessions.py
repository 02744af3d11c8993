"""What each session's answer to connect set, remembered by all workers together.

The connect may reach one worker and the call another, and a worker may die in between: so it is one table of fixed size
in memory that the supervisor keeps and every worker has mapped. There are no locks. An entry is four words of eight
bytes; its first one is the session's key, changed by the next two: an entry that is half written, or written by two at
once, is nobody's, and its session merely not known (the lockless hash table of Hyatt and Mann, "A lock-less
transposition-table implementation for parallel search", ICGA Journal 25:1, 2002).

Whether a refusal stops something is a bit of the entry itself. All else is alike in most sessions: it is kept once,
behind the table (settingstore), and the entry names it.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Collection
from hashlib import blake2b
from typing import Final
from zlib import crc32

import msgspec

from gateway.model.hooks import CATALOGUE, Hook, MethodType, field_text, own_session
from gateway.policy.rest_client_config import MethodSettings, SessionSettings, pack_settings, unpack_settings
from gateway.policy.settings_store import CAPACITY as MOST_SETTINGS
from gateway.policy.settings_store import WORDS as STORE_WORDS
from gateway.policy.settings_store import TextStore, Write

KEEP: Final = 24 * 3600.0
"""Seconds for which a session is remembered; a new connect begins them anew. Nothing need be forgotten sooner: a
session that is over sends no more hooks, and whoever takes its id after it begins with a connect."""
_ROW: Final = 8
"""Entries among which a session's place is; the oldest of them makes room."""
_ROWS: Final = 32 * 1024
CAPACITY: Final = _ROW * _ROWS
"""Sessions at most; with 100,000 of them one in 500 has had to make room."""
_WORDS: Final = 4
"""Of an entry: the key exclusive-or the next two, the methods' bits, the name of all else that was set (0 = it is not
kept), and the second in which the entry was made; 0 = free."""
_HEAD: Final = 8
"""Words before the first row; the first two are the key of the hash, drawn when the memory is made."""
_KEY: Final = 16
_PAGE: Final = 512
"""Words."""
_STORE: Final = -(-(_HEAD + CAPACITY * _WORDS) // _PAGE) * _PAGE
"""The first word of what sessions have in common."""
MEMORY: Final = 8 * (_STORE + STORE_WORDS)
"""Bytes; pages that nothing has come to cost nothing."""
_BITS: Final = {
    method: 1 << bit
    for bit, method in enumerate(
        sorted(method for method, kind in CATALOGUE.items() if kind in {MethodType.DIRECT, MethodType.INCOMING})
    )
}
"""Of the methods that the catalogue knows and that can be stopped. Every worker counts them alike."""
_NOTHING_SET: Final = MethodSettings()
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
        key = memory[:_KEY]
        self._digest = blake2b(key=key, digest_size=8)
        self._words = memoryview(memory).cast("Q")
        self._store = TextStore(memoryview(memory), _STORE, key, KEEP)
        self._settings: dict[int, SessionSettings] = {}
        """Those that this process has looked at, by their names."""
        self.on_settings_dropped: Callable[[], None] = _do_nothing
        """Called where a session's settings find no room."""

    def __repr__(self) -> str:
        return f"<Sessions {self.count()} of {CAPACITY}>"

    def count(self) -> int:
        """Sessions that are remembered: counted one by one, for tests and people."""
        oldest = int(self._clock() - KEEP)
        return sum(1 for made in self._words[_HEAD + 3 : _STORE : _WORDS] if made and made > oldest)

    def remember(self, session: str | None, failing: Collection[str], settings: SessionSettings | None = None) -> None:
        """The session's refusals stop something for the *failing* methods, and for no others.

        *settings* are all that was set for it; None = not known.
        """
        if session is not None:
            words = self._words
            for at, value in self.writes(session, failing, settings):
                words[at] = value

    def writes(self, session: str, failing: Collection[str], settings: SessionSettings | None = None) -> list[Write]:
        """What ``remember`` writes, word by word."""
        key, row = self._locate(session)
        words, now = self._words, int(self._clock()) + 1
        at, oldest = row, now + 1
        for entry in range(row, row + _ROW * _WORDS, _WORDS):
            made = words[entry + 3]
            if words[entry] ^ words[entry + 1] ^ words[entry + 2] == key and made:
                at = entry
                break
            if made < oldest:
                at, oldest = entry, made
        bits = 0
        for method in failing:
            bits |= _method_bit(method)
        name, writes = self._store_settings(settings, now)
        return [*writes, (at, key ^ bits ^ name), (at + 1, bits), (at + 2, name), (at + 3, now)]

    def stops(self, session: str | None, method: str) -> bool | None:
        """Whether the media server stops what a refusal of this method refuses; None = not known."""
        found = self._look_up(session)
        return None if found is None else found[0] & _method_bit(method) != 0

    def settings(self, session: str | None, method: str) -> MethodSettings | None:
        """What the session's answer to connect set for this method; None = not known."""
        found = self._look_up(session)
        if found is None or not (name := found[1]):
            return None
        settings = self._settings.get(name)
        if settings is None:
            text = self._store.find(name)
            if text is None:
                return None
            try:
                settings = unpack_settings(text)
            except msgspec.MsgspecError:  # of another release, whose worker is about to end
                return None
            self._cache_settings(name, settings)
        return settings.get(method, _NOTHING_SET)

    def _store_settings(self, settings: SessionSettings | None, now: int) -> tuple[int, list[Write]]:
        """The name of the settings, and what has to be written so that everybody can look them up by it."""
        if settings is None:
            return 0, []
        text = pack_settings(settings)
        name = self._store.name(text)
        writes = self._store.writes(name, text, now)
        if writes is None:
            self.on_settings_dropped()
            return 0, []
        self._cache_settings(name, settings)
        return name, writes

    def _cache_settings(self, name: int, settings: SessionSettings) -> None:
        if len(self._settings) >= MOST_SETTINGS:
            self._settings.clear()
        self._settings[name] = settings

    def _look_up(self, session: str | None) -> tuple[int, int] | None:
        """The session's bits and the name of all else; None where there is no entry, or it is too old."""
        if session is None:
            return None
        key, row = self._locate(session)
        words = self._words
        for entry in range(row, row + _ROW * _WORDS, _WORDS):
            bits, name = words[entry + 1], words[entry + 2]  # each read once: they may change at any moment
            if words[entry] ^ bits ^ name == key:
                made = words[entry + 3]
                return (bits, name) if made and made > self._clock() - KEEP else None
        return None

    def _locate(self, session: str) -> tuple[int, int]:
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


def session_key(hook: Hook, method: str = "") -> str | None:
    """What tells a hook's session from all others; None where the hook names none, the empty one, or one of HLS.

    A session's id is made of addresses, which two media servers in two private networks can have in common.
    """
    session = field_text(own_session(hook, method))
    return f"{field_text(hook.node_id)} {session}" if session else None


def _method_bit(method: str) -> int:
    """The method's bit. Two outside the catalogue may have one in common: then FAIL of the one counts for the other."""
    bit = _BITS.get(method)
    if bit is None:
        bit = 1 << (len(_BITS) + crc32(method.encode("utf-8", "surrogatepass")) % _OTHERS)
    return bit


def _do_nothing() -> None:
    """Nobody counts."""
