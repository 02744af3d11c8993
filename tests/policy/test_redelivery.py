"""How fast kept events are delivered, which failures are their own, and when they are tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.model.verdicts import Cause, Failure, ProxyError
from gateway.policy.redelivery import MAX_DELAY, MAX_WAIT, Finding, Pace, State, is_trouble, retry_delay

LIMIT = 8
NO_ANSWER = Finding.TROUBLE


def failure(cause: Cause, status: int | None = None) -> Failure:
    return Failure(cause, ProxyError.HTTP_PROTOCOL_ERROR, "why", status)


def deliver(pace: Pace, now: float, finding: Finding, event: int = 0, verdicts: float = 0.0) -> bool:
    """One delivery from its beginning to its end."""
    assert pace.room(now) > 0
    return pace.finish(pace.begin(), finding, now, event, verdicts)


def steady() -> Pace:
    pace = Pace(LIMIT)
    for event in range(LIMIT):
        deliver(pace, 0.0, Finding.ANSWERED, event)
    assert pace.state is State.STEADY
    return pace


# --- whose fault a failure is ---


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("others_answered", [False, True])
def test_the_gateway_s_own_limits_are_no_event_s_fault(seen: bool, others_answered: bool) -> None:
    assert is_trouble(failure(Cause.OVERLOAD), seen=seen, others_answered=others_answered)


@pytest.mark.parametrize("cause", [Cause.TIMEOUT, Cause.UNREACHABLE])
def test_a_silent_upstream_is_at_fault_unless_it_has_answered_others_meanwhile(cause: Cause) -> None:
    assert is_trouble(failure(cause), seen=True, others_answered=False)
    assert is_trouble(failure(cause), seen=False, others_answered=True)
    assert not is_trouble(failure(cause), seen=True, others_answered=True)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_web_server_without_its_php_is_at_fault_unless_others_were_answered(status: int) -> None:
    found = failure(Cause.ERROR_STATUS, status)
    assert is_trouble(found, seen=True, others_answered=False)
    assert not is_trouble(found, seen=True, others_answered=True)


@pytest.mark.parametrize(
    "found", [failure(Cause.ERROR_STATUS, 500), failure(Cause.ERROR_STATUS, 302), failure(Cause.BAD_ANSWER, 200)]
)
@pytest.mark.parametrize("others_answered", [False, True])
def test_an_answer_that_is_no_delivery_is_no_trouble(found: Failure, others_answered: bool) -> None:
    assert not is_trouble(found, seen=True, others_answered=others_answered)


# --- when an event is tried again ---


@given(st.integers(1, 10_000), st.floats(0.0, 1.0, exclude_max=True), st.floats(0.0, 1.0, exclude_max=True))
def test_each_failure_of_its_own_makes_an_event_wait_longer_up_to_a_limit(
    failures: int, one: float, two: float
) -> None:
    delay, later = retry_delay(failures, lambda: one), retry_delay(failures + 1, lambda: two)
    assert 0.75 <= delay <= 1.25 * MAX_DELAY
    assert later > delay or later >= 0.75 * MAX_DELAY


def test_chance_spreads_the_attempts() -> None:
    assert [retry_delay(3, chance) for chance in (lambda: 0.0, lambda: 0.5)] == [6.75, 9.0]


# --- the pace ---


def test_the_first_delivery_is_a_probe_and_alone() -> None:
    pace = Pace(LIMIT, now=5.0)
    assert (pace.room(4.9), pace.room(5.0)) == (0, 1)
    pace.begin()
    assert (pace.state, pace.room(100.0)) == (State.PROBING, 0)


def test_each_delivery_makes_room_for_one_more_up_to_the_limit() -> None:
    pace = Pace(LIMIT)
    rooms = []
    while pace.state is not State.STEADY:
        tickets = [pace.begin() for _ in range(pace.room(0.0))]
        rooms.append(len(tickets))
        for ticket in tickets:
            pace.finish(ticket, Finding.ANSWERED, 0.0)
    assert rooms == [1, 1, 2, 4]
    assert pace.room(0.0) == LIMIT


def test_a_failed_probe_is_followed_by_another_ever_later_but_within_a_second() -> None:
    pace, now, waits = Pace(LIMIT, chance=lambda: 0.999), 0.0, []
    for _ in range(8):
        assert not deliver(pace, now, Finding.TROUBLE)
        assert pace.probe_at is not None
        waits.append(pace.probe_at - now)
        assert pace.room(pace.probe_at - 0.001) == 0
        now = pace.probe_at
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(MAX_WAIT, rel=0.01)
    assert pace.in_outage
    deliver(pace, now, Finding.ANSWERED)
    assert (pace.state, pace.in_outage) == (State.RAMPING, False)


def test_trouble_halves_once_for_all_that_were_under_way() -> None:
    pace = steady()
    tickets = [pace.begin() for _ in range(LIMIT)]
    pace.finish(tickets.pop(), Finding.TROUBLE, 1.0)
    pace.finish(tickets.pop(), Finding.TROUBLE, 1.0)
    assert (pace.state, pace.allowed) == (State.RAMPING, LIMIT // 2)
    assert pace.room(1.0) == 0  # six are still under way


def test_nothing_but_trouble_is_an_upstream_that_is_down_however_many_are_under_way() -> None:
    pace = steady()
    tickets = [pace.begin() for _ in range(LIMIT)]
    for ticket in tickets[:3]:
        pace.finish(ticket, Finding.TROUBLE, 1.0)
    assert (pace.state, pace.in_outage) == (State.DOWN, True)
    assert pace.room(10.0) == 0  # a probe is alone
    for ticket in tickets[3:]:
        pace.finish(ticket, Finding.TROUBLE, 1.0)
    assert pace.room(10.0) == 1


def test_an_answer_to_what_began_before_the_outage_ends_it() -> None:
    pace = steady()
    tickets = [pace.begin() for _ in range(4)]
    for ticket in tickets[:3]:
        pace.finish(ticket, Finding.TROUBLE, 1.0)
    pace.finish(tickets[3], Finding.ANSWERED, 1.0)
    assert (pace.state, pace.allowed) == (State.RAMPING, 1)


def test_one_event_s_errors_are_its_own_and_slow_nothing_down() -> None:
    pace = steady()
    assert all(deliver(pace, 1.0, Finding.ERROR, event=7) for _ in range(100))
    assert (pace.state, pace.room(1.0)) == (State.STEADY, LIMIT)


def test_errors_of_several_events_in_a_row_are_the_upstream_s() -> None:
    pace = steady()
    assert [deliver(pace, 1.0, Finding.ERROR, event) for event in (1, 2, 1, 2)] == [True] * 4
    assert not deliver(pace, 1.0, Finding.ERROR, 3)
    assert pace.state is State.DOWN
    assert pace.probe_at is not None
    assert not deliver(pace, pace.probe_at, Finding.ERROR, 4)
    assert pace.state is State.DOWN


def test_a_live_hook_that_is_answered_proves_that_errors_are_the_events_own() -> None:
    pace = steady()
    for event in range(100):
        assert deliver(pace, 1.0, Finding.ERROR, event, verdicts=event // 2)
    assert pace.state is State.STEADY


def test_a_probe_that_meets_an_error_has_found_somebody_who_answers() -> None:
    pace = Pace(LIMIT)
    deliver(pace, 0.0, Finding.TROUBLE)
    assert deliver(pace, 1.0, Finding.ERROR, 1)
    assert (pace.state, pace.room(1.0)) == (State.RAMPING, 1)


def test_a_probe_that_was_cut_off_is_repeated_at_once() -> None:
    pace = Pace(LIMIT)
    deliver(pace, 0.0, Finding.NOTHING)
    assert (pace.state, pace.room(0.0)) == (State.DOWN, 1)


@given(st.integers(1, 20), st.integers(1, 20))
def test_another_limit_holds_at_once(before: int, after: int) -> None:
    pace = Pace(before)
    for _ in range(20):
        deliver(pace, 0.0, Finding.ANSWERED)
    pace.limit = after
    assert pace.room(0.0) == min(before, after)
    for _ in range(20):
        deliver(pace, 0.0, Finding.ANSWERED)
    assert (pace.room(0.0), pace.state) == (after, State.STEADY)


class PaceMachine(RuleBasedStateMachine):
    """Any deliveries, in any order of their ends."""

    @initialize(limit=st.integers(1, 12))
    def create(self, limit: int) -> None:
        self.pace = Pace(limit)
        self.now = 0.0
        self.verdicts = 0.0
        self.under_way: list[int] = []

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.5, 2.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def answer_a_live_hook(self) -> None:
        self.verdicts += 1

    @rule(limit=st.integers(1, 12))
    def reload(self, limit: int) -> None:
        self.pace.limit = limit

    @rule()
    def begin(self) -> None:
        if self.pace.room(self.now):
            self.under_way.append(self.pace.begin())

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), finding=st.sampled_from(Finding), event=st.integers(0, 5))
    def end(self, data: st.DataObject, finding: Finding, event: int) -> None:
        ticket = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        self.verdicts += finding is Finding.ANSWERED
        blamed = self.pace.finish(ticket, finding, self.now, event, self.verdicts)
        assert not blamed or finding is Finding.ERROR
        if finding is Finding.ANSWERED:
            assert self.pace.state in (State.RAMPING, State.STEADY)
            assert not self.pace.in_outage

    @invariant()
    def no_more_are_under_way_than_may_be(self) -> None:
        if not hasattr(self, "pace"):
            return
        pace = self.pace
        assert pace.in_flight == len(self.under_way)
        assert 1 <= pace.allowed <= pace.limit
        room = pace.room(self.now)
        assert room + pace.in_flight <= max(pace.allowed, pace.in_flight)
        if pace.state in (State.DOWN, State.PROBING):
            assert room <= 1
        assert (pace.state is State.STEADY) <= (pace.allowed == pace.limit)

    @invariant()
    def it_never_rests_for_good(self) -> None:
        """Without anything under way, the next delivery may begin within a second."""
        if hasattr(self, "pace") and not self.under_way:
            assert self.pace.room(self.now + 1.0) >= 1


TestPace = PaceMachine.TestCase
