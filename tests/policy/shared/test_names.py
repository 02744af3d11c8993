"""Entries of the shared memory are found by name, the same one by every worker."""

from __future__ import annotations

from gateway.policy.shared.memory import BREAKER_NAMES, LIMIT_NAMES
from gateway.policy.shared.names import is_known, leave_entry, take_entry
from tests.policy.shared.workers import Workers


def test_every_worker_finds_the_same_entry_and_each_kind_has_its_own() -> None:
    with Workers(2) as running:
        one, other = running.memories
        entry = take_entry(one, LIMIT_NAMES, "app a")
        assert entry is not None
        assert take_entry(other, LIMIT_NAMES, "app a") == entry
        assert take_entry(one, LIMIT_NAMES, "app b") != entry
        assert not is_known(one, BREAKER_NAMES, "app a")


def test_a_name_is_known_for_as_long_as_a_worker_uses_it() -> None:
    with Workers(2) as running:
        one, other = running.memories
        assert not is_known(one, LIMIT_NAMES, "app a")
        entry = take_entry(one, LIMIT_NAMES, "app a")
        assert entry is not None
        assert take_entry(other, LIMIT_NAMES, "app a") == entry
        leave_entry(one, LIMIT_NAMES, entry)
        assert is_known(one, LIMIT_NAMES, "app a")
        leave_entry(other, LIMIT_NAMES, entry)
        assert not is_known(one, LIMIT_NAMES, "app a")


def test_an_entry_that_nobody_uses_is_taken_again_and_begins_empty() -> None:
    with Workers(1) as running:
        (memory,) = running.memories
        entry = take_entry(memory, LIMIT_NAMES, "app a")
        assert entry is not None
        at = LIMIT_NAMES.entries + entry * LIMIT_NAMES.words
        memory.words[at + 1] = 42
        leave_entry(memory, LIMIT_NAMES, entry)
        assert take_entry(memory, LIMIT_NAMES, "app a") == entry
        assert memory.words[at + 1] == 0
