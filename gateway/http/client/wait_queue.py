"""The queue of a pool: first come, first served among tenants that may have a connection. Pure except for futures."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gateway.http.client.connection import Connection


class Waiter:
    """A request in the queue; its future brings a connection, or None for permission to open one."""

    __slots__ = ("future", "number", "tenant")

    def __init__(self, future: asyncio.Future[Connection | None], tenant: str, number: int) -> None:
        self.future = future
        self.tenant = tenant
        self.number = number


class WaitQueue:
    """All waiters. Finding the next one looks at one per tenant, however long the queue is."""

    def __init__(self) -> None:
        self._by_tenant: dict[str, deque[Waiter]] = {}
        self.waiting = 0
        """Number of waiters."""
        self._last = 0

    def add(self, future: asyncio.Future[Connection | None], tenant: str) -> Waiter:
        """Join the queue at its end."""
        self._last += 1
        waiter = Waiter(future, tenant, self._last)
        self._by_tenant.setdefault(tenant, deque()).append(waiter)
        self.waiting += 1
        return waiter

    def count_ahead(self, tenant: str) -> int:
        """About how many go before one more of this tenant's: all of its own, and of each other tenant's one.

        The rest of another's are no measure: it may not have the last free place while it holds any.
        """
        own = self._by_tenant.get(tenant)
        return len(self._by_tenant) if own is None else len(own) + len(self._by_tenant) - 1

    def remove(self, waiter: Waiter) -> bool:
        """Leave the queue; returns whether the waiter was still in it."""
        waiters = self._by_tenant.get(waiter.tenant)
        if waiters is None or waiter not in waiters:
            return False
        waiters.remove(waiter)
        self._count_removed(waiter.tenant, waiters)
        return True

    def take(self, may: Callable[[str], bool]) -> Waiter | None:
        """Take out the first waiter of the tenants that *may* have a connection now."""
        first: Waiter | None = None
        for tenant, waiters in list(self._by_tenant.items()):
            while waiters and waiters[0].future.done():  # cancelled just now; it need not take itself out any more
                waiters.popleft()
                self._count_removed(tenant, waiters)
            if waiters and (first is None or waiters[0].number < first.number) and may(tenant):
                first = waiters[0]
        if first is not None:
            waiters = self._by_tenant[first.tenant]
            waiters.popleft()
            self._count_removed(first.tenant, waiters)
        return first

    def _count_removed(self, tenant: str, waiters: deque[Waiter]) -> None:
        self.waiting -= 1
        if not waiters:
            del self._by_tenant[tenant]
