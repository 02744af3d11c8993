"""A hook that comes more than once is decided once: in flight, and for a while afterwards, in bounded memory."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.model.verdicts import (
    Cause,
    Failure,
    Fallback,
    ProxyError,
    Ruling,
    backend_allow,
    backend_reject,
    fallback_ruling,
)
from gateway.proxy.dedupe import (
    MAX_BYTES,
    MAX_ENTRIES,
    MAX_JOINED,
    Duplicates,
    Flight,
    OwnerLost,
    TooManyRepeats,
    WaitingRepeats,
    hook_key,
)

METHOD = "OnCallEvent"
BODY = b'{"appKey":"defaultApp","callId":"1"}'
KEY = hook_key(METHOD, BODY)
ALLOWED = backend_allow(b'{"answer":1}')
DENIED = backend_reject()


@contextmanager
def flown(flight: Flight) -> Iterator[Flight]:
    """As the gateway flies its hooks: each is left, also after an error."""
    try:
        yield flight
    finally:
        flight.leave()


def keep(duplicates: Duplicates, body: bytes, ruling: Ruling = DENIED, now: float = 0.0, seconds: float = 10.0) -> None:
    """Let one hook come to its verdict."""
    with flown(duplicates.begin(hook_key(METHOD, body), body)) as flight:
        flight.finish(ruling, now, seconds)


def kept(duplicates: Duplicates, body: bytes, now: float = 0.0) -> bool:
    return isinstance(duplicates.find(hook_key(METHOD, body), body, now), Ruling)


def joined(duplicates: Duplicates, body: bytes = BODY) -> asyncio.Future[Ruling]:
    found = duplicates.find(hook_key(METHOD, body), body, 0.0)
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
        found = self.duplicates.find(hook_key(method, body), body, self.loop.time())
        if isinstance(found, Ruling):
            return found
        if found is not None:
            return await found
        with flown(self.duplicates.begin(hook_key(method, body), body)) as flight:
            self.asked += 1
            await self.answering.wait()
            ruling = backend_allow(b'{"number":%d}' % self.asked)
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
        with flown(duplicates.begin(KEY, BODY)):
            waiting.append(joined(duplicates))
            raise ZeroDivisionError

    waiting: list[asyncio.Future[Ruling]] = []
    with pytest.raises(ZeroDivisionError):
        begin_and_break()
    with pytest.raises(OwnerLost):
        await waiting[0]


async def test_a_joiner_that_left_before_its_owner_was_lost_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    duplicates = Duplicates()
    with flown(duplicates.begin(KEY, BODY)):
        joined(duplicates)  # and is dropped without being awaited
        joined(duplicates).cancel()
    await asyncio.sleep(0)
    assert not caplog.records


async def test_an_owner_that_gives_up_tells_its_joiners_a_verdict_and_keeps_none() -> None:
    duplicates = Duplicates()
    with flown(duplicates.begin(KEY, BODY)) as flight:
        waiting = joined(duplicates)
        flight.abandon(DENIED)
    assert await waiting == DENIED
    assert duplicates.find(KEY, BODY, 0.0) is None


async def test_where_the_backend_cannot_have_seen_the_hook_joiners_get_the_verdict_and_a_repeat_asks() -> None:
    duplicates = Duplicates()
    with flown(duplicates.begin(KEY, BODY)) as flight:
        waiting = joined(duplicates)
        flight.finish(DENIED, 0.0, None)
    assert await waiting == DENIED
    assert duplicates.find(KEY, BODY, 0.0) is None
    assert (len(duplicates), duplicates.bytes_held) == (0, 0)


async def test_the_first_word_of_a_flight_counts() -> None:
    duplicates = Duplicates()
    with flown(duplicates.begin(KEY, BODY)) as flight:
        waiting = joined(duplicates)
        flight.finish(ALLOWED, 0.0, 10.0)
        flight.finish(DENIED, 0.0, 10.0)
        flight.abandon(DENIED)
    assert await waiting == ALLOWED
    assert duplicates.find(KEY, BODY, 0.0) == ALLOWED
    assert len(duplicates) == 1


async def test_a_flight_that_another_overtook_tells_its_own_joiners_and_leaves_the_others_alone() -> None:
    duplicates = Duplicates()
    first = duplicates.begin(KEY, BODY)
    of_first = joined(duplicates)
    second = duplicates.begin(KEY, BODY)
    of_second = joined(duplicates)
    first.finish(DENIED, 0.0, 10.0)
    assert await of_first == DENIED
    assert not of_second.done()
    assert (len(duplicates), duplicates.in_flight) == (0, 1)
    second.finish(ALLOWED, 0.0, 10.0)
    assert await of_second == ALLOWED
    assert duplicates.find(KEY, BODY, 0.0) == ALLOWED


async def test_of_one_hook_no_more_repeats_wait_than_may() -> None:
    duplicates = Duplicates()
    with flown(duplicates.begin(KEY, BODY)) as flight:
        waiting = [joined(duplicates) for _ in range(MAX_JOINED)]
        with pytest.raises(TooManyRepeats):
            duplicates.find(KEY, BODY, 0.0)
        flight.finish(ALLOWED, 0.0, 10.0)
    assert {await one for one in waiting} == {ALLOWED}
    assert duplicates.find(KEY, BODY, 0.0) == ALLOWED


@given(most=st.integers(2, 64), apps=st.lists(st.sampled_from("abcde"), max_size=200))
def test_whichever_app_s_hooks_are_repeated_without_end_another_s_may_wait(most: int, apps: list[str]) -> None:
    waiting, held = WaitingRepeats(), dict.fromkeys("abcde", 0)
    for app in apps:
        free = most - sum(held.values())
        if waiting.enter(app, most):
            held[app] += 1
            assert held[app] == 1 or held[app] <= 2 * (free - 1)
        assert sum(held.values()) == waiting.total <= most
        if sum(map(bool, held.values())) == 1:
            assert waiting.enter("newcomer", most), "one app alone leaves room"
            waiting.leave("newcomer")
    for app, count in held.items():
        for _ in range(count):
            waiting.leave(app)
    assert repr(waiting) == "<Waiting {}>"


def test_a_hook_that_is_begun_anew_takes_the_place_of_what_was_kept() -> None:
    duplicates = Duplicates()
    keep(duplicates, BODY)
    flight = duplicates.begin(KEY, BODY)
    assert (len(duplicates), duplicates.bytes_held, duplicates.in_flight) == (0, 0, 1)
    flight.finish(ALLOWED, 0.0, 10.0)
    assert duplicates.find(KEY, BODY, 0.0) == ALLOWED


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
    duplicates = Duplicates(max_bytes=1000)
    for number in range(10):
        keep(duplicates, b"%d" % number, backend_allow(b"%0100d" % number))
    keep(duplicates, b"10", backend_allow(b"%0250d" % 10))
    assert [number for number in range(10) if kept(duplicates, b"%d" % number)] == [3, 4, 5, 6, 7, 8, 9]
    assert duplicates.bytes_held == 7 * 100 + 250


def test_verdicts_kept_for_different_times_make_room_in_the_order_they_came_in() -> None:
    duplicates = Duplicates(max_bytes=1000)
    for number in range(10):
        keep(duplicates, b"%d" % number, backend_allow(b"%0100d" % number), seconds=10.0 + number)
    keep(duplicates, b"10", backend_allow(b"%0250d" % 10))
    assert [number for number in range(10) if kept(duplicates, b"%d" % number)] == [3, 4, 5, 6, 7, 8, 9]


def test_what_is_larger_than_the_store_is_not_kept_and_drives_nothing_out() -> None:
    duplicates = Duplicates(max_bytes=1000)
    keep(duplicates, BODY)
    keep(duplicates, b"large", backend_allow(b"x" * 1001))
    assert kept(duplicates, BODY)
    assert len(duplicates) == 1


@pytest.mark.parametrize("seed", ["random", "0", "7"])
def test_adversarial_nobody_outside_can_know_what_a_hook_is_known_by(seed: str) -> None:
    """With a seed that somebody set, Python's own hash would be the same in every process."""
    code = (
        "from gateway.proxy.dedupe import hook_key; "
        "print(hook_key('m', b'x'), hook_key('m', b'x'), hook_key('m', b'y'))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, timeout=60)
        for _ in range(2)
    ]
    keys = [run.stdout.split() for run in runs]
    assert all(one == again != other for one, again, other in keys)
    assert keys[0][0] != keys[1][0]


def test_of_an_answer_that_is_the_hook_itself_no_byte_is_kept() -> None:
    duplicates = Duplicates()
    body, answer = b"x" * 5000, bytes(bytearray(b"x" * 5000))
    assert answer is not body
    keep(duplicates, body, backend_allow(answer))
    assert duplicates.bytes_held == 0
    again = bytes(bytearray(body))
    found = duplicates.find(hook_key(METHOD, again), again, 0.0)
    assert found == backend_allow(body)
    assert isinstance(found, Ruling)
    assert found.body is again


def test_what_else_an_answer_that_is_the_hook_itself_says_is_kept() -> None:
    ruling = fallback_ruling(Failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "late"), LENIENT, BODY)
    for said in (ruling, backend_allow(BODY).annotate(failed_over_from="php")):
        duplicates = Duplicates()
        keep(duplicates, BODY, said)
        assert duplicates.find(KEY, BODY, 0.0) == said


def test_an_answer_of_its_own_is_counted() -> None:
    duplicates = Duplicates()
    keep(duplicates, BODY, ALLOWED)
    assert duplicates.bytes_held == len(ALLOWED.body)


def test_by_default_it_holds_ten_thousand_verdicts_and_32_mib() -> None:
    assert (MAX_ENTRIES, MAX_BYTES) == (10_000, 32 * 2**20)
    duplicates = Duplicates()
    for number in range(12_000):
        keep(duplicates, b"%d" % number)
    assert len(duplicates) == 10_000
    for number in range(40):
        keep(duplicates, b"%d" % number, backend_allow(bytes(1_000_000)))
    assert 32 * 2**20 - 1_000_100 < duplicates.bytes_held <= 32 * 2**20


def test_hooks_in_flight_are_no_verdicts_kept() -> None:
    duplicates = Duplicates(max_entries=1)
    flights = [duplicates.begin(hook_key(METHOD, b"%d" % number), b"%d" % number) for number in range(5)]
    assert (len(duplicates), duplicates.in_flight) == (0, 5)
    for flight in flights:
        flight.finish(DENIED, 0.0, 10.0)
    assert (len(duplicates), duplicates.in_flight) == (1, 0)
    assert repr(duplicates) == "<Duplicates 1 kept, 0 bytes, 0 in flight>"


def test_a_flight_shows_its_state() -> None:
    flight = Duplicates().begin(KEY, BODY)
    assert repr(flight) == "<Flight of 36 bytes, 0 joined>"
    flight.abandon(DENIED)
    assert repr(flight) == "<Flight of 36 bytes, 0 joined, settled>"


BODIES = st.sampled_from([b"a", b"bb", b"cccc", b"dddddddd"])
RULINGS = st.sampled_from([DENIED, ALLOWED, backend_allow(b"bb")])
LENIENT = Fallback(frozenset(Cause))


class DuplicatesMachine(RuleBasedStateMachine):
    """Any interleaving of hooks, verdicts and time, against lists that are searched from end to end."""

    MAX_ENTRIES = 3
    MAX_BYTES = 20

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
        return 0 if ruling.body == body else len(ruling.body)

    def live(self) -> list[tuple[bytes, Ruling, float]]:
        return [entry for entry in self.stored if self.now < entry[2]]

    @rule(seconds=st.integers(0, 6))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(body=BODIES)
    def a_hook_comes(self, body: bytes) -> None:
        with self.running():
            found = self.duplicates.find(hook_key("m", body), body, self.now)
        expected = next((ruling for key, ruling, _ in self.live() if key == body), None)
        if body in self.flights:
            assert isinstance(found, asyncio.Future)
            self.flights[body][1].append(found)
        elif expected is not None:
            assert found == expected
        else:
            assert found is None
            self.flights[body] = (self.duplicates.begin(hook_key("m", body), body), [])

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
        flight.leave()
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


DuplicatesMachine.TestCase.settings = settings(stateful_step_count=50)
TestDuplicatesMachine = DuplicatesMachine.TestCase
