"""The running estimate of a target's usual answer time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.latency import Usual

CHECKED = settings(deadline=None)
SECONDS = st.floats(0, 100)


def usual_of(times: list[float]) -> Usual:
    usual = Usual()
    for seconds in times:
        usual.observe(seconds)
    return usual


def test_nothing_is_known_at_first() -> None:
    assert Usual().estimate() == 0.0


def test_the_first_answer_counts_double() -> None:
    """RFC 6298, section 2.2: its deviation is taken to be half of it."""
    assert usual_of([0.1]).estimate() == pytest.approx(0.2)


def test_the_second_moves_the_mean_by_an_eighth_and_the_deviation_by_a_quarter() -> None:
    assert usual_of([0.1, 0.2]).estimate() == pytest.approx(0.1125 + 2 * (0.05 + (0.1 - 0.05) / 4))


def test_an_answer_in_no_time_is_an_answer_too() -> None:
    assert usual_of([0.0, 0.1]).estimate() == pytest.approx(0.0125 + 2 * 0.025)


@given(st.floats(0, 100))
@CHECKED
def test_of_a_steady_target_the_time_itself_becomes_the_estimate(seconds: float) -> None:
    assert usual_of([seconds] * 100).estimate() == pytest.approx(seconds, rel=1e-6)


@given(st.lists(SECONDS, min_size=1))
@CHECKED
def test_the_estimate_lies_between_the_fastest_answer_and_thrice_the_slowest(times: list[float]) -> None:
    assert min(times) * (1 - 1e-9) <= usual_of(times).estimate() <= 3 * max(times)


@given(st.lists(SECONDS), SECONDS, SECONDS)
@CHECKED
def test_what_was_long_ago_is_forgotten(past: list[float], one: float, other: float) -> None:
    recent = [one, other] * 200
    assert usual_of(past + recent).estimate() == pytest.approx(usual_of(recent).estimate(), rel=1e-6, abs=1e-6)


def test_most_answers_of_a_target_with_some_spread_come_within_the_estimate() -> None:
    rng = random.Random(7)
    times = [rng.gauss(0.1, 0.01) for _ in range(2000)]
    usual, within = Usual(), 0
    for seconds in times:
        within += seconds <= usual.estimate()
        usual.observe(seconds)
    assert within > 0.8 * len(times)


def test_it_shows_milliseconds() -> None:
    assert repr(usual_of([0.05])) == "<Usual 100.0 ms>"
