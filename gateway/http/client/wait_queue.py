"""The queue before a pool: first come, first served among those whose tenant may have a place. Pure but for futures."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gateway.http.client.connection import Connection


class Turn:
    """A request in the queue; its future brings a connection to use, or None for leave to open one."""

    __slots__ = ("future", "number", "tenant")

    def __init__(self, future: asyncio.Future[Connection | None], tenant: str, number: int) -> None:
        self.future = future
        self.tenant = tenant
        self.number = number


class Turns:
    """All who wait. Finding the next looks at one of each tenant's, however long the queue is."""

    def __init__(self) -> None:
        self._by_tenant: dict[str, deque[Turn]] = {}
        self.waiting = 0
        """How many wait."""
        self._last = 0

    def add(self, future: asyncio.Future[Connection | None], tenant: str) -> Turn:
        """Join the queue at its end."""
        self._last += 1
        turn = Turn(future, tenant, self._last)
        self._by_tenant.setdefault(tenant, deque()).append(turn)
        self.waiting += 1
        return turn

    def ahead_of(self, tenant: str) -> int:
        """About how many go before one more of this tenant's: all of its own, and of each other tenant's one.

        The rest of another's are no measure: it may not have the last free place while it holds any.
        """
        own = self._by_tenant.get(tenant)
        return len(self._by_tenant) if own is None else len(own) + len(self._by_tenant) - 1

    def remove(self, turn: Turn) -> bool:
        """Leave the queue; whether the turn was still in it."""
        turns = self._by_tenant.get(turn.tenant)
        if turns is None or turn not in turns:
            return False
        turns.remove(turn)
        self._left(turn.tenant, turns)
        return True

    def take(self, may: Callable[[str], bool]) -> Turn | None:
        """Take out whoever came first among the tenants that *may* have a place now."""
        first: Turn | None = None
        for tenant, turns in list(self._by_tenant.items()):
            while turns and turns[0].future.done():  # cancelled just now; it need not take itself out any more
                turns.popleft()
                self._left(tenant, turns)
            if turns and (first is None or turns[0].number < first.number) and may(tenant):
                first = turns[0]
        if first is not None:
            turns = self._by_tenant[first.tenant]
            turns.popleft()
            self._left(first.tenant, turns)
        return first

    def _left(self, tenant: str, turns: deque[Turn]) -> None:
        self.waiting -= 1
        if not turns:
            del self._by_tenant[tenant]
