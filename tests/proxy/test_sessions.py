"""What all workers remember of the clients' sessions: a table without locks, held against a dictionary."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.model.hooks import CATALOGUE, MethodType, parse_hook
from gateway.proxy.sessions import _ROWS, CAPACITY, KEEP, MEMORY, Sessions, session_key, shared_memory

ROOT = Path(__file__).parent.parent.parent
STOPPABLE = sorted(name for name, kind in CATALOGUE.items() if kind in {MethodType.DIRECT, MethodType.INCOMING})
LIMIT = 60.0


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def memory() -> Iterator[int]:
    fd = shared_memory()
    yield fd
    os.close(fd)


def test_a_session_is_known_by_what_its_connect_answer_set() -> None:
    sessions = Sessions()
    assert sessions.stops("a", "OnCallEvent") is None
    sessions.remember("a", {"OnCallEvent", "call"})
    sessions.remember("b", ())
    assert sessions.stops("a", "OnCallEvent") is True
    assert sessions.stops("a", "call") is True
    assert sessions.stops("a", "hangup") is False
    assert sessions.stops("b", "OnCallEvent") is False
    assert sessions.stops("c", "OnCallEvent") is None
    assert sessions.count() == 2


def test_a_new_connect_replaces_what_was_known() -> None:
    sessions = Sessions()
    sessions.remember("a", {"OnCallEvent"})
    sessions.remember("a", {"call"})
    assert (sessions.stops("a", "OnCallEvent"), sessions.stops("a", "call")) == (False, True)
    assert sessions.count() == 1


def test_a_session_is_forgotten_after_a_day() -> None:
    clock = Clock(50.5)
    sessions = Sessions(clock=clock)
    sessions.remember("a", {"call"})
    clock.now += KEEP - 1
    assert sessions.stops("a", "call") is True
    sessions.remember("b", {"call"})
    clock.now += 3
    assert sessions.stops("a", "call") is None
    assert sessions.stops("b", "call") is True
    assert sessions.count() == 1


def test_a_hook_without_a_session_is_not_known_and_changes_nothing() -> None:
    sessions = Sessions()
    sessions.remember(None, {"call"})
    assert sessions.stops(None, "call") is None
    assert sessions.count() == 0


def test_every_method_that_can_be_stopped_has_a_bit_of_its_own() -> None:
    sessions = Sessions()
    for method in STOPPABLE:
        sessions.remember("a", {method})
        assert [name for name in STOPPABLE if sessions.stops("a", name)] == [method]


def test_a_method_outside_the_catalogue_counts_too_and_never_for_one_of_the_catalogue() -> None:
    sessions = Sessions()
    for method in ("myMethod", "OnSomething", "\u00e9", "\ud800", ""):
        sessions.remember("a", {method})
        assert sessions.stops("a", method) is True
        assert not any(sessions.stops("a", name) for name in STOPPABLE)


def test_the_table_never_grows_and_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    part = 8 if settings.get_current_profile_name() == "dev" else 1  # of its rows: to fill all takes seconds
    monkeypatch.setattr("gateway.proxy.sessions._ROWS", _ROWS // part)
    capacity = CAPACITY // part
    clock = Clock()
    sessions = Sessions(clock=clock)
    for number in range(capacity + capacity // 4):
        clock.now = number / 1000
        sessions.remember(f"session {number}", {"call"} if number % 2 else ())
    assert capacity * 0.9 < sessions.count() <= capacity
    last = [sessions.stops(f"session {number}", "call") for number in range(capacity, capacity + capacity // 4)]
    wrong = [place for place, stops in enumerate(last) if stops is not None and stops != bool(place % 2)]
    assert wrong == []
    assert last.count(None) < len(last) / 100


def test_with_a_hundred_thousand_sessions_hardly_one_had_to_make_room() -> None:
    sessions = Sessions()
    for number in range(100_000):
        sessions.remember(f"/10.0.{number >> 8}.{number & 255}:5000/192.0.2.1:8443", ("OnCallEvent",))
    assert 100_000 - sessions.count() < 1_000


@given(st.dictionaries(st.text(max_size=20), st.frozensets(st.sampled_from(STOPPABLE)), max_size=30))
def test_few_sessions_are_remembered_exactly(known: dict[str, frozenset[str]]) -> None:
    sessions = Sessions()
    for session, failing in known.items():
        sessions.remember(session, failing)
    for session, failing in known.items():
        assert {method for method in STOPPABLE if sessions.stops(session, method)} == failing


class AgainstADictionary(RuleBasedStateMachine):
    """Two workers' views of one memory, and a clock; few enough sessions that none has to make room."""

    NAMES = st.sampled_from([f"session {number}" for number in range(12)])
    WORKERS = st.sampled_from([0, 1])

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(100.0)
        self.fd = shared_memory()
        self.workers = [Sessions(self.fd, self.clock) for _ in range(2)]
        self.model: dict[str, tuple[frozenset[str], int]] = {}

    @rule(worker=WORKERS, session=NAMES, failing=st.frozensets(st.sampled_from(STOPPABLE), max_size=3))
    def remember(self, worker: int, session: str, failing: frozenset[str]) -> None:
        self.workers[worker].remember(session, failing)
        self.model[session] = failing, int(self.clock.now) + 1

    @rule(seconds=st.floats(0, KEEP * 0.7))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(worker=WORKERS)
    def replace(self, worker: int) -> None:
        self.workers[worker] = Sessions(self.fd, self.clock)

    @invariant()
    def both_know_what_the_dictionary_knows(self) -> None:
        for number in range(12):
            session = f"session {number}"
            failing, made = self.model.get(session, (frozenset(), 0))
            known = session in self.model and made > self.clock.now - KEEP
            for worker in self.workers:
                for method in ("OnCallEvent", "call"):
                    assert worker.stops(session, method) == ((method in failing) if known else None)

    def teardown(self) -> None:
        os.close(self.fd)


AgainstADictionary.TestCase.settings = settings(stateful_step_count=30)
TestAgainstADictionary = AgainstADictionary.TestCase


@pytest.mark.parametrize("word", [0, 1])
def test_adversarial_an_entry_that_is_half_of_another_tells_nothing(memory: int, word: int) -> None:
    """What a writer that died half way has left, or a defect elsewhere, is nobody's entry."""
    sessions = Sessions(memory)
    sessions.remember("a", {"OnCallEvent"})
    whole = os.pread(memory, MEMORY, 0)
    entry = next(at for at in range(64, MEMORY, 8) if whole[at : at + 8] != bytes(8))
    right = int.from_bytes(whole[entry + 8 * word : entry + 8 * word + 8], sys.byteorder)
    for wrong in [0, 2**64 - 1, *(right ^ 1 << bit for bit in range(64))]:
        os.pwrite(memory, wrong.to_bytes(8, sys.byteorder), entry + 8 * word)
        assert sessions.stops("a", "OnCallEvent") is None
        assert sessions.stops("b", "OnCallEvent") is None
    sessions.remember("a", {"call"})
    assert (sessions.stops("a", "call"), sessions.stops("a", "OnCallEvent")) == (True, False)


WRITER = """
import sys
from gateway.proxy.sessions import Sessions
sessions = Sessions(int(sys.argv[1]))
number, turns = int(sys.argv[2]), int(sys.argv[3])
own = ("OnCallEvent", "call")[number]
for turn in range(turns):
    sessions.remember(f"contended {turn % 7}", (own,))
    sessions.remember(f"of {number} {turn}", (own,))
"""


def test_two_processes_that_write_at_once_never_make_up_a_third_answer(memory: int) -> None:
    turns = 15_000
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(memory), str(number), str(turns)],
            cwd=ROOT, pass_fds=(memory,),
        )
        for number in range(2)
    ]  # fmt: skip
    sessions = Sessions(memory)
    until = time.monotonic() + LIMIT
    try:
        while any(writer.poll() is None for writer in writers) and time.monotonic() < until:
            for number in range(7):
                assert not sessions.stops(f"contended {number}", "hangup"), "which neither of them ever said"
        assert [writer.poll() for writer in writers] == [0, 0]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait(LIMIT)
    for number, own, other in ((0, "OnCallEvent", "call"), (1, "call", "OnCallEvent")):
        for turn in range(0, turns, 7):
            name = f"of {number} {turn}"
            assert (sessions.stops(name, own), sessions.stops(name, other)) in {(True, False), (None, None)}
    assert sessions.count() > 2 * turns - 300


def test_what_a_worker_remembered_outlives_it(memory: int) -> None:
    code = (
        "import os; from gateway.proxy.sessions import Sessions; "
        f"Sessions({memory}).remember('a', ['call']); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, pass_fds=(memory,), timeout=LIMIT)
    assert done.returncode == 9
    assert Sessions(memory).stops("a", "call") is True


def test_two_memories_have_nothing_in_common(memory: int) -> None:
    Sessions(memory).remember("a", ["call"])
    other = shared_memory()
    try:
        assert Sessions(other).stops("a", "call") is None
        os.pwrite(other, os.pread(memory, MEMORY - 64, 64), 64)  # the same entries, but another key
        assert Sessions(other).stops("a", "call") is None
    finally:
        os.close(other)
    assert Sessions().stops("a", "call") is None


def test_a_session_is_told_by_its_id_and_its_media_server() -> None:
    def of(**fields: object) -> str | None:
        return session_key(parse_hook(json.dumps({"appKey": "a", **fields}).encode()))

    assert of() is None
    assert of(nodeId="n") is None
    assert of(sessionId=None) is of(sessionId="") is None
    assert of(sessionId="s", nodeId="n") == of(sessionId="s", nodeId="n", callId="c") is not None
    assert of(sessionId="s", nodeId="n") != of(sessionId="s", nodeId="m") != of(sessionId="s")
    escaped = parse_hook(b'{"appKey":"a","sessionId":"\\/8.8.8.8:1\\/9.9.9.9:2"}')
    assert session_key(escaped) == of(sessionId="/8.8.8.8:1/9.9.9.9:2")


def test_the_one_session_of_all_viewers_of_hls_is_nobody_s() -> None:
    def of(session: str, method: str) -> str | None:
        return session_key(parse_hook(json.dumps({"appKey": "a", "sessionId": session}).encode()), method)

    assert of("test-HLS", "playHLS") is of("/192.0.2.1:1/192.0.2.2:2", "playHLS") is of("test-HLS", "call") is None
    assert of("/192.0.2.1:1/192.0.2.2:2", "playStream") is not None
