"""A deadline that keeps moving: it rings once, at the time that was set last, and costs one timer."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.http.timer import GRACE, LAG_THRESHOLD, ResettableTimer

HOUR = 3600.0


class Timer:
    """A timer of the Clock's, as an event loop hands them out."""

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """As much of an event loop as a timer asks for: a time that is moved by hand, and its timers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.made = 0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        self.made += 1
        timer = Timer(when, callback)
        self.timers = [one for one in self.timers if not one.cancelled]
        self.timers.append(timer)
        return timer

    @property
    def running(self) -> list[float]:
        """When its timers will go off."""
        return [timer.when for timer in self.timers if not timer.cancelled]

    def hold_up(self, now: float) -> None:
        """Let time pass without a look at the timers."""
        self.now = now

    def move_to(self, now: float) -> None:
        """Let time pass; timers go off in their order, each at its own time."""
        while due := [timer for timer in self.timers if not timer.cancelled and timer.when <= now]:
            first = min(due, key=lambda timer: timer.when)
            self.timers.remove(first)
            self.now = max(self.now, first.when)
            first.callback()
        self.now = now


def new_timer(clock: Clock, ring: Callable[[], None]) -> ResettableTimer:
    loop: Any = clock
    return ResettableTimer(loop, ring)


class Bell:
    """A timer and the times at which it called."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.rang: list[float] = []
        self.timer = new_timer(self.clock, lambda: self.rang.append(self.clock.now))


def test_it_rings_once_at_the_time_that_was_set() -> None:
    bell = Bell()
    bell.timer.set(5.0)
    bell.clock.move_to(4.9)
    assert bell.rang == []
    assert bell.timer.is_set
    bell.clock.move_to(100.0)
    assert bell.rang == [5.0]
    assert not bell.timer.is_set


def test_a_time_that_is_put_off_rings_at_the_later_one_alone() -> None:
    bell = Bell()
    bell.timer.set(5.0)
    bell.timer.set(7.0)
    bell.clock.move_to(6.0)
    bell.timer.set(9.0)
    bell.clock.move_to(100.0)
    assert bell.rang == [9.0]


def test_an_earlier_time_rings_earlier_and_not_again() -> None:
    bell = Bell()
    bell.timer.set(9.0)
    bell.timer.set(5.0)
    bell.clock.move_to(100.0)
    assert bell.rang == [5.0]


def test_a_time_that_is_past_already_rings_at_once_but_not_within_the_setting() -> None:
    bell = Bell()
    bell.clock.move_to(10.0)
    bell.timer.set(9.9)
    assert bell.rang == [], "its setter is not ready for the callback yet"
    bell.clock.move_to(10.0)
    assert bell.rang == [10.0]
    assert bell.timer.late == 0.0


def test_when_it_is_late_by_far_the_loop_looks_first_at_what_has_come() -> None:
    bell = Bell()
    bell.timer.set(5.0)
    bell.clock.hold_up(8.0)
    bell.clock.move_to(8.0)
    assert bell.rang == []
    bell.clock.move_to(9.0)
    assert bell.rang == [8.0 + GRACE]
    assert bell.timer.late == 3.0
    bell.timer.set(10.0)
    bell.clock.move_to(11.0)
    assert bell.rang == [8.0 + GRACE, 10.0]
    assert bell.timer.late == 0.0, "the time before was another matter"


def test_what_has_come_meanwhile_calls_it_off() -> None:
    bell = Bell()
    bell.timer.set(5.0)
    bell.clock.hold_up(8.0)
    bell.clock.move_to(8.0)
    bell.timer.clear()
    bell.clock.move_to(100.0)
    assert bell.rang == []


def test_what_is_called_off_never_rings_and_may_be_set_again() -> None:
    bell = Bell()
    bell.timer.set(5.0)
    bell.timer.clear()
    assert not bell.timer.is_set
    bell.clock.move_to(50.0)
    assert bell.rang == []
    bell.timer.set(60.0)
    bell.clock.move_to(100.0)
    assert bell.rang == [60.0]


@pytest.mark.parametrize("again", [3.0, 5.0, 8.0])
def test_what_is_called_off_and_set_again_rings_at_the_new_time(again: float) -> None:
    bell = Bell()
    bell.timer.set(5.0)
    bell.timer.clear()
    bell.timer.set(again)
    bell.clock.move_to(100.0)
    assert bell.rang == [again]


def test_it_may_be_set_by_what_it_rings() -> None:
    def ring() -> None:
        rang.append(clock.now)
        if len(rang) < 3:
            timer.set(clock.now + 2.0)

    rang: list[float] = []
    clock = Clock()
    timer = new_timer(clock, ring)
    timer.set(1.0)
    clock.move_to(100.0)
    assert rang == [1.0, 3.0, 5.0]


def test_a_timer_that_goes_off_a_little_early_rings_no_earlier_than_due() -> None:
    # uvloop counts milliseconds: its timer may come up to one too soon.
    bell = Bell()
    bell.timer.set(5.0004)
    (timer,) = bell.clock.timers
    bell.clock.timers.remove(timer)
    bell.clock.now = 5.0
    timer.callback()
    assert bell.rang == []
    bell.clock.move_to(6.0)
    assert bell.rang == [5.0004]


def test_closed_it_lets_go_of_its_timer() -> None:
    bell = Bell()
    bell.timer.set(5.0)
    bell.timer.close()
    assert not bell.timer.is_set
    assert bell.clock.running == []
    bell.clock.move_to(100.0)
    assert bell.rang == []
    bell.timer.close()  # a connection may be lost twice


def test_cleared_it_lets_go_of_its_timer_when_that_goes_off() -> None:
    bell = Bell()
    bell.timer.set(5.0)
    bell.timer.clear()
    bell.clock.move_to(5.0)
    assert bell.clock.running == []


def test_a_deadline_that_is_put_off_a_million_times_makes_a_timer_each_time_one_goes_off_and_no_more() -> None:
    bell = Bell()
    for number in range(1_000_000):
        now = number * 0.001
        if number % 1000 == 0:
            bell.clock.move_to(now)
        bell.timer.set(now + 15.0)
        bell.timer.clear()
    assert bell.rang == []
    assert bell.clock.made <= 1000 / 15 + 2


def test_it_shows_when_it_will_ring() -> None:
    bell = Bell()
    assert repr(bell.timer) == "<ResettableTimer off>"
    bell.timer.set(5.0)
    assert repr(bell.timer) == "<ResettableTimer at 5.000>"
    bell.timer.clear()
    assert repr(bell.timer) == "<ResettableTimer off>"


@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_on_a_real_loop_it_rings_once_and_not_before_its_time(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def wait_for_it() -> None:
        loop = asyncio.get_running_loop()
        rang: list[float] = []
        done = asyncio.Event()

        def ring() -> None:
            rang.append(loop.time())
            done.set()

        timer = ResettableTimer(loop, ring)
        due = loop.time() + 0.0305
        timer.set(loop.time() + HOUR)
        timer.set(due - 0.02)
        timer.set(due)
        await asyncio.wait_for(done.wait(), 10)
        await asyncio.sleep(0.01)
        assert len(rang) == 1
        assert rang[0] >= due
        timer.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(wait_for_it())


def test_closed_it_keeps_nobody_in_memory() -> None:
    class Owner:
        def __init__(self) -> None:
            self.timer = ResettableTimer(asyncio.new_event_loop(), self.ring)

        def ring(self) -> None:
            """Nothing."""

    owner = Owner()
    loop, gone = owner.timer._loop, weakref.ref(owner)
    owner.timer.close()
    gc.disable()
    try:
        del owner
        assert gone() is None, "it took no look for cycles"
    finally:
        gc.enable()
        loop.close()


class ResettableTimerMachine(RuleBasedStateMachine):
    """Any order of setting, calling off, closing and waiting, against one variable."""

    def __init__(self) -> None:
        super().__init__()
        self.bell = Bell()
        self.due = math.inf
        self.excused = math.inf
        """The time of which it was late by far, so that the loop looks first."""
        self.looked = 0.0
        self.expected: list[float] = []
        self.closed = False
        self.allowed = 0
        """Timers that may have been made by now: one for each earlier time, one for each that went off."""

    @rule(delay=st.integers(-3, 30))
    def it_is_set(self, delay: int) -> None:
        due = self.bell.clock.now + delay
        if due < min(self.bell.clock.running, default=math.inf):
            self.allowed += 1
            self.looked = -math.inf  # a time that comes first takes the place of a look that was to be
        self.bell.timer.set(due)
        self.due = due

    @rule()
    def it_is_called_off(self) -> None:
        self.bell.timer.clear()
        self.due = math.inf

    @rule()
    def it_is_closed(self) -> None:
        self.bell.timer.close()
        self.due = math.inf
        self.closed = True
        assert self.bell.clock.running == []

    @rule(seconds=st.integers(0, 20))
    def time_passes(self, seconds: int) -> None:
        clock = self.bell.clock
        now = clock.now + seconds
        if self.due <= now:
            rings = max(self.due, clock.now)
            if rings - self.due > LAG_THRESHOLD and self.excused != self.due:
                self.excused = self.due
                self.looked = clock.now
                self.allowed += 1
            if self.excused == self.due:
                rings = max(clock.now, self.looked + GRACE)
            if rings <= now:
                if not self.closed:  # then it never rings again
                    self.expected.append(rings)
                self.due = self.excused = math.inf
        if min(clock.running, default=math.inf) <= now:
            self.allowed += 1
        clock.move_to(now)

    @rule(seconds=st.integers(0, 5))
    def the_loop_is_held_up(self, seconds: int) -> None:
        self.bell.clock.hold_up(self.bell.clock.now + seconds)

    @precondition(lambda self: self.due != math.inf)
    @rule()
    def its_time_comes(self) -> None:
        self.time_passes(max(0, int(self.due - self.bell.clock.now)))

    @invariant()
    def it_rang_when_it_had_to_and_has_at_most_one_timer(self) -> None:
        assert self.bell.rang == self.expected
        assert self.bell.timer.is_set is (self.due != math.inf)
        running = self.bell.clock.running
        assert len(running) <= 1
        assert self.due == math.inf or running[0] <= max(self.due, self.bell.clock.now) + GRACE
        assert self.bell.clock.made <= self.allowed


ResettableTimerMachine.TestCase.settings = settings(stateful_step_count=40)
TestResettableTimerMachine = ResettableTimerMachine.TestCase
