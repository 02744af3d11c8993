"""The connections to one backend address: kept alive, limited in number, handed on first come, first served.

Every change of state is made by a plain function between two awaits, so that a cancelled or timed-out hook can
never leave a place taken.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Final, NamedTuple

from gateway.transport.connection import Answer, Connection
from gateway.transport.faults import ConnectTimedOut, QueueTimedOut, connect_failed
from gateway.transport.resolver import Resolver
from gateway.verdicts import Cause, Failure, ProxyError

_KEEPALIVE_MARGIN: Final = 0.5
"""Seconds by which an idle connection is given up before the backend's own promise ends."""


class Origin(NamedTuple):
    """Where a pool's connections go."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Deadlines(NamedTuple):
    """Loop times by which the parts of one exchange must be done."""

    queue: float
    connect: float
    answer: float
    budget: float
    """When the caller gives up altogether: what runs out here is a timeout, whatever it was waiting for."""


class PoolLimits(NamedTuple):
    """What a pool allows itself; may be changed while it runs."""

    keepalive: float | None
    """Seconds that an idle connection is kept; None = a new connection per request."""
    max_connections: int
    max_answer: int
    """Bytes of the largest answer body."""


class Pool:
    """Connections to one origin."""

    def __init__(
        self, origin: Origin, limits: PoolLimits, resolver: Resolver, tls: ssl.SSLContext | None = None
    ) -> None:
        self.origin = origin
        self.limits = limits
        self._resolver = resolver
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._idle: deque[Connection] = deque()
        self._connections: set[Connection] = set()
        self._opening = 0
        self._queue: deque[asyncio.Future[Connection | None]] = deque()
        self._reaper: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        return (
            f"<Pool {self.origin} {len(self._connections)} open ({len(self._idle)} idle), "
            f"{self._opening} opening, {len(self._queue)} queued, limit {self.limits.max_connections}>"
        )

    @property
    def open_connections(self) -> int:
        """Connections open or being opened."""
        return len(self._connections) + self._opening

    @property
    def queued(self) -> int:
        """Requests waiting for a connection."""
        return len(self._queue)

    async def exchange(self, head: bytes, body: bytes, deadlines: Deadlines, *, fresh: bool = False) -> Answer:
        """Send one request over a connection of its own time and return the whole answer.

        *fresh* asks for a connection that has carried nothing yet. Raises ExchangeError's kinds.
        """
        connection = await self._acquire(deadlines, fresh)
        try:
            return await connection.exchange(head, body, deadlines.answer)
        finally:
            self._release(connection)

    async def aclose(self) -> None:
        """Close what is idle now and every busy connection as soon as its exchange ends."""
        self._closed = True
        while self._idle:
            self._forget(self._idle[0], abort=True)
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None

    # --- getting a connection ---

    async def _acquire(self, deadlines: Deadlines, fresh: bool) -> Connection:
        if not fresh:
            connection = self._take_idle()
            if connection is not None:
                return connection
        elif self._idle and self.open_connections >= self.limits.max_connections:
            self._forget(self._idle[0], abort=True)  # an idle one makes room for the fresh one
        if self.open_connections >= self.limits.max_connections:
            connection = await self._wait_for_turn(deadlines)
            if connection is not None:
                if not fresh:
                    return connection
                self._forget(connection, abort=True, wake=False)
                self._opening += 1
        else:
            self._opening += 1
        return await self._open(deadlines)

    def _take_idle(self) -> Connection | None:
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()  # the one used last: the least likely to have been closed
            if connection.expires > now and connection.is_quiet():
                return connection
            self._forget(connection, abort=True)
        return None

    async def _wait_for_turn(self, deadlines: Deadlines) -> Connection | None:
        """Queue until a connection is handed over, or leave to open one (None, with the place already taken)."""
        turn: asyncio.Future[Connection | None] = self._loop.create_future()
        self._queue.append(turn)
        timer = self._loop.call_at(deadlines.queue, self._turn_expired, turn)
        try:
            return await turn
        except BaseException:
            if turn in self._queue:
                self._queue.remove(turn)
            elif not turn.cancelled() and turn.exception() is None:
                self._give_back(turn.result())  # cancelled in the very moment in which its turn came
            raise
        finally:
            timer.cancel()

    def _turn_expired(self, turn: asyncio.Future[Connection | None]) -> None:
        if not turn.done():
            detail = f"{self.origin}: all {self.limits.max_connections} connections are busy"
            failure = Failure(Cause.OVERLOAD, ProxyError.CONNECTION_LIMIT_REACHED, detail)
            turn.set_exception(QueueTimedOut(failure, harmless=True))
            self._queue.remove(turn)

    async def _open(self, deadlines: Deadlines) -> Connection:
        """Connect; the caller has taken the place (``_opening``) already."""
        try:
            connection = await self._connect(deadlines)
        except BaseException:
            self._opening -= 1
            self._wake_next()
            raise
        self._opening -= 1
        self._connections.add(connection)
        return connection

    async def _connect(self, deadlines: Deadlines) -> Connection:
        limit = min(deadlines.connect, deadlines.budget)
        try:
            async with asyncio.timeout_at(limit):
                addresses = await self._resolver.resolve(self.origin.host)
                for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
                    try:
                        return await self._connect_to(address, self._loop.time(), limit, left)
                    except OSError:
                        if left == 1:
                            raise
        except TimeoutError as exc:
            if deadlines.budget <= deadlines.connect:
                failure = Failure(Cause.TIMEOUT, ProxyError.CONNECTION_TIMEOUT, f"{self.origin}: not connected in time")
            else:
                failure = Failure(
                    Cause.UNREACHABLE, ProxyError.CONNECTION_TIMEOUT, f"{self.origin}: no connection in time"
                )
            raise ConnectTimedOut(failure, harmless=True) from exc
        except OSError as exc:
            raise connect_failed(exc, str(self.origin)) from exc
        raise AssertionError("a name resolves to at least one address")

    async def _connect_to(self, address: str, now: float, limit: float, left: int) -> Connection:
        # Each address gets its share of the time that is left, so that one dead address cannot eat it all.
        if left == 1:
            _, connection = await self._loop.create_connection(
                self._new_connection,
                address,
                self.origin.port,
                ssl=self._tls,
                server_hostname=self.origin.host if self._tls is not None else None,
            )
            return connection
        async with asyncio.timeout_at(now + (limit - now) / left):
            return await self._connect_to(address, now, limit, 1)

    def _new_connection(self) -> Connection:
        return Connection(self._loop, str(self.origin), self.limits.max_answer, self._forget)

    # --- giving it back ---

    def _release(self, connection: Connection) -> None:
        if not connection.reusable or connection.closed or self._closed or self.limits.keepalive is None:
            self._forget(connection, abort=not connection.closed)
            return
        self._give_back(connection)

    def _give_back(self, connection: Connection | None) -> None:
        """Hand a usable connection, or a free place (None), to the first in the queue; else keep it idle."""
        if connection is None:
            self._opening -= 1
            self._wake_next()
            return
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        keepalive = self.limits.keepalive or 0.0
        if connection.server_keepalive is not None:
            keepalive = min(keepalive, connection.server_keepalive - _KEEPALIVE_MARGIN)
        connection.expires = self._loop.time() + keepalive
        self._idle.append(connection)
        if self._reaper is None:
            self._reaper = self._loop.call_at(connection.expires, self._reap)

    def _wake_next(self) -> None:
        """A place is free: the first in the queue may open a connection."""
        while self._queue and self.open_connections < self.limits.max_connections:
            turn = self._queue.popleft()
            if not turn.done():
                self._opening += 1
                turn.set_result(None)
                return

    def _forget(self, connection: Connection, *, abort: bool = False, wake: bool = True) -> None:
        """Take a connection that is of no more use off the books; calling it twice does no harm."""
        if abort:
            connection.abort()
        if connection in self._connections:
            self._connections.remove(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            if wake:
                self._wake_next()

    def _reap(self) -> None:
        """Close connections that have been idle for too long."""
        self._reaper = None
        now = self._loop.time()
        for connection in [idle for idle in self._idle if idle.expires <= now]:
            self._forget(connection, abort=True)
        if self._idle:
            self._reaper = self._loop.call_at(min(idle.expires for idle in self._idle), self._reap)
