"""What sessions have in common, kept once for all workers: nothing that was torn or overwritten is ever believed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.rest_client_config import (
    MethodSettings,
    SessionSettings,
    pack_settings,
    session_settings,
    unpack_settings,
)
from gateway.policy.settings_store import CAPACITY, LONGEST, WORDS, TextStore, Write
from gateway.proxy.sessions import KEEP, Sessions, shared_memory

ROOT = Path(__file__).parent.parent.parent
LIMIT: Final = 60.0
KEY: Final = bytes(16)

names = st.text(st.characters(codec="utf-8", exclude_characters=","), min_size=1, max_size=6).map(str.strip)
listed = st.sets(names.filter(bool), max_size=3).map(lambda found: tuple(sorted(found)))
each_method = st.builds(
    MethodSettings,
    fails=st.booleans(),
    policy=st.sampled_from(["NOTIFY", "OVERWRITE", "DISABLE"]),
    overwrite=listed,
    exclude=listed,
    client_exclude=listed,
)
all_settings = st.dictionaries(st.sampled_from(["OnCallEvent", "call", "m"]), each_method, max_size=3)


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


def store_of(memory: bytearray) -> TextStore:
    return TextStore(memoryview(memory), 0, KEY, KEEP)


def apply(memory: bytearray, writes: Sequence[Write]) -> None:
    words = memoryview(memory).cast("Q")
    for at, value in writes:
        words[at] = value


# --- what an answer to connect sets ---


def test_everything_that_is_set_for_a_method_is_read() -> None:
    body = (
        b'{"restClientConfig": {"OnCallEvent": {"restPolicy": "OVERWRITE", "restOverwrite": "callee, caller,",'
        b'"restExclude":"sdp","clientExclude":"a,b", "restOnError":"FAIL"}, "call": {"restPolicy":"DISABLE"},'
        b'"hangup": {"restPolicy":"NOTIFY","restOnError":"LOG","restOverwrite":""}, "hold": [], "x": null}}'
    )
    assert session_settings(body) == {
        "OnCallEvent": MethodSettings(True, "OVERWRITE", ("callee", "caller"), ("sdp",), ("a", "b")),
        "call": MethodSettings(policy="DISABLE"),
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no",
        b"[]",
        b"{}",
        b'{"restClientConfig":null}',
        b'{"restClientConfig":[]}',
        b'{"restClientConfig":{"a":1}}',
    ],
)
def test_what_sets_nothing_sets_nothing(body: bytes) -> None:
    assert session_settings(body) == {}


def test_only_overwrite_takes_fields_and_never_those_that_say_whose_the_hook_is() -> None:
    taking = MethodSettings(policy="OVERWRITE", overwrite=("callee", "nodeId", "sessionId", "appKey"))
    assert [name for name in ("callee", "caller", "nodeId", "sessionId", "appKey") if taking.overwrites(name)] == [
        "callee"
    ]
    assert not MethodSettings(overwrite=("callee",)).overwrites("callee")


@given(all_settings)
def test_packed_settings_are_the_same_text_for_the_same_settings(found: SessionSettings) -> None:
    assert unpack_settings(pack_settings(found)) == found
    assert pack_settings(dict(reversed(list(found.items())))) == pack_settings(found)


# --- the store ---


@given(st.lists(st.binary(max_size=60), max_size=30))
def test_a_text_is_found_by_its_name_and_kept_once(texts: list[bytes]) -> None:
    memory = bytearray(8 * WORDS)
    store = store_of(memory)
    for text in texts:
        assert store.find(store.name(text)) in {None, text}
        writes = store.writes(store.name(text), text, 5)
        assert writes is not None
        apply(memory, writes)
    assert all(store.find(store.name(text)) == text for text in texts)
    used = sum(1 for word in memoryview(memory).cast("Q")[:: WORDS // CAPACITY] if word)
    assert used == len(set(texts))


def test_what_is_too_long_is_not_kept() -> None:
    store = store_of(bytearray(8 * WORDS))
    assert store.writes(1, bytes(LONGEST + 1), 0) is None
    assert store.writes(1, bytes(LONGEST), 0) is not None


def test_a_full_row_takes_no_more_until_its_texts_can_be_named_no_more() -> None:
    memory = bytearray(8 * WORDS)
    store = store_of(memory)
    now, unkept = 10, 0
    texts = [b"%d" % number for number in range(2 * CAPACITY)]
    for text in texts:
        writes = store.writes(store.name(text), text, now)
        unkept += writes is None
        apply(memory, writes or ())
    found = [text for text in texts if store.find(store.name(text)) == text]
    assert len(found) == len(texts) - unkept <= CAPACITY
    assert len(found) > CAPACITY * 0.9
    (late,) = [text for text in texts if text not in set(found)][:1]
    assert store.writes(store.name(late), late, now + int(KEEP)) is None
    writes = store.writes(store.name(late), late, now + int(KEEP) + 1)
    assert writes is not None
    apply(memory, writes)
    assert store.find(store.name(late)) == late


@st.composite
def interleavings(draw: st.DrawFn) -> tuple[list[bytes], list[int]]:
    """Texts that several writers write, and who of them makes the next write; each may die before its last one."""
    texts = draw(st.lists(st.binary(max_size=40), min_size=2, max_size=3))
    turns = draw(st.lists(st.integers(0, len(texts) - 1), max_size=40))
    return texts, turns


@given(interleavings())
def test_adversarial_whatever_two_writers_do_to_each_other_no_text_is_made_up(
    drawn: tuple[list[bytes], list[int]],
) -> None:
    """All write to the same slot, word by word in any order, and some never finish; then all connect once more."""
    texts, turns = drawn
    memory = bytearray(8 * WORDS)
    store = store_of(memory)
    name = store.name(texts[0])
    plans = [list(store.writes(name, text, 1) or ()) for text in texts]
    for place, plan in enumerate(plans):  # each by its own name, but in the one slot
        plan[-1] = plan[-1][0], store.name(texts[place])
    for who in turns:
        if plans[who]:
            apply(memory, [plans[who].pop(0)])
    for text in texts:
        assert store.find(store.name(text)) in {None, text}
    for text in texts:
        apply(memory, store.writes(store.name(text), text, 2) or ())
        assert store.find(store.name(text)) == text


# --- sessions ---

OVERWRITES: Final = {"OnCallEvent": MethodSettings(policy="OVERWRITE", overwrite=("callee",))}


def test_a_session_has_what_its_last_connect_set_and_every_default_besides(memory: int) -> None:
    one, other = Sessions(memory), Sessions(memory)
    assert one.settings("a", "OnCallEvent") is None
    one.remember("a", (), OVERWRITES)
    assert other.settings("a", "OnCallEvent") == OVERWRITES["OnCallEvent"]
    assert other.settings("a", "call") == MethodSettings()
    assert other.settings("b", "call") is None
    other.remember("a", {"call"}, {})
    assert one.settings("a", "OnCallEvent") == MethodSettings()
    assert one.stops("a", "call") is True
    one.remember("a", {"call"})
    assert other.settings("a", "OnCallEvent") is None
    assert other.stops("a", "call") is True


def test_what_finds_no_room_is_unknown_and_counted_and_refusals_are_known_all_the_same() -> None:
    sessions = Sessions()
    counted: list[None] = []
    sessions.on_settings_dropped = lambda: counted.append(None)
    sessions.remember("a", {"call"}, {"call": MethodSettings(exclude=tuple(map(str, range(3000))))})
    assert sessions.settings("a", "call") is None
    assert sessions.stops("a", "call") is True
    assert len(counted) == 1


def test_settings_are_forgotten_with_their_session() -> None:
    clock = Clock(50.0)
    sessions = Sessions(clock=clock)
    sessions.remember("a", (), OVERWRITES)
    clock.now += KEEP - 1
    assert sessions.settings("a", "OnCallEvent") is not None
    clock.now += 3
    assert sessions.settings("a", "OnCallEvent") is None


writers = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.frozensets(st.sampled_from(["call", "hold"])), all_settings),
    min_size=2,
    max_size=3,
)


@given(writers, st.lists(st.integers(0, 2), max_size=60))
def test_adversarial_whatever_workers_do_to_each_other_a_session_has_one_s_settings_or_none_are_known(
    connects: list[tuple[str, frozenset[str], SessionSettings]], turns: list[int]
) -> None:
    """Every worker plans its writes, and makes them word by word amid the others'; any may die before it is done."""
    fd = shared_memory()
    try:
        workers = [Sessions(fd, Clock(100.0)) for _ in connects]
        plans = [list(worker.writes(*connect)) for worker, connect in zip(workers, connects, strict=True)]
        words = memoryview(workers[0]._words)
        reader = Sessions(fd, Clock(100.0))
        for turn in turns:
            plan = plans[turn % len(plans)]
            if plan:
                at, value = plan.pop(0)
                words[at] = value
            _check(reader, connects)
            _check(Sessions(fd, Clock(100.0)), connects)  # that has looked at nothing yet
    finally:
        os.close(fd)


def _check(reader: Sessions, connects: Sequence[tuple[str, frozenset[str], SessionSettings]]) -> None:
    for session in ("a", "b"):
        said = [(failing, found) for name, failing, found in connects if name == session]
        for method in ("call", "OnCallEvent"):
            told = reader.settings(session, method)
            assert told is None or told in [found.get(method, MethodSettings()) for _, found in said]
        stops = reader.stops(session, "call")
        assert stops is None or stops in ["call" in failing for failing, _ in said]


WRITER: Final = """
import sys
from gateway.policy.rest_client_config import MethodSettings
from gateway.proxy.sessions import Sessions
sessions = Sessions(int(sys.argv[1]))
number, turns = int(sys.argv[2]), int(sys.argv[3])
for turn in range(turns):
    own = MethodSettings(policy="OVERWRITE", overwrite=(str(number), str(turn % 50)), exclude=("x" * (turn % 400),))
    sessions.remember(f"contended {turn % 7}", (), {"call": own})
"""


def test_two_processes_that_write_at_once_never_make_up_a_third_answer(memory: int) -> None:
    turns = 6_000
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(memory), str(number), str(turns)],
            cwd=ROOT, pass_fds=(memory,),
        )
        for number in range(2)
    ]  # fmt: skip
    until, known = time.monotonic() + LIMIT, 0
    try:
        while any(process.poll() is None for process in processes) and time.monotonic() < until:
            reader = Sessions(memory)
            for number in range(7):
                told = reader.settings(f"contended {number}", "call")
                if told is not None:
                    known += 1
                    assert told.policy == "OVERWRITE"
                    assert told.overwrite[0] in {"0", "1"}
                    assert set(told.exclude[0]) <= {"x"}
        assert [process.poll() for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait(LIMIT)
    assert known > 0


def test_what_a_worker_remembered_outlives_it(memory: int) -> None:
    code = (
        "import os; from gateway.policy.rest_client_config import MethodSettings; "
        "from gateway.proxy.sessions import Sessions; "
        f"Sessions({memory}).remember('a', [], {{'call': MethodSettings(policy='OVERWRITE', overwrite=('x',))}}); "
        "os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, pass_fds=(memory,), timeout=LIMIT)
    assert done.returncode == 9
    told = Sessions(memory).settings("a", "call")
    assert told is not None
    assert told.overwrites("x")
