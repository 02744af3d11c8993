"""The queue before a pool, against a list that is searched from end to end."""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.transport.turns import Turn, Turns

TENANTS = ("a", "b", "c")


class TurnsMachine(RuleBasedStateMachine):
    """Anybody joins, is cancelled, leaves, or is taken, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.turns = Turns()
        self.waiting: list[Turn] = []

    def teardown(self) -> None:
        self.loop.close()

    @rule(tenant=st.sampled_from(TENANTS))
    def one_joins(self, tenant: str) -> None:
        self.waiting.append(self.turns.add(self.loop.create_future(), tenant))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def one_leaves(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(turn)
        assert self.turns.remove(turn)
        assert not self.turns.remove(turn), "nobody leaves twice"

    @rule(allowed=st.sets(st.sampled_from(TENANTS)))
    def the_next_is_taken(self, allowed: set[str]) -> None:
        taken = self.turns.take(lambda tenant: tenant in allowed)
        assert taken is next((turn for turn in self.waiting if turn.tenant in allowed), None)
        if taken is not None:
            self.waiting.remove(taken)
            assert not self.turns.remove(taken)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def one_is_cancelled_and_never_taken(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(self.waiting))
        turn.future.cancel()
        self.waiting.remove(turn)
        taken = [self.turns.take(lambda tenant: True) for _ in range(len(self.waiting) + 1)]
        assert taken == [*self.waiting, None]
        self.waiting.clear()

    @invariant()
    def it_knows_how_many_wait(self) -> None:
        assert self.turns.waiting == len(self.waiting)
        assert bool(self.turns.waiting) is bool(self.waiting)


TurnsMachine.TestCase.settings = settings(stateful_step_count=40)
TestTurnsMachine = TurnsMachine.TestCase
