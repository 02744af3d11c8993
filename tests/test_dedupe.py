"""A hook that comes more than once is decided once: in flight, and for a while afterwards, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.dedupe import MAX_BYTES, MAX_ENTRIES, Duplicates, Flight, Key, OwnerLost, fingerprint
from gateway.verdicts import Ruling, allowed_by_backend, denied_by_backend

METHOD = "OnCallEvent"
BODY = b'{"appKey":"defaultApp","callId":"1"}'
ALLOWED = allowed_by_backend(b'{"answer":1}')
DENIED = denied_by_backend()
KEY_SIZE = len(fingerprint(METHOD, b""))
"""Bytes of a fingerprint."""


def key_of(body: bytes) -> Key:
    return fingerprint(METHOD, body)


def answer_of(size: int, fill: bytes = b"x") -> Ruling:
    """A verdict with a body of this many bytes that is no hook's own."""
    return allowed_by_backend(fill * size)


def begin(duplicates: Duplicates, body: bytes = BODY) -> Flight:
    return duplicates.begin(key_of(body), body)


def find(duplicates: Duplicates, body: bytes = BODY, now: float = 0.0) -> Ruling | asyncio.Future[Ruling] | None:
    return duplicates.find(key_of(body), body, now)


def keep(duplicates: Duplicates, body: bytes, ruling: Ruling = DENIED, now: float = 0.0, seconds: float = 10.0) -> None:
    """Let one hook come to its verdict."""
    with begin(duplicates, body) as flight:
        flight.finish(ruling, now, seconds)


def kept(duplicates: Duplicates, body: bytes, now: float = 0.0) -> bool:
    return isinstance(find(duplicates, body, now), Ruling)


def joined(duplicates: Duplicates, body: bytes = BODY) -> asyncio.Future[Ruling]:
    found = find(duplicates, body)
    assert isinstance(found, asyncio.Future)
    return found


class Gateway:
    """The least that a gateway does with its hooks: asks a backend that takes its time."""

    def __init__(self) -> None:
        self.duplicates = Duplicates()
        self.asked = 0
        self.answering = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    async def hook(self, method: str = METHOD, body: bytes = BODY) -> Ruling:
        key = fingerprint(method, body)
        found = self.duplicates.find(key, body, self.loop.time())
        if isinstance(found, Ruling):
            return found
        if found is not None:
            return await found
        with self.duplicates.begin(key, body) as flight:
            self.asked += 1
            await self.answering.wait()
            ruling = allowed_by_backend(b'{"number":%d}' % self.asked)
            flight.finish(ruling, self.loop.time(), 10.0)
            return ruling


async def test_of_four_at_once_and_one_later_one_asks_and_all_get_its_verdict() -> None:
    gateway = Gateway()
    hooks = [asyncio.create_task(gateway.hook()) for _ in range(4)]
    await asyncio.sleep(0)
    assert gateway.asked == 1
    gateway.answering.set()
    answers = {*await asyncio.gather(*hooks), await gateway.hook()}
    assert len(answers) == 1
    assert gateway.asked == 1


async def test_another_method_or_another_body_is_another_hook() -> None:
    gateway = Gateway()
    gateway.answering.set()
    await gateway.hook()
    await gateway.hook(method="connect")
    await gateway.hook(body=BODY.replace(b"1", b"2"))
    await gateway.hook(body=BODY + b" ")
    assert gateway.asked == 4


async def test_a_joiner_that_is_cancelled_leaves_the_others_and_the_owner_untouched() -> None:
    gateway = Gateway()
    owner, leaver, stayer = (asyncio.create_task(gateway.hook()) for _ in range(3))
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.sleep(0)
    assert leaver.cancelled()
    gateway.answering.set()
    assert await stayer == await owner
    assert gateway.asked == 1


async def test_a_joiner_whose_own_time_is_up_leaves_the_others_untouched() -> None:
    gateway = Gateway()
    owner, stayer = (asyncio.create_task(gateway.hook()) for _ in range(2))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await gateway.hook()
    gateway.answering.set()
    assert await stayer == await owner


async def test_joiners_of_an_owner_that_was_cancelled_are_told_and_the_next_hook_asks() -> None:
    gateway = Gateway()
    owner, *joiners = (asyncio.create_task(gateway.hook()) for _ in range(3))
    await asyncio.sleep(0)
    owner.cancel()
    results = await asyncio.gather(*joiners, return_exceptions=True)
    assert [type(result) for result in results] == [OwnerLost, OwnerLost]
    assert gateway.duplicates.in_flight == 0
    gateway.answering.set()
    await gateway.hook()
    assert gateway.asked == 2


async def test_joiners_of_an_owner_that_raised_are_told() -> None:
    duplicates = Duplicates()

    def begin_and_break() -> None:
        with begin(duplicates):
            waiting.append(joined(duplicates))
            raise ZeroDivisionError

    waiting: list[asyncio.Future[Ruling]] = []
    with pytest.raises(ZeroDivisionError):
        begin_and_break()
    with pytest.raises(OwnerLost):
        await waiting[0]


async def test_a_joiner_that_left_before_its_owner_was_lost_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    duplicates = Duplicates()
    with begin(duplicates):
        joined(duplicates)  # and is dropped without being awaited
        joined(duplicates).cancel()
    await asyncio.sleep(0)
    assert not caplog.records


async def test_an_owner_that_gives_up_tells_its_joiners_a_verdict_and_keeps_none() -> None:
    duplicates = Duplicates()
    with begin(duplicates) as flight:
        waiting = joined(duplicates)
        flight.abandon(DENIED)
    assert await waiting == DENIED
    assert find(duplicates) is None


async def test_where_the_backend_cannot_have_seen_the_hook_joiners_get_the_verdict_and_a_repeat_asks() -> None:
    duplicates = Duplicates()
    with begin(duplicates) as flight:
        waiting = joined(duplicates)
        flight.finish(DENIED, 0.0, None)
    assert await waiting == DENIED
    assert find(duplicates) is None
    assert (len(duplicates), duplicates.bytes_held) == (0, 0)


async def test_the_first_word_of_a_flight_counts() -> None:
    duplicates = Duplicates()
    with begin(duplicates) as flight:
        waiting = joined(duplicates)
        flight.finish(ALLOWED, 0.0, 10.0)
        flight.finish(DENIED, 0.0, 10.0)
        flight.abandon(DENIED)
    assert await waiting == ALLOWED
    assert find(duplicates) == ALLOWED
    assert len(duplicates) == 1


async def test_a_flight_that_another_overtook_tells_its_own_joiners_and_leaves_the_others_alone() -> None:
    duplicates = Duplicates()
    first = begin(duplicates)
    of_first = joined(duplicates)
    second = begin(duplicates)
    of_second = joined(duplicates)
    first.finish(DENIED, 0.0, 10.0)
    assert await of_first == DENIED
    assert not of_second.done()
    assert (len(duplicates), duplicates.in_flight) == (0, 1)
    second.finish(ALLOWED, 0.0, 10.0)
    assert await of_second == ALLOWED
    assert find(duplicates) == ALLOWED


def test_a_hook_that_is_begun_anew_takes_the_place_of_what_was_kept() -> None:
    duplicates = Duplicates()
    keep(duplicates, BODY)
    flight = begin(duplicates)
    assert (len(duplicates), duplicates.bytes_held, duplicates.in_flight) == (0, 0, 1)
    flight.finish(ALLOWED, 0.0, 10.0)
    assert find(duplicates) == ALLOWED


def test_times_of_keeping_that_are_in_use_no_more_leave_nothing_behind() -> None:
    duplicates = Duplicates()
    for number in range(100):
        keep(duplicates, b"%d" % number, now=number * 1000.0, seconds=1.0 + number)
    assert len(duplicates._shelves) == 1


def test_a_verdict_is_kept_for_its_time_and_no_longer() -> None:
    duplicates = Duplicates()
    keep(duplicates, BODY, now=5.0, seconds=10.0)
    assert kept(duplicates, BODY, 14.999)
    assert not kept(duplicates, BODY, 15.0)
    assert (len(duplicates), duplicates.bytes_held) == (0, 0), "asking for it cleared it away"


def test_keeping_a_verdict_clears_away_those_past_their_time() -> None:
    duplicates = Duplicates()
    for number in range(50):
        keep(duplicates, b"short %d" % number, now=0.0, seconds=1.0)
    keep(duplicates, b"long", now=0.0, seconds=100.0)
    keep(duplicates, b"new", now=1.0, seconds=100.0)
    assert len(duplicates) == 2


def test_past_the_count_the_one_kept_longest_makes_room() -> None:
    duplicates = Duplicates(max_entries=3)
    keep(duplicates, b"0", seconds=100.0)
    for number in range(1, 5):
        keep(duplicates, b"%d" % number, seconds=10.0 + number % 2)
    assert [kept(duplicates, b"%d" % number) for number in range(5)] == [False, False, True, True, True]
    assert len(duplicates) == 3


def test_past_the_bytes_as_many_as_needed_make_room() -> None:
    one = KEY_SIZE + 100
    duplicates = Duplicates(max_bytes=10 * one)
    for number in range(10):
        keep(duplicates, b"%d" % number, answer_of(100))
    keep(duplicates, b"large", answer_of(2 * one + 50))
    assert [number for number in range(10) if kept(duplicates, b"%d" % number)] == [3, 4, 5, 6, 7, 8, 9]
    assert duplicates.bytes_held == 7 * one + KEY_SIZE + 2 * one + 50


def test_verdicts_kept_for_different_times_make_room_in_the_order_they_came_in() -> None:
    one = KEY_SIZE + 100
    duplicates = Duplicates(max_bytes=10 * one)
    for number in range(10):
        keep(duplicates, b"%d" % number, answer_of(100), seconds=10.0 + number)
    keep(duplicates, b"large", answer_of(2 * one + 50))
    assert [number for number in range(10) if kept(duplicates, b"%d" % number)] == [3, 4, 5, 6, 7, 8, 9]


def test_what_is_larger_than_the_store_is_not_kept_and_drives_nothing_out() -> None:
    duplicates = Duplicates(max_bytes=1000)
    keep(duplicates, BODY)
    keep(duplicates, b"large", answer_of(1001 - KEY_SIZE))
    assert not kept(duplicates, b"large")
    assert kept(duplicates, BODY)
    assert len(duplicates) == 1
    keep(duplicates, b"as large as the store", answer_of(1000 - KEY_SIZE))
    assert kept(duplicates, b"as large as the store")


def test_an_answer_that_is_the_hook_itself_is_not_kept_and_the_repeat_gets_its_own_body_back() -> None:
    duplicates = Duplicates()
    body, answer, again = (bytes(bytearray(b"x" * 5000)) for _ in range(3))
    assert answer is not body
    keep(duplicates, body, allowed_by_backend(answer))
    assert duplicates.bytes_held == KEY_SIZE
    found = find(duplicates, again)
    assert found == allowed_by_backend(answer)
    assert isinstance(found, Ruling)
    assert found.body is again


def test_an_answer_of_its_own_is_counted_and_the_hook_itself_is_not() -> None:
    duplicates = Duplicates()
    keep(duplicates, BODY, ALLOWED)
    assert duplicates.bytes_held == KEY_SIZE + len(ALLOWED.body)
    assert find(duplicates) == ALLOWED


def test_a_verdict_without_a_body_stays_without_one() -> None:
    duplicates = Duplicates()
    keep(duplicates, BODY, DENIED)
    assert find(duplicates) == DENIED


@given(st.text("abc", max_size=3), st.binary(max_size=6), st.text("abc", max_size=3), st.binary(max_size=6))
def test_two_hooks_have_one_fingerprint_only_where_method_and_body_are_the_same(
    method: str, body: bytes, other_method: str, other_body: bytes
) -> None:
    same = (method, body) == (other_method, other_body)
    assert (fingerprint(method, body) == fingerprint(other_method, other_body)) is same
    assert fingerprint(method, body) == fingerprint(method, bytes(bytearray(body)))
    assert len(fingerprint(method, body)) == len(fingerprint(method, other_body))
    assert len(fingerprint(method, body)) >= 16, "nobody finds two hooks of one fingerprint"


def test_where_the_method_ends_and_the_body_begins_is_part_of_the_fingerprint() -> None:
    assert fingerprint("connect", b"x") != fingerprint("connectx", b"")
    assert fingerprint("connect", b" x") != fingerprint("connect", b"x")


def test_by_default_it_holds_ten_thousand_verdicts_and_32_mib() -> None:
    assert (MAX_ENTRIES, MAX_BYTES) == (10_000, 32 * 2**20)
    duplicates = Duplicates()
    for number in range(12_000):
        keep(duplicates, b"%d" % number)
    assert len(duplicates) == 10_000
    for number in range(40):
        keep(duplicates, b"%d" % number, answer_of(1_000_000))
    assert 32 * 2**20 - 1_000_100 < duplicates.bytes_held <= 32 * 2**20


def test_hooks_in_flight_are_no_verdicts_kept() -> None:
    duplicates = Duplicates(max_entries=1)
    flights = [begin(duplicates, b"%d" % number) for number in range(5)]
    assert (len(duplicates), duplicates.in_flight) == (0, 5)
    for flight in flights:
        flight.finish(DENIED, 0.0, 10.0)
    assert (len(duplicates), duplicates.in_flight) == (1, 0)
    assert repr(duplicates) == f"<Duplicates 1 kept, {KEY_SIZE} bytes, 0 in flight>"


def test_a_flight_shows_its_state() -> None:
    flight, named = begin(Duplicates()), METHOD
    assert repr(flight) == f"<Flight {named}, 0 joined>"
    flight.abandon(DENIED)
    assert repr(flight) == f"<Flight {named}, 0 joined, settled>"


BODIES = st.sampled_from([b"a", b"bb", b"cccc", b"dddddddd"])
RULINGS = st.sampled_from([DENIED, ALLOWED, allowed_by_backend(b"bb")])


class DuplicatesMachine(RuleBasedStateMachine):
    """Any interleaving of hooks, verdicts and time, against lists that are searched from end to end."""

    MAX_ENTRIES = 3
    MAX_BYTES = 3 * KEY_SIZE + 15

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.duplicates = Duplicates(self.MAX_ENTRIES, self.MAX_BYTES)
        self.now = 0.0
        self.stored: list[tuple[bytes, Ruling, float]] = []
        """Body, verdict and time of expiry, the one kept longest first."""
        self.flights: dict[bytes, tuple[Flight, list[asyncio.Future[Ruling]]]] = {}

    def teardown(self) -> None:
        self.loop.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        """As within a step of the event loop, which futures ask for."""
        asyncio._set_running_loop(self.loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def size(self, body: bytes, ruling: Ruling) -> int:
        return KEY_SIZE + (0 if ruling.body == body else len(ruling.body))

    def live(self) -> list[tuple[bytes, Ruling, float]]:
        return [entry for entry in self.stored if self.now < entry[2]]

    @rule(seconds=st.integers(0, 6))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(body=BODIES)
    def a_hook_comes(self, body: bytes) -> None:
        with self.running():
            found = find(self.duplicates, body, self.now)
        expected = next((ruling for key, ruling, _ in self.live() if key == body), None)
        if body in self.flights:
            assert isinstance(found, asyncio.Future)
            self.flights[body][1].append(found)
        elif expected is not None:
            assert found == expected
            assert isinstance(found, Ruling)
        else:
            assert found is None
            self.flights[body] = (begin(self.duplicates, body), [])

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), ruling=RULINGS, seconds=st.sampled_from([None, 0.0, 3.0, 5.0, 20.0]))
    def a_verdict_is_found(self, data: st.DataObject, ruling: Ruling, seconds: float | None) -> None:
        body = data.draw(st.sampled_from(sorted(self.flights)))
        flight, waiting = self.flights.pop(body)
        flight.finish(ruling, self.now, seconds)
        assert all(waiter.cancelled() or waiter.result() == ruling for waiter in waiting)
        if not seconds:
            return
        stored = self.live()
        while len(stored) >= self.MAX_ENTRIES or (
            sum(self.size(*entry[:2]) for entry in stored) + self.size(body, ruling) > self.MAX_BYTES
        ):
            del stored[0]
        self.stored = [*stored, (body, ruling, self.now + seconds)]

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def an_owner_is_lost(self, data: st.DataObject) -> None:
        body = data.draw(st.sampled_from(sorted(self.flights)))
        flight, waiting = self.flights.pop(body)
        with flight:
            pass
        assert all(waiter.cancelled() or isinstance(waiter.exception(), OwnerLost) for waiter in waiting)

    @precondition(lambda self: any(waiting for _, waiting in self.flights.values()))
    @rule(data=st.data())
    def a_joiner_leaves(self, data: st.DataObject) -> None:
        waiters = [waiter for _, waiting in self.flights.values() for waiter in waiting]
        data.draw(st.sampled_from(waiters)).cancel()

    @invariant()
    def it_holds_what_is_live_within_its_bounds_and_counts_it_rightly(self) -> None:
        live = self.live()
        assert len(live) <= len(self.duplicates) <= self.MAX_ENTRIES
        held = sum(self.size(body, ruling) for body, ruling, _ in live)
        assert held <= self.duplicates.bytes_held <= self.MAX_BYTES
        if len(live) == len(self.duplicates):
            assert held == self.duplicates.bytes_held
        assert self.duplicates.in_flight == len(self.flights)


DuplicatesMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestDuplicatesMachine = DuplicatesMachine.TestCase
