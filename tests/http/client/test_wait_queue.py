"""The queue before a pool, against a list that is searched from end to end."""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.http.client.wait_queue import Waiter, WaitQueue

TENANTS = ("a", "b", "c")


class TurnsMachine(RuleBasedStateMachine):
    """Anybody joins, is cancelled, leaves, or is taken, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.queue = WaitQueue()
        self.waiting: list[Waiter] = []

    def teardown(self) -> None:
        self.loop.close()

    @rule(tenant=st.sampled_from(TENANTS))
    def one_joins(self, tenant: str) -> None:
        self.waiting.append(self.queue.add(self.loop.create_future(), tenant))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def one_leaves(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(waiter)
        assert self.queue.remove(waiter)
        assert not self.queue.remove(waiter), "nobody leaves twice"

    @rule(allowed=st.sets(st.sampled_from(TENANTS)))
    def the_next_is_taken(self, allowed: set[str]) -> None:
        taken = self.queue.take(lambda tenant: tenant in allowed)
        assert taken is next((waiter for waiter in self.waiting if waiter.tenant in allowed), None)
        if taken is not None:
            self.waiting.remove(taken)
            assert not self.queue.remove(taken)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def one_is_cancelled_and_never_taken(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiting))
        waiter.future.cancel()
        self.waiting.remove(waiter)
        taken = [self.queue.take(lambda tenant: True) for _ in range(len(self.waiting) + 1)]
        assert taken == [*self.waiting, None]
        self.waiting.clear()

    @invariant()
    def it_knows_how_many_wait(self) -> None:
        assert self.queue.waiting == len(self.waiting)
        assert bool(self.queue.waiting) is bool(self.waiting)


TurnsMachine.TestCase.settings = settings(stateful_step_count=40)
TestTurnsMachine = TurnsMachine.TestCase
