"""Entries of the shared memory by name: every worker finds the same one, and one that nobody uses any more is taken.

A name's place is among the few after its hash. Each worker marks which entries it uses, so that names which reloads
have removed everywhere make room.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from gateway.policy.shared.memory import Memory, Names

_PLACES: Final = 64
"""Entries among which a name's place is."""


def take_entry(memory: Memory, names: Names, name: str) -> int | None:
    """The entry of this name, marked as used by this worker; None where there is no room, or its lock is not free."""
    key = _entry_key(memory, name)
    lock = names.lock + names.capacity
    if not memory.lock(lock):
        return None
    try:
        first = key % (names.capacity - _PLACES)
        at = names.entries + first * names.words
        keys = memory.words[at : at + _PLACES * names.words : names.words].tolist()
        known = key in keys
        entry = first + keys.index(key) if known else _find_unused(memory, names, first)
        if entry is None:
            return None
        held = memory.held(names, entry)
        if not any(memory.bytes[held]):  # what it said when it was last used is nobody's any more
            at = names.entries + entry * names.words
            memory.bytes[8 * at : 8 * (at + names.words)] = bytes(8 * names.words)
            memory.words[at] = key
        memory.bytes[held.start + memory.slot * held.step] = 1
        return entry
    finally:
        memory.unlock(lock)


def is_known(memory: Memory, names: Names, name: str) -> bool:
    """Whether some worker uses an entry of this name; changes nothing."""
    key = _entry_key(memory, name)
    first = key % (names.capacity - _PLACES)
    at = names.entries + first * names.words
    keys = memory.words[at : at + _PLACES * names.words : names.words].tolist()
    return key in keys and any(memory.bytes[memory.held(names, first + keys.index(key))])


def leave_entry(memory: Memory, names: Names, entry: int) -> None:
    """This worker uses the entry no more."""
    held = memory.held(names, entry)
    memory.bytes[held.start + memory.slot * held.step] = 0


def _entry_key(memory: Memory, name: str) -> int:
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, key=memory.key).digest()
    return int.from_bytes(digest, "little") or 1


def _find_unused(memory: Memory, names: Names, first: int) -> int | None:
    entries = range(first, first + _PLACES)
    return next((entry for entry in entries if not any(memory.bytes[memory.held(names, entry)])), None)
