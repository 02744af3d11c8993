"""Several workers' breaker of one target behaves as one process's would."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.breaker import Breaker, BreakerSettings, State
from gateway.policy.shared import SharedBreaker, breakers
from tests.policy.shared.workers import Workers, workers

SETTINGS = BreakerSettings(failures=3, window=8.0, open_for=4.0)
STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(
            ["admit", "admit_last", "success", "hard", "soft", "patient", "abandon", "eject", "restore", "hint"]
        ),
        st.integers(0, 96).map(lambda n: n / 32),
    ),
    max_size=120,
)


class Ticket(NamedTuple):
    """What the workers gave, and what the model gave for the same hook."""

    own: int
    model: int


def attach(running: Workers, settings: BreakerSettings = SETTINGS) -> list[SharedBreaker]:
    made = []
    for memory in running.memories:
        breaker = SharedBreaker.attach(memory, "target u http://a")
        assert breaker is not None
        breaker.configure(settings)
        made.append(breaker)
    return made


def fail(breaker: Breaker, now: float, times: int = 1, *, hard: bool = True) -> bool:
    opened = False
    for _ in range(times):
        ticket = breaker.admit(now)
        assert ticket is not None
        opened = breaker.record_failure(ticket, now, hard=hard)
    return opened


def succeed(breaker: Breaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        ticket = breaker.admit(now)
        assert ticket is not None
        breaker.record_success(ticket, now)


@given(STEPS)
def test_workers_have_the_breaker_that_one_process_would_have(steps: list[tuple[int, str, float]]) -> None:
    with pytest.MonkeyPatch.context() as patch, workers(3) as running:
        patch.setattr(breakers, "_TOGETHER", 1)
        shared, model = attach(running), Breaker()
        model.configure(SETTINGS)
        tickets: list[tuple[int, Ticket]] = []
        for slot, step, seconds in steps:
            running.advance(seconds)
            now, breaker = running.now, shared[slot]
            if step in ("admit", "admit_last"):
                assert breaker.ready(now) is model.ready(now)
                own, expected = getattr(breaker, step)(now), getattr(model, step)(now)
                assert (own is None) is (expected is None)
                if own is not None and expected is not None:
                    tickets.append((slot, Ticket(own, expected)))
            elif step == "eject":
                assert breaker.eject(now) is model.eject(now)
            elif step == "restore":
                breaker.restore(now)
                model.restore(now)
                assert {one.state(now) for one in shared} == {model.state(now)}
                for one in shared:  # every worker is told, as it was of the hint
                    one.restore(now)
            elif step == "hint":
                model.hint(now)
                for one in shared:
                    one.hint(now)
            elif (mine := next((one for one in tickets if one[0] == slot), None)) is not None:
                tickets.remove(mine)
                report(breaker, mine[1].own, step, now, model, mine[1].model)
            assert {one.state(now) for one in shared} == {model.state(now)}
            assert {one.retry_at for one in shared} == {model.retry_at}
            assert sum(one.opened_count for one in shared) == model.opened_count


def report(breaker: Breaker, own: int, step: str, now: float, model: Breaker, expected: int) -> None:
    if step == "success":
        breaker.record_success(own, now)
        model.record_success(expected, now)
    elif step == "abandon":
        breaker.record_abandoned(own, now)
        model.record_abandoned(expected, now)
    else:
        hard, patience = step == "hard", 1.0 if step == "patient" else 0.0
        silent_since = now - 0.5 if step == "soft" else math.inf
        opened = breaker.record_failure(own, now, hard=hard, patience=patience, silent_since=silent_since)
        assert opened is model.record_failure(expected, now, hard=hard, patience=patience, silent_since=silent_since)


def test_successes_that_are_written_down_together_count_for_the_share_of_failures() -> None:
    with workers(2) as running:
        one, other = attach(running, BreakerSettings(failures=3, window=1000.0, open_for=4.0))
        for _ in range(4):
            succeed(one, running.now, 64)
            assert not fail(other, running.now)
            succeed(other, running.now)
        assert one.state(running.now) is State.CLOSED


def test_a_success_at_one_worker_ends_the_row_of_another() -> None:
    with workers(2) as running:
        one, other = attach(running)
        assert not fail(one, running.now, 2, hard=False)
        succeed(other, running.now)
        assert not fail(one, running.now, 2, hard=False)
        assert fail(other, running.now, hard=False)


@pytest.mark.parametrize("how", ["dies", "stops"])
def test_the_probe_of_a_worker_that_is_lost_is_another_s(how: str) -> None:
    with workers(2) as running:
        one, other = attach(running)
        assert fail(one, running.now, 3)
        running.advance(SETTINGS.open_for)
        probe = one.admit(running.now)
        assert probe is not None
        assert not other.ready(running.now)
        assert other.admit(running.now) is None
        if how == "dies":
            running.replace(0)
        else:
            running.stopped.add(0)
            running.advance(2.0)
        assert other.ready(running.now)
        succeed(other, running.now)
        one.record_failure(probe, running.now, hard=True)
        assert other.state(running.now) is State.CLOSED


def test_a_successor_finds_the_target_ejected_and_counts_already_made() -> None:
    with workers(2) as running:
        one, _ = attach(running)
        fail(one, running.now, 2)
        running.replace(0)
        one, other = attach(running)
        assert fail(one, running.now)
        running.replace(0)
        assert {breaker.state(running.now) for breaker in attach(running)} == {State.OPEN}
        assert other.admit(running.now) is None


def test_an_operator_s_hold_is_each_worker_s_own_and_no_probe_elsewhere_ends_it() -> None:
    with workers(2) as running:
        one, other = attach(running)
        one.eject(running.now, hold=True)
        running.advance(SETTINGS.open_for)
        succeed(other, running.now)  # it has not heard of the order yet
        assert one.state(running.now) is State.OPEN
        other.eject(running.now, hold=True)
        for breaker in (one, other):
            breaker.restore(running.now)
        assert {breaker.state(running.now) for breaker in (one, other)} == {State.CLOSED}
        succeed(one, running.now)
        succeed(other, running.now)


def test_a_hinted_target_that_answers_one_worker_needs_all_its_failures_at_the_others() -> None:
    with workers(2) as running:
        one, other = attach(running)
        running.advance(1.0)
        for breaker in (one, other):
            breaker.hint(running.now)
        running.advance(1.0)
        succeed(one, running.now)
        assert not fail(other, running.now)
        for breaker in (one, other):
            breaker.hint(running.now + 1.0)
        assert fail(other, running.now + 1.0)
        assert one.state(running.now + 1.0) is State.OPEN


def test_a_target_that_is_gone_here_changes_nothing_for_the_others() -> None:
    with workers(2) as running:
        one, other = attach(running)
        ticket = one.admit(running.now)
        assert ticket is not None
        one.leave()
        one.leave()
        for _ in range(5):
            one.record_failure(ticket, running.now, hard=True)
        assert one.state(running.now) is State.OPEN
        assert other.state(running.now) is State.CLOSED


def test_another_window_begins_empty_and_another_wait_is_what_it_would_have_been() -> None:
    with workers(2) as running:
        one, other = attach(running)
        fail(one, running.now, 2)
        one.configure(SETTINGS._replace(window=4.0))
        assert not fail(other, running.now, 2)
        assert fail(other, running.now)
        one.configure(SETTINGS._replace(window=4.0, open_for=1.0))
        running.advance(1.0)
        assert one.admit(running.now) is not None
        assert other.admit(running.now) is None
