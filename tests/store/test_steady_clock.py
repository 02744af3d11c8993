"""A clock that does not jump: ages and due times go on as if nobody had set the system's."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.steady_clock import NEAR, SteadyClock, arrival


class Clocks:
    """The system's two."""

    wall = 1_800_000_000.0
    monotonic = 5000.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def test_it_begins_as_the_system_s_clock() -> None:
    clock = SteadyClock()
    assert clock() == pytest.approx(time.time(), abs=1)
    assert clock.jump == 0


@given(st.lists(st.tuples(st.integers(0, 10**4), st.integers(-(10**9), 10**9))))
def test_it_counts_seconds_and_not_jumps(days: list[tuple[int, int]]) -> None:
    clocks = Clocks()
    clock = SteadyClock(lambda: clocks.wall, lambda: clocks.monotonic)
    for passed, jump in days:
        clocks.pass_by(passed)
        clocks.wall += jump
    assert clock() == 1_800_000_000.0 + sum(passed for passed, _ in days)
    assert clock() + clock.jump == clocks.wall


def test_an_event_came_when_it_says_unless_its_clock_was_set_differently() -> None:
    assert arrival(1000.0, 1000.0 + NEAR) == 1000.0
    assert arrival(1002.0, 1000.0) == 1002.0
    assert arrival(1000.0, 1001.0 + NEAR) == 1001.0 + NEAR
    assert arrival(9000.0, 1000.0) == 1000.0
