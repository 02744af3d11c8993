"""The table of backlogs: what the writer counts, every reader sees; nothing looks empty that is not."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.store.backlog_table import SLOTS, START_LIMIT, BacklogTable, BacklogWriter, create_table

KEYS = st.sampled_from([bytes((number, kind)) + bytes(14) for number in range(6) for kind in (0, 0x20)])
"""Keys of which each two share a slot: the second byte's upper bits lie beyond it."""


@pytest.fixture
def fd() -> Iterator[int]:
    fd = create_table()
    yield fd
    os.close(fd)


@given(st.binary(min_size=16, max_size=16))
def test_a_key_s_slot_depends_on_its_first_bytes_alone(key: bytes) -> None:
    fd = create_table()
    try:
        table = BacklogTable(fd)
        assert 0 <= table.slot(key) < SLOTS
        assert table.slot(key) == table.slot(key[:4] + bytes(12))
    finally:
        os.close(fd)


class Table(RuleBasedStateMachine):
    """A writer and a reader with mappings of their own, beside plain counters."""

    def __init__(self) -> None:
        super().__init__()
        self.fd = create_table(slots=2**13)
        self.writer, self.reader = BacklogWriter(self.fd), BacklogTable(self.fd)
        self.writer.replace(())
        self.counts: Counter[int] = Counter()

    def teardown(self) -> None:
        os.close(self.fd)

    @rule(keys=st.lists(KEYS))
    def add(self, keys: list[bytes]) -> None:
        self.writer.add(keys)
        self.counts.update(map(self.reader.slot, keys))

    @rule(keys=st.lists(KEYS))
    def remove(self, keys: list[bytes]) -> None:
        gone = []
        for key in keys:
            if self.counts[self.reader.slot(key)]:
                self.counts[self.reader.slot(key)] -= 1
                gone.append(key)
        self.writer.remove(gone)

    @rule(key=KEYS, change=st.integers(-3, 3))
    def another_gateway_reports(self, key: bytes, change: int) -> None:
        slot = self.reader.slot(key)
        self.writer.change({slot: change})
        self.counts[slot] = max(self.counts[slot] + change, 0)

    @rule()
    def the_database_is_read(self) -> None:
        self.writer.replace([(slot.to_bytes(4, "little"), count) for slot, count in self.counts.items()])

    @rule(counts=st.dictionaries(KEYS, st.integers(1, 5)))
    def the_database_has_changed(self, counts: dict[bytes, int]) -> None:
        self.writer.replace(counts.items())
        self.counts = Counter()
        for key, count in counts.items():
            self.counts[self.reader.slot(key)] += count

    @rule()
    def the_store_restarts(self) -> None:
        self.writer = BacklogWriter(self.fd)
        self.the_database_is_read()

    @invariant()
    def the_reader_sees_each_key_that_has_events_and_no_other(self) -> None:
        for number in range(6):
            key = bytes((number,)) + bytes(15)
            expected = self.counts[self.reader.slot(key)]
            assert self.writer.count(key) == expected
            assert self.reader.has_backlog(key) == (expected > 0)


TestTable = Table.TestCase


def test_until_the_databases_are_known_every_key_has_a_backlog(fd: int) -> None:
    table, writer = BacklogTable(fd), BacklogWriter(fd)
    key = b"k" * 16
    assert table.is_starting
    assert table.has_backlog(key)
    writer.replace([(b"j" * 16, 1)])
    assert BacklogTable(fd).is_starting is False
    assert not table.has_backlog(key)
    assert table.has_backlog(b"j" * 16)


def test_databases_that_cannot_be_opened_hold_up_no_event_that_is_not_known_to_wait(fd: int) -> None:
    table, writer = BacklogTable(fd), BacklogWriter(fd)
    writer.add([b"a" * 16])
    writer.give_up()
    assert table.has_backlog(b"a" * 16)
    assert not table.has_backlog(b"b" * 16)


def test_a_store_that_never_comes_holds_up_events_for_the_start_s_limit_alone(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = BacklogTable(fd)
    assert table.has_backlog(b"a" * 16)
    clock = time.monotonic
    monkeypatch.setattr("gateway.store.backlog_table.time.monotonic", lambda: clock() + START_LIMIT)
    assert not table.has_backlog(b"a" * 16)
    assert not BacklogTable(fd).has_backlog(b"a" * 16), "a worker that starts later does not begin the wait again"


def test_a_store_that_reads_a_large_backlog_is_waited_for(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start of twenty limits; an event of a key that is not read yet must not overtake those that wait."""
    table, writer, passed = BacklogTable(fd), BacklogWriter(fd), 0.0
    monotonic, monotonic_ns = time.monotonic, time.monotonic_ns
    monkeypatch.setattr("gateway.store.backlog_table.time.monotonic", lambda: monotonic() + passed)
    monkeypatch.setattr("gateway.store.backlog_table.time.monotonic_ns", lambda: monotonic_ns() + int(passed * 1e9))

    def keys() -> Iterator[tuple[bytes, int]]:
        nonlocal passed
        for number in range(40 * 4096):
            if number % 4096 == 4095:
                passed += START_LIMIT / 2
                assert table.has_backlog(b"later" * 4), passed
            yield number.to_bytes(4, "little") * 4, 1

    writer.replace(keys())
    assert not table.is_starting
    assert not table.has_backlog(b"later" * 4)


def test_the_worker_on_duty_outlives_the_store(fd: int) -> None:
    BacklogWriter(fd).duty = 4711
    assert BacklogWriter(fd).duty == 4711


def test_the_writer_s_repr_says_how_much_is_used(fd: int) -> None:
    writer = BacklogWriter(fd)
    writer.add([b"a" * 16, b"a" * 16, b"b" * 16])
    assert "2 slots" in repr(writer)
