"""The connections to one backend address: kept alive, limited in number, handed on first come, first served.

Every change of state is made by a plain function between two awaits, so that a cancelled or timed-out hook can
never leave a connection reserved.
"""

from __future__ import annotations

import asyncio
import math
import random
import ssl
import time
from collections import deque
from typing import Final, NamedTuple

import msgspec

from gateway.http.client.answer_parser import Answer
from gateway.http.client.connection import Connection
from gateway.http.client.dialer import Dialer, Origin
from gateway.http.client.errors import ExchangeError, QueueTimedOut
from gateway.http.client.resolver import Resolver
from gateway.http.client.wait_queue import Waiter, WaitQueue
from gateway.model.verdicts import Cause, Failure, ProxyError
from gateway.policy.shared import POLL_EVERY, Quota

_KEEPALIVE_MARGIN: Final = 0.5
"""Seconds by which an idle connection is given up before the backend's own promise ends."""
_JITTER: Final = 0.2
"""The part of their greatest age by which some connections end earlier: not all at once."""


class RequestOptions(msgspec.Struct, frozen=True, gc=False):
    """One request's time limits (loop times by which its phases must end) and its tenant."""

    queue: float
    connect: float
    answer: float
    budget: float
    """When the caller gives up: if this time runs out, the cause is a timeout, in any phase."""
    usual: float = 0.0
    """Seconds that an exchange with this backend usually takes: a request with less time left need not queue."""
    tenant: str = ""
    """Whose request it is, if several share the pool."""
    read: float | None = None
    """Seconds for the answer, counted from when the connection is there, in place of *answer*."""
    timeout_header: bytes = b""
    """Header field that carries the remaining milliseconds of the budget; empty = none is sent."""


class PoolLimits(NamedTuple):
    """A pool's limits; they may be changed while it runs."""

    keepalive: float | None
    """Seconds that an idle connection is kept; None = a new connection per request."""
    max_connections: int
    max_answer: int
    """Bytes of the largest answer body."""
    shared: bool = False
    """Whether several tenants use the pool, none of which may take all of it."""
    max_age: float = math.inf
    """Seconds after which a connection carries no further request."""


class Pool:
    """Connections to one origin.

    Where tenants share it, none may hold more than twice what is left free, nor the last free place while it holds
    another: one whose requests hang comes to rest at about two thirds, and there is always room for the next.
    """

    def __init__(self, origin: Origin, limits: PoolLimits, resolver: Resolver, quota: Quota | None = None) -> None:
        self.origin = origin
        self._quota = quota
        """What all workers may have; None where there is no other. The limit is then that of all."""
        self._poll: asyncio.TimerHandle | None = None
        self.limits = limits
        self._dialer = Dialer(origin, resolver, self._new_connection)
        self._loop = asyncio.get_running_loop()
        self._idle: deque[Connection] = deque()
        self._connections: set[Connection] = set()
        self._opening = 0
        self._busy = 0  # exchanges that have a place: with a connection, or about to open one
        self._queue = WaitQueue()
        self._in_use: dict[str, int] = {}
        self._reaper: asyncio.TimerHandle | None = None
        self._reap_at = math.inf
        self._follower: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return (
            f"<Pool {self.origin} {len(self._connections)} open ({len(self._idle)} idle), "
            f"{self._opening} opening, {self._busy} busy, {self._queue.waiting} queued, "
            f"limit {self.limits.max_connections}>"
        )

    @property
    def is_secure(self) -> bool:
        """Whether connections are made over TLS."""
        return self._dialer.tls is not None

    @property
    def open_connections(self) -> int:
        """Connections open or being opened."""
        return len(self._connections) + self._opening

    @property
    def queued(self) -> int:
        """Requests waiting for a connection."""
        return self._queue.waiting

    @property
    def free(self) -> int:
        """Requests that could begin now: without waiting, and without making one of another worker wait."""
        if self._queue.waiting:
            return 0
        free = self.limits.max_connections - self._busy
        if self._quota is not None and free > 0:
            free = 0 if self._quota.is_wanted() else free - self._quota.others()
        return max(free, 0)

    def set_limits(self, limits: PoolLimits) -> None:
        """Change the limits: idle connections beyond them are closed now, busy ones when they are done."""
        self.limits = limits
        until = self._loop.time() + (limits.keepalive or 0.0)
        for connection in list(self._idle):
            connection.expires = min(connection.expires, until)
            if limits.keepalive is None or self.open_connections > limits.max_connections:
                self._drop(connection, abort=True)
        self._reap()

    def set_tls(self, tls: ssl.SSLContext, server_name: str | None) -> None:
        """Make connections over TLS from now on; close those made with other settings, busy ones later."""
        if self._dialer.set_tls(tls, server_name):
            while self._idle:
                self._drop(self._idle[0], abort=True)

    async def exchange(self, head: bytes, body: bytes, options: RequestOptions, *, fresh: bool = False) -> Answer:
        """Send one request over a connection of its own time and return the whole answer.

        *head* lacks the empty line at its end: what is left of the budget is known only when the queue is behind.
        *fresh* asks for a connection that has carried nothing yet. Raises ExchangeError's kinds.
        """
        queued = 0.0
        if self._has_room(options.tenant) and self._reserve():
            self._begin_exchange(options.tenant)
            connection = None if fresh else self._take_idle()
        else:
            began = time.perf_counter()  # as every duration: the loop's clock does not advance while it is busy
            try:
                connection = await self._wait_in_queue(options)
            except QueueTimedOut as exc:
                exc.queued = time.perf_counter() - began
                raise
            queued = time.perf_counter() - began
            options = msgspec.structs.replace(
                options, connect=options.connect + queued
            )  # the time to connect begins with the turn
            if connection is not None and (fresh or not connection.is_quiet()):
                self._drop(connection, abort=True)
                connection = None
        if connection is None:
            connection = await self._open(options)
        try:
            if options.timeout_header:
                left = max(0.0, options.budget - self._loop.time())
                head += b"%b: %d\r\n" % (options.timeout_header, left * 1000)
            until = options.answer if options.read is None else self._loop.time() + options.read
            answer = await connection.exchange(head + b"\r\n", body, until)
            return msgspec.structs.replace(answer, queued=queued) if queued else answer
        except ExchangeError as exc:
            exc.queued = queued
            raise
        finally:
            self._release(connection, options.tenant)

    async def aclose(self) -> None:
        """Close what is idle now and every busy connection as soon as its exchange ends."""
        self._closed = True
        while self._idle:
            self._drop(self._idle[0], abort=True)
        if self._reaper is not None:
            self._reaper.cancel()
        if self._follower is not None:
            self._follower.cancel()
        self._dialer.close()

    # --- getting a connection ---

    async def _open(self, options: RequestOptions) -> Connection:
        """A new connection for a request that has reserved one; if it cannot be made, the reservation ends."""
        if self._idle and (self._quota is not None or self.open_connections >= self.limits.max_connections):
            self._drop(self._idle[0], abort=True)  # an idle one makes room for the new one
        self._opening += 1
        try:
            connection = await self._dialer.connect(options.connect, options.budget)
        except BaseException:
            self._opening -= 1
            self._end_exchange(options.tenant)
            raise
        self._opening -= 1
        self._connections.add(connection)
        connection.born = self._loop.time()
        if self.limits.max_age < math.inf:
            connection.born -= _JITTER * random.random() * self.limits.max_age  # noqa: S311
        if self._dialer.has_name and self._follower is None and not self._closed:
            self._follower = self._loop.create_task(self._follow_name(), name=f"addresses of {self.origin}")
        return connection

    def _has_room(self, tenant: str) -> bool:
        """Whether this tenant may begin one more exchange now."""
        free = self.limits.max_connections - self._busy
        if self._quota is not None and free > 0:
            free = 0 if self._quota.yields(self._busy) else free - self._quota.others()
        if free <= 0 or not self.limits.shared:
            return free > 0
        mine = self._in_use.get(tenant, 0)
        return mine == 0 or mine < 2 * (free - 1)

    def _reserve(self) -> bool:
        """Whether all workers together may have the connection that one more exchange needs; true = it is taken."""
        if self._quota is None or self._idle:
            return True
        return self._quota.reserve(self._busy + 1, self.limits.max_connections)

    def _note_use(self) -> None:
        """Publish to the other workers how many connections are held here, and how many requests wait."""
        if self._quota is not None:
            self._quota.note(self._busy + len(self._idle), self._queue.waiting)

    def _begin_exchange(self, tenant: str) -> None:
        self._busy += 1
        if self.limits.shared:
            self._in_use[tenant] = self._in_use.get(tenant, 0) + 1

    def _end_exchange(self, tenant: str) -> None:
        """An exchange is over: its connection goes to the first in the queue that may have it."""
        self._busy -= 1
        if mine := self._in_use.get(tenant, 0):
            if mine > 1:
                self._in_use[tenant] = mine - 1
            else:
                del self._in_use[tenant]
        self._note_use()
        if self._queue.waiting and (self._quota is None or not self._quota.yields(self._busy + 1)):
            self.serve_waiting()

    def serve_waiting(self) -> None:
        """Give free connections to waiting requests, first come, first served."""
        while (
            self._busy < self.limits.max_connections
            and self._reserve()
            and (waiter := self._queue.take(self._has_room)) is not None
        ):
            self._begin_exchange(waiter.tenant)
            waiter.future.set_result(self._take_idle())
        self._note_use()

    def _poll_waiting(self) -> None:
        """Look again: other workers free connections without saying so."""
        self.serve_waiting()
        self._poll = self._loop.call_later(POLL_EVERY, self._poll_waiting) if self._queue.waiting else None

    def _take_idle(self) -> Connection | None:
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()  # the one used last: the least likely to have been closed
            if connection.expires > now and connection.is_quiet():
                return connection
            self._drop(connection, abort=True)
        return None

    async def _wait_in_queue(self, options: RequestOptions) -> Connection | None:
        """Queue until a connection is free; returns it, or None for permission to open one.

        A request that could no longer be answered in time leaves at once, in favour of one that can.
        """
        latest = options.queue - options.usual
        ahead = self._queue.count_ahead(options.tenant) if self.limits.shared else self._queue.waiting
        expected = options.usual * (ahead + 1) / self.limits.max_connections
        if self._loop.time() + expected > latest:
            raise self._overloaded("is busy, and the queue too long to be answered in time")
        waiter = self._queue.add(self._loop.create_future(), options.tenant)
        timer = self._loop.call_at(latest, self._wait_expired, waiter)
        if self._quota is not None:
            self._note_use()
            if self._poll is None:
                self._poll = self._loop.call_later(POLL_EVERY, self._poll_waiting)
        try:
            return await waiter.future
        except BaseException:
            if not self._queue.remove(waiter) and not waiter.future.cancelled() and waiter.future.exception() is None:
                # Cancelled in the very moment in which its turn came: what it was given goes on to the next.
                connection = waiter.future.result()
                if connection is not None:
                    self._keep_idle(connection)
                self._end_exchange(options.tenant)
            raise
        finally:
            timer.cancel()
            self._note_use()

    def _wait_expired(self, waiter: Waiter) -> None:
        if self._queue.remove(waiter) and not waiter.future.done():
            waiter.future.set_exception(self._overloaded("stayed busy for too long"))

    def _overloaded(self, what: str) -> QueueTimedOut:
        detail = f"{self.origin}: every connection that the limit of {self.limits.max_connections} allows {what}"
        return QueueTimedOut(Failure(Cause.OVERLOAD, ProxyError.CONNECTION_LIMIT_REACHED, detail), retry_safe=True)

    async def _follow_name(self) -> None:
        """While there are connections, look where the name leads; those to an address that it lost end after use."""
        try:
            while self._connections:
                addresses = await self._dialer.next_addresses()
                for connection in [each for each in self._connections if each.peer not in addresses]:
                    connection.tls_settings = None
                    if connection in self._idle:
                        self._drop(connection, abort=True)
        finally:
            self._follower = None  # also after a failure, the next connection begins it again

    def _new_connection(self) -> Connection:
        return Connection(self._loop, str(self.origin), self.limits.max_answer, self._drop)

    # --- giving it back ---

    def _release(self, connection: Connection, tenant: str) -> None:
        if connection.reusable and not connection.closed and not self._closed and self.limits.keepalive is not None:
            self._keep_idle(connection)
        else:
            self._drop(connection, abort=not connection.closed)
        self._end_exchange(tenant)

    def _keep_idle(self, connection: Connection) -> None:
        is_beyond = len(self._connections) > self.limits.max_connections  # the limit was higher
        if (
            self._closed
            or connection.tls_settings is not self._dialer.tls_settings
            or is_beyond
            or not self._may_idle()
        ):
            self._drop(connection, abort=True)
            return
        now, keepalive = self._loop.time(), self.limits.keepalive or 0.0
        end = connection.born + self.limits.max_age
        if end <= now:
            self._drop(connection, abort=True)
            return
        if connection.server_keepalive is not None:
            keepalive = min(keepalive, connection.server_keepalive - _KEEPALIVE_MARGIN)
        connection.expires = min(now + keepalive, end)
        self._idle.append(connection)
        if connection.expires < self._reap_at:
            self._reap_later(connection.expires)

    def _may_idle(self) -> bool:
        """Whether a connection may be kept that nobody uses, now that one in use is given back."""
        held = self._busy + len(self._idle)
        return self._quota is None or self._quota.may_keep(held, self.limits.max_connections)

    def yield_idle(self) -> None:
        """Close connections that nobody uses here where a hook waits at another worker."""
        if self._quota is not None and self._idle and self._quota.is_wanted():
            while self._idle:
                self._drop(self._idle[0], abort=True)
            self._note_use()

    def _drop(self, connection: Connection, *, abort: bool = False) -> None:
        """Forget a connection that is no longer usable; may be called more than once."""
        if abort:
            connection.abort()
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
            self._note_use()  # nobody may ask here for long: what is not held must not count at the other workers

    def _reap(self) -> None:
        """Close connections that have been idle for too long."""
        self._reap_at = math.inf
        now = self._loop.time()
        for connection in [idle for idle in self._idle if idle.expires <= now]:
            self._drop(connection, abort=True)
        self._note_use()
        if self._idle:
            self._reap_later(min(idle.expires for idle in self._idle))

    def _reap_later(self, when: float) -> None:
        if self._reaper is not None:
            self._reaper.cancel()
        self._reap_at = when
        self._reaper = self._loop.call_at(when, self._reap)
