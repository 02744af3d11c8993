"""The running estimate of a target's usual answer time."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams.latency import LastMinute, LatencyEstimator, quantile

SECONDS = st.floats(0, 100)


def usual_of(times: list[float]) -> LatencyEstimator:
    usual = LatencyEstimator()
    for seconds in times:
        usual.observe(seconds)
    return usual


def test_nothing_is_known_at_first() -> None:
    assert LatencyEstimator().estimate() == 0.0


def test_the_first_answer_counts_double() -> None:
    """RFC 6298, section 2.2: its deviation is taken to be half of it."""
    assert usual_of([0.1]).estimate() == pytest.approx(0.2)


def test_the_second_moves_the_mean_by_an_eighth_and_the_deviation_by_a_quarter() -> None:
    assert usual_of([0.1, 0.2]).estimate() == pytest.approx(0.1125 + 2 * (0.05 + (0.1 - 0.05) / 4))


def test_an_answer_in_no_time_is_an_answer_too() -> None:
    assert usual_of([0.0, 0.1]).estimate() == pytest.approx(0.0125 + 2 * 0.025)


@given(st.floats(0, 100))
def test_of_a_steady_target_the_time_itself_becomes_the_estimate(seconds: float) -> None:
    assert usual_of([seconds] * 100).estimate() == pytest.approx(seconds, rel=1e-6)


@given(st.lists(SECONDS, min_size=1))
def test_the_estimate_lies_between_the_fastest_answer_and_thrice_the_slowest(times: list[float]) -> None:
    assert min(times) * (1 - 1e-9) <= usual_of(times).estimate() <= 3 * max(times)


@given(st.lists(SECONDS), SECONDS, SECONDS)
def test_what_was_long_ago_is_forgotten(past: list[float], one: float, other: float) -> None:
    recent = [one, other] * 200
    assert usual_of(past + recent).estimate() == pytest.approx(usual_of(recent).estimate(), rel=1e-6, abs=1e-6)


def test_most_answers_of_a_target_with_some_spread_come_within_the_estimate() -> None:
    rng = random.Random(7)
    times = [rng.gauss(0.1, 0.01) for _ in range(2000)]
    usual, within = LatencyEstimator(), 0
    for seconds in times:
        within += seconds <= usual.estimate()
        usual.observe(seconds)
    assert within > 0.8 * len(times)


def test_it_shows_milliseconds() -> None:
    assert repr(usual_of([0.05])) == "<LatencyEstimator 100.0 ms>"


# --- the last minute ---


def last_minute_of(times: list[tuple[float, float]]) -> LastMinute:
    minute = LastMinute()
    for at, seconds in times:
        minute.observe(seconds, at)
    return minute


@given(st.lists(st.floats(0.0001, 60), min_size=1, max_size=60), st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_right_to_five_percent(times: list[float], part: float) -> None:
    exact = sorted(times)[max(1, math.ceil(part * len(times))) - 1]
    found = quantile(last_minute_of([(0.0, seconds) for seconds in times]).times(0.0), part)
    assert found == pytest.approx(exact, rel=0.05)


def test_of_nothing_there_is_no_quantile() -> None:
    assert quantile({}, 0.5) is None
    assert quantile(LastMinute().times(0.0), 0.5) is None


def test_times_beyond_what_is_told_apart_are_told_as_the_bounds() -> None:
    minute = last_minute_of([(0.0, 0.0), (0.0, 1e9)])
    assert quantile(minute.times(0.0), 0.5) == pytest.approx(0.0001)
    assert quantile(minute.times(0.0), 1.0) == pytest.approx(60, rel=0.1)


@given(st.lists(st.floats(0, 30), max_size=40), st.floats(0, 100))
def test_the_last_minute_counts_and_what_is_older_than_seventy_seconds_does_not(
    steps: list[float], wait: float
) -> None:
    now, moments = 0.0, []
    minute = LastMinute()
    for step in steps:
        now += step
        minute.observe(0.01, now)
        moments.append(now)
    now += wait
    counted = sum(minute.times(now).values())
    assert counted >= sum(now - moment < 60 for moment in moments)
    assert counted <= sum(now - moment <= 70 for moment in moments)


def test_the_times_of_several_processes_add_up() -> None:
    one, other = last_minute_of([(0.0, 0.01)] * 3).times(0.0), last_minute_of([(0.0, 1.0)]).times(0.0)
    both = {bucket: one.get(bucket, 0) + other.get(bucket, 0) for bucket in {*one, *other}}
    assert quantile(both, 0.75) == pytest.approx(0.01, rel=0.05)
    assert quantile(both, 1.0) == pytest.approx(1.0, rel=0.05)
