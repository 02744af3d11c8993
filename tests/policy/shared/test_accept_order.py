"""Workers accept in turn: none takes a connection that another should, and none waits for one that cannot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.shared.accept_order import AcceptOrder
from tests.policy.shared.workers import Workers, workers


def accept_orders(running: Workers) -> list[AcceptOrder]:
    order = [AcceptOrder(memory) for memory in running.memories]
    for each in order:
        each.note(0)
    return order


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=120))
def test_connections_come_to_be_shared_out_evenly(steps: list[tuple[int, bool]]) -> None:
    """Each step: this worker is awake first; a connection comes, or one of the worker's goes."""
    with workers(3) as running:
        order, held = accept_orders(running), [0, 0, 0]
        for first, comes in steps:
            if comes:
                taker = next(slot for slot in (first, (first + 1) % 3, (first + 2) % 3) if not order[slot].is_ahead())
                before = min(held)
                held[taker] += 1
                order[taker].note(held[taker])
                assert held[taker] <= before + 2
            elif held[first]:
                held[first] -= 1
                order[first].note(held[first])


def test_nobody_leaves_a_connection_to_a_worker_that_is_lost_ended_or_accepts_no_more() -> None:
    with workers(2) as running:
        one, other = accept_orders(running)
        one.note(10)
        assert one.is_ahead()
        running.stopped.add(1)  # no signs of life
        running.advance(2.0)
        assert not one.is_ahead()
        running.stopped.clear()
        running.advance(0.5)
        assert one.is_ahead()
        other.retire()
        assert not one.is_ahead()
        other.note(0)  # a connection of its last ones ends
        assert not one.is_ahead()
        successor = AcceptOrder(running.replace(1))
        assert not one.is_ahead()  # until it accepts
        successor.note(0)
        assert one.is_ahead()
