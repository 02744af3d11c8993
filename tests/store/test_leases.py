"""Leases: one process has the duty, and no event is in two processes' hands, in any order of ends."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.store.leases import Leases

PIDS = st.integers(1, 4)
EVENTS = st.sets(st.integers(100, 110), max_size=5)


class Gateway(RuleBasedStateMachine):
    """Workers as they are, beside what the store's process thinks of them."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = Leases()
        self.held: dict[int, set[int]] = {}
        """By the pid of each process that lives, the events that it is delivering."""
        self.connected: set[int] = set()

    @rule(pid=PIDS)
    def a_worker_connects(self, pid: int) -> None:
        if pid not in self.connected:
            self.connected.add(pid)
            self.leases.connect(pid, self.held.setdefault(pid, set()))

    @rule(pid=PIDS)
    def a_connection_ends(self, pid: int) -> None:
        if pid in self.connected:
            self.connected.remove(pid)
            self.leases.disconnect(pid)

    @rule(pid=PIDS)
    def a_process_ends(self, pid: int) -> None:
        if pid in self.held and (pid in self.connected or pid in self.leases.awaited):
            assert set(self.leases.end(pid)) <= self.held.pop(pid)
            self.connected.discard(pid)
        elif pid not in self.leases.awaited:
            self.held.pop(pid, None)

    @precondition(lambda self: self.leases.duty in self.connected)
    @rule(events=EVENTS)
    def events_are_given(self, events: set[int]) -> None:
        free = events - self.leases.leased
        self.leases.lease(self.leases.duty, free)
        self.held[self.leases.duty] |= free

    @rule(pid=PIDS)
    def a_delivery_is_settled(self, pid: int) -> None:
        if pid in self.connected and self.held[pid]:
            self.leases.settle(self.held[pid].pop())

    @rule()
    def the_store_s_process_is_replaced(self) -> None:
        for pid in self.connected:
            self.leases.disconnect(pid)
        self.connected.clear()
        self.leases = Leases(self.leases.duty)

    @invariant()
    def what_is_delivered_is_leased_once_its_process_is_known(self) -> None:
        for pid in self.connected:
            assert self.held[pid] <= self.leases.leased

    @invariant()
    def no_event_is_in_two_hands(self) -> None:
        everything = [event for events in self.held.values() for event in events]
        assert len(everything) == len(set(everything))

    @invariant()
    def somebody_has_the_duty_or_is_waited_for(self) -> None:
        if self.connected:
            assert self.leases.duty in self.connected | self.leases.awaited
        assert not self.leases.awaited & self.connected


TestGateway = Gateway.TestCase


def test_the_duty_stays_with_a_process_whose_connection_ended_until_it_has_ended() -> None:
    leases = Leases()
    leases.connect(1, ())
    leases.connect(2, ())
    assert leases.duty == 1
    leases.lease(1, [100, 101])
    leases.disconnect(1)
    assert (leases.duty, leases.awaited) == (1, {1})
    assert leases.end(1) == [100, 101]
    assert (leases.duty, leases.awaited, set(leases.leased)) == (2, set(), set())


def test_a_process_that_comes_back_keeps_what_it_has_in_its_hands_alone() -> None:
    leases = Leases(duty=7)
    assert leases.awaited == {7}
    leases.connect(8, ())
    assert leases.duty == 7, "the one that had the duty lives"
    leases.connect(7, [100])
    assert set(leases.leased) == {100}
    leases.lease(7, [101])
    leases.disconnect(7)
    assert leases.connect(7, [100]) == [101], "an answer that never reached it leases nothing"
