"""The rules by which a target is left alone and tried again, on a clock of the test's own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.policy.breaker import MAX_WAIT, Breaker, BreakerSettings, State

SETTINGS = BreakerSettings(failures=3, window=8.0, open_for=4.0)


def ticket_of(breaker: Breaker, now: float) -> int:
    ticket = breaker.admit(now)
    assert ticket is not None
    return ticket


def fail(breaker: Breaker, now: float, times: int = 1, *, hard: bool = True) -> bool:
    """Let so many hooks fail one after the other; whether the last one opened the breaker."""
    opened = False
    for _ in range(times):
        assert not opened, "it opened before the last failure"
        opened = breaker.record_failure(ticket_of(breaker, now), now, hard=hard)
    return opened


def succeed(breaker: Breaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        breaker.record_success(ticket_of(breaker, now), now)


def opened_at(now: float, settings: BreakerSettings = SETTINGS) -> Breaker:
    breaker = Breaker(settings)
    assert fail(breaker, now, settings.failures)
    return breaker


def test_a_new_breaker_is_closed_and_lets_every_hook_pass() -> None:
    breaker = Breaker()
    assert breaker.state(0.0) is State.CLOSED
    assert breaker.ready(0.0)
    assert {breaker.admit(0.0) for _ in range(100)} == {0}
    assert breaker.retry_at is None


@pytest.mark.parametrize("hard", [True, False])
def test_failures_in_a_row_open_it_hard_or_soft(hard: bool) -> None:
    breaker = Breaker(SETTINGS)
    assert not fail(breaker, 0.0, 2, hard=hard)
    assert breaker.state(1.0) is State.CLOSED
    assert fail(breaker, 1.0, hard=hard)
    assert breaker.state(1.0) is State.OPEN
    assert breaker.opened_count == 1


def test_it_opens_on_a_clock_that_stands_still() -> None:
    breaker = opened_at(0.0)
    assert breaker.admit(0.0) is None


def test_a_success_between_soft_failures_begins_the_row_anew() -> None:
    breaker = Breaker(SETTINGS)
    for _ in range(20):
        assert not fail(breaker, 0.0, 2, hard=False)
        succeed(breaker, 0.0)
    assert breaker.state(0.0) is State.CLOSED


def test_failures_in_a_row_that_lie_further_apart_than_the_window_do_not_open_it() -> None:
    breaker = Breaker(SETTINGS)
    for number in range(50):
        assert not fail(breaker, number * 5.0)


def test_failures_that_lie_a_whole_window_apart_are_counted_together() -> None:
    breaker = Breaker(SETTINGS._replace(failures=2))
    succeed(breaker, 0.0)
    assert not fail(breaker, 0.75)
    assert fail(breaker, 8.75)


def test_hard_failures_open_it_where_they_are_half_of_the_window_though_none_follow_each_other() -> None:
    breaker = Breaker(SETTINGS)
    for now in (0.0, 1.0):
        succeed(breaker, now)
        assert not fail(breaker, now)
    succeed(breaker, 2.0)
    assert fail(breaker, 2.0)


def test_hard_failures_that_are_less_than_half_of_the_window_leave_it_closed() -> None:
    breaker = Breaker(SETTINGS)
    for number in range(200):
        succeed(breaker, number / 10, 2)
        assert not fail(breaker, number / 10)


def test_soft_failures_are_never_counted_as_a_share() -> None:
    breaker = Breaker(SETTINGS)
    for number in range(200):
        assert not fail(breaker, number / 10, 2, hard=False)
        succeed(breaker, number / 10)


@pytest.mark.parametrize(("soft", "opens"), [(0, True), (1, False)], ids=["3 of 6", "3 of 7"])
def test_soft_failures_count_among_the_outcomes_of_which_hard_ones_must_be_half(soft: int, opens: bool) -> None:
    breaker = Breaker(SETTINGS)
    fail(breaker, 0.0)
    succeed(breaker, 0.0)
    fail(breaker, 0.0, soft, hard=False)
    succeed(breaker, 0.0)
    fail(breaker, 0.0)
    succeed(breaker, 0.0)
    assert fail(breaker, 0.0) is opens


def test_what_lies_further_back_than_the_window_is_forgotten() -> None:
    breaker = Breaker(SETTINGS)
    succeed(breaker, 0.0, 1000)
    for now in (10.0, 11.0):
        fail(breaker, now)
        succeed(breaker, now)
    assert fail(breaker, 12.0), "the thousand successes would have outweighed it"


def test_only_the_failure_that_opens_it_says_so() -> None:
    breaker = Breaker(SETTINGS)
    tickets = [ticket_of(breaker, 0.0) for _ in range(10)]
    assert [breaker.record_failure(ticket, 0.0, hard=True) for ticket in tickets] == [False, False, True] + [False] * 7
    assert breaker.opened_count == 1


def test_open_lets_nothing_pass_until_its_time_is_over() -> None:
    breaker = opened_at(0.0)
    assert breaker.retry_at == 4.0
    assert breaker.admit(3.999) is None
    assert not breaker.ready(3.999)
    assert breaker.state(3.999) is State.OPEN
    assert breaker.ready(4.0)
    assert breaker.state(4.0) is State.HALF_OPEN
    assert breaker.admit(4.0) is not None


def test_half_open_lets_one_probe_pass_and_no_second_while_it_is_under_way() -> None:
    breaker = opened_at(0.0)
    ticket_of(breaker, 4.0)
    assert breaker.state(4.0) is State.HALF_OPEN
    assert not breaker.ready(1000.0)
    assert breaker.admit(1000.0) is None
    assert breaker.admit_last(1000.0) is None


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = opened_at(0.0)
    breaker.record_success(ticket_of(breaker, 4.0), 4.5)
    assert breaker.state(4.5) is State.CLOSED
    assert not fail(breaker, 4.5, 2), "the failures from before are forgotten"
    assert fail(breaker, 4.5)
    assert breaker.retry_at == 8.5, "and so is the growth"


@pytest.mark.parametrize("hard", [True, False])
def test_a_probe_that_fails_opens_it_again_for_twice_as_long_up_to_the_bound(hard: bool) -> None:
    breaker = opened_at(0.0)
    now, waits = 0.0, []
    for _ in range(6):
        assert breaker.retry_at is not None
        waits.append(breaker.retry_at - now)
        now = breaker.retry_at
        assert breaker.record_failure(ticket_of(breaker, now), now, hard=hard)
    assert waits == [4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert breaker.opened_count == 7


def test_a_wait_configured_longer_than_the_bound_is_kept_and_does_not_grow() -> None:
    breaker = opened_at(0.0, BreakerSettings(failures=1, open_for=60.0))
    breaker.record_failure(ticket_of(breaker, 60.0), 60.0, hard=True)
    assert breaker.retry_at == 120.0


def test_a_probe_that_is_abandoned_makes_room_for_the_next_at_once() -> None:
    breaker = opened_at(0.0)
    probe = ticket_of(breaker, 4.0)
    breaker.record_abandoned(probe, 4.0)
    following = ticket_of(breaker, 4.0)
    assert following != probe
    assert breaker.admit(4.0) is None
    assert breaker.opened_count == 1


def test_a_probe_once_abandoned_has_no_say_any_more() -> None:
    breaker = opened_at(0.0)
    probe = ticket_of(breaker, 4.0)
    breaker.record_abandoned(probe, 4.0)
    breaker.record_success(probe, 4.0)
    assert not breaker.record_failure(probe, 4.0, hard=True)
    breaker.record_abandoned(probe, 4.0)
    assert breaker.state(4.0) is State.HALF_OPEN


def test_an_abandoned_hook_is_neither_a_failure_nor_a_success() -> None:
    breaker = Breaker(SETTINGS)
    fail(breaker, 0.0, 2)
    for _ in range(100):
        breaker.record_abandoned(ticket_of(breaker, 0.0), 0.0)
    assert breaker.state(0.0) is State.CLOSED
    assert fail(breaker, 0.0)


def test_late_results_from_before_it_opened_change_nothing() -> None:
    breaker = Breaker(SETTINGS)
    late = [ticket_of(breaker, 0.0) for _ in range(3)]
    fail(breaker, 0.0, 3)
    breaker.record_success(late[0], 1.0)
    assert breaker.admit(1.0) is None, "a success from before does not close it"
    probe = ticket_of(breaker, 4.0)
    assert not breaker.record_failure(late[1], 4.0, hard=True)
    assert breaker.admit(4.0) is None, "the probe is still under way"
    breaker.record_success(probe, 4.0)
    assert not fail(breaker, 4.0, 2)
    assert not breaker.record_failure(late[2], 4.0, hard=True), "the third in a row, were it counted"


def test_the_last_target_is_probed_each_open_for_however_long_the_wait_has_grown() -> None:
    breaker = opened_at(0.0)
    now = 0.0
    for _ in range(10):
        assert breaker.admit_last(now + 3.999) is None
        now += 4.0
        probe = breaker.admit_last(now)
        assert probe is not None
        assert breaker.record_failure(probe, now, hard=True)
    assert breaker.retry_at == now + MAX_WAIT
    assert breaker.admit(now + 4.0) is None, "for one target of several the long wait holds"


def test_the_last_target_whose_breaker_is_closed_takes_every_hook() -> None:
    breaker = Breaker(SETTINGS)
    assert breaker.admit_last(0.0) == breaker.admit(0.0)


def test_an_ejection_opens_it_and_a_restoration_closes_it() -> None:
    breaker = Breaker(SETTINGS)
    ticket = ticket_of(breaker, 0.0)
    assert breaker.eject(0.0)
    assert breaker.state(0.0) is State.OPEN
    assert breaker.opened_count == 1
    breaker.restore(1.0)
    assert breaker.state(1.0) is State.CLOSED
    assert breaker.admit(1.0) != ticket


def test_a_second_ejection_prolongs_the_wait_but_not_that_of_the_last_target() -> None:
    breaker = Breaker(SETTINGS)
    breaker.eject(0.0)
    for now in (1.0, 2.0, 3.0):
        assert not breaker.eject(now)
    assert breaker.opened_count == 1
    assert breaker.retry_at == 3.0 + MAX_WAIT
    assert breaker.admit_last(3.0) is None
    assert breaker.admit_last(4.0) is not None


def test_an_ejection_while_the_probe_is_under_way_takes_the_word_from_it() -> None:
    breaker = opened_at(0.0)
    probe = ticket_of(breaker, 4.0)
    assert breaker.eject(4.0)
    assert breaker.retry_at == 12.0
    breaker.record_success(probe, 5.0)
    assert breaker.state(5.0) is State.OPEN


def test_held_open_it_stays_so_until_it_is_restored() -> None:
    breaker = Breaker(SETTINGS)
    breaker.eject(0.0, hold=True)
    assert not breaker.eject(1.0), "an ejection without hold does not undo one with it"
    breaker.configure(SETTINGS._replace(open_for=1.0))
    for now in (5.0, 1e6):
        assert breaker.admit(now) is None
        assert breaker.admit_last(now) is None
        assert not breaker.ready(now)
        assert breaker.state(now) is State.OPEN
    assert breaker.retry_at == math.inf
    breaker.restore(1e6)
    assert breaker.admit(1e6) is not None
    fail(breaker, 1e6, 3)
    assert breaker.admit(1e6 + 1.0) is not None, "the hold is gone with it"


def test_it_tells_since_when_it_is_not_closed_however_often_it_was_probed() -> None:
    breaker = Breaker(SETTINGS)
    assert breaker.since == -math.inf
    breaker.eject(1.0)
    for now in (20.0, 60.0):
        assert breaker.record_failure(ticket_of(breaker, now), now, hard=True)
        assert breaker.since == 1.0
    breaker.eject(70.0, hold=True)
    assert (breaker.since, breaker.held) == (1.0, True)
    breaker.restore(80.0)
    assert (breaker.since, breaker.held) == (80.0, False)


def test_a_restoration_of_a_closed_breaker_clears_no_failures() -> None:
    breaker = Breaker(SETTINGS)
    fail(breaker, 0.0, 2)
    breaker.restore(0.0)
    assert fail(breaker, 0.0)


def test_new_settings_keep_the_state_and_the_counts() -> None:
    breaker = Breaker(SETTINGS)
    fail(breaker, 0.0, 2)
    breaker.configure(SETTINGS._replace(open_for=2.0))
    assert fail(breaker, 0.0)
    assert breaker.retry_at == 2.0
    breaker.configure(SETTINGS._replace(open_for=20.0))
    assert breaker.state(2.0) is State.OPEN
    assert breaker.retry_at == 20.0


def test_a_window_of_another_length_begins_empty() -> None:
    breaker = Breaker(SETTINGS)
    fail(breaker, 0.0, 2)
    breaker.configure(SETTINGS._replace(window=16.0))
    assert not fail(breaker, 0.0, 2)
    assert fail(breaker, 0.0)


@pytest.mark.parametrize("settings", [BreakerSettings(1, 0.0, 0.0), BreakerSettings(1, 1e-9, 1e-9)])
def test_settings_next_to_nothing_do_no_harm(settings: BreakerSettings) -> None:
    breaker = Breaker(settings)
    now = 1e8
    for _ in range(200):
        succeed(breaker, now)
        fail(breaker, now)
        now += 100.0
        fail(breaker, now)
        now += 100.0
        succeed(breaker, now)
        assert breaker.state(now) is State.CLOSED


def test_it_shows_its_state() -> None:
    breaker = Breaker(SETTINGS)
    fail(breaker, 0.0, 2)
    assert repr(breaker) == "<Breaker closed, 2 failures in a row>"
    fail(breaker, 0.0)
    assert repr(breaker) == "<Breaker open, until 4.000>"
    probe = ticket_of(breaker, 4.0)
    assert repr(breaker) == "<Breaker half-open, probe under way>"
    breaker.record_abandoned(probe, 4.0)
    assert repr(breaker) == "<Breaker half-open, probe due>"
    breaker.eject(4.0, hold=True)
    assert repr(breaker) == "<Breaker open, held>"


def must_open(events: list[tuple[float, str]], failures: int, window: float) -> bool:
    """The rules for opening, over a list of events of which the last is a failure just now."""
    now = events[-1][0]
    recent = [what for time, what in events if now - time <= window]
    row = next((n for n, what in enumerate(reversed(recent)) if what == "success"), len(recent))
    hard = recent.count("hard")
    return row >= failures or (hard >= failures and 2 * hard >= len(recent))


# Steps in sixty-fourths of a second: exact as floats, and the window's slots are too.
STEPS = st.integers(0, 200).map(lambda n: n / 64)
OUTCOMES = st.sampled_from(["success", "hard", "soft"])


@given(st.lists(st.tuples(STEPS, OUTCOMES), max_size=80), st.integers(1, 5), st.sampled_from([1.0, 2.0, 8.0]))
def test_it_opens_as_a_list_of_events_would_say_over_a_window_of_up_to_an_eighth_more(
    steps: list[tuple[float, str]], failures: int, window: float
) -> None:
    breaker = Breaker(BreakerSettings(failures, window))
    events: list[tuple[float, str]] = []
    now = 0.0
    for step, what in steps:
        now += step
        events.append((now, what))
        if what == "success":
            succeed(breaker, now)
            continue
        opened = fail(breaker, now, hard=what == "hard")
        ages = {now - time for time, _ in events if window < now - time < window * 9 / 8}
        said = {must_open(events, failures, length) for length in {window, *ages}}
        assert opened in said
        if opened:
            return


@pytest.mark.parametrize("hard", [True, False])
def test_with_a_hint_one_failure_opens_it_hard_or_soft(hard: bool) -> None:
    breaker = Breaker(SETTINGS)
    breaker.hint(1.0)
    assert breaker.state(1.0) is State.CLOSED
    assert breaker.ready(1.0)
    assert fail(breaker, 1.0 + SETTINGS.open_for - 0.125, hard=hard)


def test_a_hint_is_over_after_open_for() -> None:
    breaker = Breaker(SETTINGS)
    breaker.hint(1.0)
    assert not fail(breaker, 1.0 + SETTINGS.open_for, 2)


def test_a_target_that_has_answered_here_since_is_believed_more_than_a_hint() -> None:
    breaker = Breaker(SETTINGS)
    breaker.hint(1.0)
    succeed(breaker, 1.5)
    assert not fail(breaker, 2.0, 2)
    assert fail(breaker, 2.0)


def test_a_late_failure_of_a_target_that_has_answered_since_opens_nothing_despite_a_hint() -> None:
    breaker = Breaker(SETTINGS)
    ticket = ticket_of(breaker, 0.0)
    succeed(breaker, 1.0)
    breaker.hint(2.0)
    assert not breaker.record_failure(ticket, 3.0, hard=False, silent_since=0.0)


@pytest.mark.parametrize("end", ["restore", "other settings", "opened and closed"])
def test_a_hint_ends_with(end: str) -> None:
    breaker = Breaker(SETTINGS)
    breaker.hint(1.0)
    if end == "restore":
        breaker.restore(1.0)
    elif end == "other settings":
        breaker.configure(SETTINGS._replace(failures=2))
    else:
        assert fail(breaker, 1.0)
        succeed(breaker, 1.0 + SETTINGS.open_for)
        breaker.hint(1.5)  # from before the success
    assert not fail(breaker, 1.0 + SETTINGS.open_for if end == "opened and closed" else 1.5)


class BreakerMachine(RuleBasedStateMachine):
    """Any interleaving of hooks, results, health checks, reloads and time, against what must always hold."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(SETTINGS)
        self.settings = SETTINGS
        self.outstanding: list[int] = []
        self.live_probe: int | None = None
        self.last_probe_or_opening = -math.inf
        self.freed = False
        """A probe was abandoned: the next may follow at once."""
        self.held = False

    def pick(self, data: st.DataObject) -> int:
        return self.outstanding.pop(data.draw(st.integers(0, len(self.outstanding) - 1)))

    def is_live(self, ticket: int) -> bool:
        return ticket == self.live_probe

    def after(self, opened: int) -> None:
        """Note an opening, if there was one since the count was *opened*."""
        if self.breaker.opened_count > opened:
            assert self.breaker.opened_count == opened + 1
            self.last_probe_or_opening = self.now
            self.live_probe = None
            self.freed = False

    @rule(eighths=st.integers(0, 300))
    def time_passes(self, eighths: int) -> None:
        self.now += eighths / 8

    @rule(last=st.booleans())
    def a_hook_comes(self, last: bool) -> None:
        state, retry_at, ready = self.breaker.state(self.now), self.breaker.retry_at, self.breaker.ready(self.now)
        ticket = self.breaker.admit_last(self.now) if last else self.breaker.admit(self.now)
        if not last:
            assert ready == (ticket is not None)
        if ticket is None:
            assert state is not State.CLOSED
            return
        assert not self.held
        if state is not State.CLOSED:
            assert retry_at is not None
            assert self.live_probe is None, "two probes at a time"
            assert ticket not in self.outstanding
            if last:
                due = min(self.last_probe_or_opening + self.settings.open_for, retry_at)
                assert self.freed or self.now >= due, "more than one per open_for"
            else:
                assert self.freed or self.now >= retry_at, "before its time"
            self.live_probe = ticket
            self.last_probe_or_opening = self.now
            self.freed = False
        self.outstanding.append(ticket)

    @precondition(lambda self: self.outstanding)
    @rule(data=st.data())
    def a_hook_succeeds(self, data: st.DataObject) -> None:
        ticket, opened, before = self.pick(data), self.breaker.opened_count, self.breaker.state(self.now)
        self.breaker.record_success(ticket, self.now)
        assert self.breaker.opened_count == opened
        if self.is_live(ticket):
            self.live_probe = None
            assert self.breaker.state(self.now) is State.CLOSED
        else:
            assert self.breaker.state(self.now) is before

    @precondition(lambda self: self.outstanding)
    @rule(data=st.data(), hard=st.booleans())
    def a_hook_fails(self, data: st.DataObject, hard: bool) -> None:
        ticket, opened, before = self.pick(data), self.breaker.opened_count, self.breaker.state(self.now)
        said = self.breaker.record_failure(ticket, self.now, hard=hard)
        assert said == (self.breaker.opened_count > opened)
        if self.is_live(ticket):
            assert said
        elif before is not State.CLOSED:
            assert not said
            assert self.breaker.state(self.now) is before
        self.after(opened)

    @precondition(lambda self: self.outstanding)
    @rule(data=st.data())
    def a_hook_is_abandoned(self, data: st.DataObject) -> None:
        ticket, before, repeated = self.pick(data), self.breaker.state(self.now), self.breaker.opened_count
        self.breaker.record_abandoned(ticket, self.now)
        assert self.breaker.opened_count == repeated
        assert self.breaker.state(self.now) is before
        if self.is_live(ticket):
            self.live_probe = None
            self.freed = True
            assert self.breaker.ready(self.now)

    @rule(hold=st.booleans())
    def it_is_ejected(self, hold: bool) -> None:
        opened = self.breaker.opened_count
        said = self.breaker.eject(self.now, hold=hold)
        assert said == (self.breaker.opened_count > opened)
        assert not self.breaker.ready(self.now)
        self.held = self.held or hold
        self.after(opened)

    @rule()
    def it_is_restored(self) -> None:
        was_closed = self.breaker.state(self.now) is State.CLOSED
        self.breaker.restore(self.now)
        assert self.breaker.ready(self.now)
        self.held = self.freed = False
        if not was_closed:
            self.live_probe = None

    @rule()
    def it_is_hinted_at(self) -> None:
        before = self.breaker.state(self.now), self.breaker.retry_at, self.breaker.ready(self.now)
        self.breaker.hint(self.now)
        assert before == (self.breaker.state(self.now), self.breaker.retry_at, self.breaker.ready(self.now))

    @rule(open_for=st.sampled_from([1.0, 4.0, 40.0]), window=st.sampled_from([1.0, 8.0]), failures=st.integers(1, 3))
    def it_is_configured(self, open_for: float, window: float, failures: int) -> None:
        closed = self.breaker.state(self.now) is State.CLOSED
        self.settings = BreakerSettings(failures, window, open_for)
        self.breaker.configure(self.settings)
        assert (self.breaker.state(self.now) is State.CLOSED) == closed

    @invariant()
    def the_view_from_outside_agrees_with_itself(self) -> None:
        state, retry_at = self.breaker.state(self.now), self.breaker.retry_at
        assert (state is State.CLOSED) == (retry_at is None)
        if state is State.OPEN:
            assert retry_at is not None
            assert retry_at > self.now
            assert retry_at == math.inf or retry_at <= self.now + max(MAX_WAIT, self.settings.open_for)
        if self.live_probe is not None:
            assert state is State.HALF_OPEN
        if state is State.CLOSED:
            assert self.breaker.ready(self.now)


BreakerMachine.TestCase.settings = settings(stateful_step_count=60)
TestBreakerMachine = BreakerMachine.TestCase
