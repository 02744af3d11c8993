"""Limits of several workers hold in sum, and one worker alone may use all there is."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.policy.rate_limit import Limiter, Rate
from gateway.policy.shared import AppLimits, Memory, SharedLimiter
from gateway.policy.shared import limits as sharing_limits
from tests.policy.shared.workers import workers

RATES = st.builds(Rate, st.floats(0.01, 1000), st.integers(1, 50))
HOOKS = st.lists(st.tuples(st.integers(0, 2), st.floats(0, 2)), max_size=150)
"""At which worker each comes, and how many seconds after the one before."""


@given(RATES, HOOKS)
def test_workers_buckets_are_one(rate: Rate, hooks: list[tuple[int, float]]) -> None:
    with workers(3) as running:
        buckets = [AppLimits(memory, "app a").limiter(rate, running.now) for memory in running.memories]
        model = Limiter(rate, running.now)
        for slot, seconds in hooks:
            running.now += seconds
            assert buckets[slot].take(running.now) is model.take(running.now)


@given(RATES, HOOKS, st.lists(st.floats(0, 0.05), min_size=3, max_size=3))
def test_clocks_that_lag_behind_let_no_more_through(
    rate: Rate, hooks: list[tuple[int, float]], lags: list[float]
) -> None:
    with workers(3) as running:
        buckets = [AppLimits(memory, "app a").limiter(rate, running.now) for memory in running.memories]
        began, passed = running.now - max(lags), 0
        for slot, seconds in hooks:
            running.now += seconds
            passed += buckets[slot].take(running.now - lags[slot])
            assert passed <= rate.burst + rate.per_second * (running.now - began) + 0.01


def test_another_rate_forgets_nothing_and_a_successor_finds_the_bucket_as_it_was() -> None:
    with workers(2) as running:
        one, other = (AppLimits(memory, "app a").limiter(Rate(1.0, 5), running.now) for memory in running.memories)
        assert [one.take(running.now) for _ in range(4)] == [True] * 4
        successor = AppLimits(running.replace(0), "app a").limiter(Rate(1.0, 5), running.now)
        assert [limiter.take(running.now) for limiter in (successor, other)] == [True, False]
        other.configure(Rate(1.0, 7))
        assert [other.take(running.now) for _ in range(3)] == [True, True, False]


@given(RATES, st.lists(st.tuples(st.integers(0, 2), st.floats(0, 2), st.none() | st.floats(0.01, 1)), max_size=100))
@example(Rate(0.625, 1), [(0, 0.0, None), (0, 1.25, None), (0, 0.5, 0.5)])
def test_a_share_of_a_fleet_s_rate_changes_once_for_all_workers(
    whole: Rate, steps: list[tuple[int, float, float | None]]
) -> None:
    with workers(3) as running:
        buckets = [AppLimits(memory, "app a").rescaled_limiter(whole, running.now) for memory in running.memories]
        model = Limiter(whole, running.now)
        for slot, seconds, part in steps:
            running.now += seconds
            if part is not None:
                for limiter in (*buckets[slot:], *buckets[:slot], model):
                    limiter.rescale(whole.scaled(whole.per_second * part), running.now)
            assert buckets[slot].take(running.now) is model.take(running.now)


def test_a_worker_that_has_not_heard_of_a_smaller_share_yet_lets_no_burst_through() -> None:
    with workers(2) as running:
        one, other = (
            AppLimits(memory, "app a").rescaled_limiter(Rate(80.0, 80), running.now) for memory in running.memories
        )
        assert sum(one.take(running.now) for _ in range(100)) == 80
        one.rescale(Rate(20.0, 20), running.now)
        assert not other.take(running.now)
        one.rescale(Rate(80.0, 80), running.now)
        other.rescale(Rate(80.0, 80), running.now)
        assert not other.take(running.now)


def test_while_the_bucket_is_locked_for_good_each_worker_has_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    with workers(2) as running:
        limiter = AppLimits(running.memories[0], "app a").limiter(Rate(4.0, 8), running.now)
        assert isinstance(limiter, SharedLimiter)
        monkeypatch.setattr(Memory, "lock", lambda self, at: False)
        assert sum(limiter.take(running.now) for _ in range(20)) == 4


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["come", "go", "die"])), max_size=200), st.integers(1, 6))
def test_no_more_are_inside_than_may_whatever_dies(steps: list[tuple[int, str]], most: int) -> None:
    with workers(3) as running:
        apps = [AppLimits(memory, "app a") for memory in running.memories]
        inside = [0, 0, 0]
        for slot, step in steps:
            active_count = apps[slot].active_count
            if step == "come":
                active_count.note(inside[slot] + 1)
                if active_count.total(inside[slot] + 1) <= most:
                    inside[slot] += 1
                else:
                    assert sum(inside) == most
                    active_count.note(inside[slot])
            elif step == "go" and inside[slot]:
                inside[slot] -= 1
                active_count.note(inside[slot])
            elif step == "die":
                inside[slot] = 0
                apps[slot] = AppLimits(running.replace(slot), "app a")
            assert sum(inside) <= most
            assert apps[slot].active_count.total(inside[slot]) == sum(inside)


def test_an_app_for_which_there_is_no_room_has_an_equal_share_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing_limits, "take_entry", lambda *_: None)
    with workers(2) as running:
        app = AppLimits(running.memories[0], "app a")
        app.active_count.note(3)
        assert app.active_count.total(3) == 6
        limiter = app.limiter(Rate(4.0, 8), running.now)
        assert sum(limiter.take(running.now) for _ in range(20)) == 4
        app.leave()
