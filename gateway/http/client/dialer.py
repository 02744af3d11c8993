"""Makes connections to one origin: looks its name up, tries its addresses, and secures the connection."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import NamedTuple

from gateway.http.client.connection import Connection
from gateway.http.client.deadline import Deadline
from gateway.http.client.dial import dial_first
from gateway.http.client.errors import ConnectTimedOut, connect_error, timeout_error
from gateway.http.client.resolver import Resolver, is_address
from gateway.model.verdicts import Cause, Failure, ProxyError


class Origin(NamedTuple):
    """Where a pool's connections go."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Dialer:
    """Makes the connections of one pool. Build it inside a running loop."""

    def __init__(self, origin: Origin, resolver: Resolver, new_connection: Callable[[], Connection]) -> None:
        self.origin = origin
        self.has_name = not is_address(origin.host)
        """Whether the origin is a name, whose addresses may change."""
        self._resolver = resolver
        self._new_connection = new_connection
        self._loop = asyncio.get_running_loop()
        self.tls: ssl.SSLContext | None = None
        self._server_name: str | None = None
        self.tls_settings: tuple[ssl.SSLContext | None, str | None] = (None, None)
        """What connections are made with: another object after each change."""
        self._trials: set[asyncio.Task[None]] = set()

    def set_tls(self, tls: ssl.SSLContext, server_name: str | None) -> bool:
        """Make connections over TLS; returns whether that changes anything."""
        if (tls, server_name) == (self.tls, self._server_name):
            return False
        self.tls, self._server_name = tls, server_name
        self.tls_settings = (tls, server_name)
        return True

    def close(self) -> None:
        """Cancel what runs beside the hooks."""
        for task in self._trials:
            task.cancel()

    async def connect(self, until: float, budget: float) -> Connection:
        """A new connection.

        Raises ExchangeError's kinds: it is a timeout if the *budget* runs out, and unreachable if only the time for
        connecting does, which ends at *until*. Both are loop times.
        """
        limit = min(until, budget)
        deadline = Deadline(self._loop, limit)
        try:
            async with deadline:
                addresses = await self._resolver.resolve(self.origin.host)
                if len(addresses) == 1:
                    return await self._dial(addresses[0])
                return await self._dial_one_of(addresses, limit)
        except TimeoutError as exc:
            self._resolver.recheck(self.origin.host)
            if budget <= until:
                failure = Failure(Cause.TIMEOUT, ProxyError.CONNECTION_TIMEOUT, f"{self.origin}: not connected in time")
            else:
                failure = Failure(
                    Cause.UNREACHABLE, ProxyError.CONNECTION_TIMEOUT, f"{self.origin}: no connection in time"
                )
            raise timeout_error(ConnectTimedOut, failure, deadline.late, retry_safe=True) from exc
        except OSError as exc:
            self._resolver.recheck(self.origin.host)
            raise connect_error(exc, str(self.origin)) from exc

    async def next_addresses(self) -> tuple[str, ...]:
        """The name's addresses after its next refresh. Never raises."""
        return await self._resolver.next_answer(self.origin.host)

    async def _dial_one_of(self, addresses: tuple[str, ...], limit: float) -> Connection:
        """A connection to the best address that takes one; a failed one may be tried again beside it."""
        port, failed, now = self.origin.port, self._resolver.failed, self._loop.time()
        for address in failed.due(addresses, port, now):
            trial = self._loop.create_task(self._try_again(address, limit - now), name=f"trial of {address}")
            self._trials.add(trial)
            trial.add_done_callback(self._trials.discard)
        return await dial_first(failed.order(addresses, port), port, limit, self._dial, failed)

    async def _try_again(self, address: str, seconds: float) -> None:
        """Check whether a failed address takes connections again; it has been marked as tried."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(seconds):
                connection = await self._dial(address)
            connection.abort()
            self._resolver.failed.discard(address, self.origin.port)

    async def _dial(self, address: str) -> Connection:
        tls_settings = self.tls_settings
        if self.tls is None:
            _, connection = await self._loop.create_connection(self._new_connection, address, self.origin.port)
        else:
            server_name = self._server_name or self.origin.host.removesuffix(".")
            connection = await self._dial_tls(address, self.tls, server_name)
        connection.tls_settings = tls_settings
        connection.peer = address
        return connection

    async def _dial_tls(self, address: str, tls: ssl.SSLContext, server_name: str) -> Connection:
        """A connection over TLS: TCP first, then the handshake, each with a single future that is awaited.

        uvloop's create_connection(ssl=…) (0.23) has two: one for TCP, and one for the handshake, which already runs
        while the first is still awaited. A dial cancelled in that moment never looks at the second: if the peer resets
        then, its exception is reported as never retrieved. Nobody outside uvloop can reach that future.
        """
        plain, early = await self._loop.create_connection(_EarlyData, address, self.origin.port)
        try:
            if early.data:
                raise _not_tls()
            if plain.is_closing():
                raise ConnectionResetError("the peer closed the connection before the TLS handshake")
            secured = await self._loop.start_tls(plain, early, tls, server_hostname=server_name)
        except BaseException:
            plain.abort()  # where the handshake had not begun, start_tls leaves it open
            raise
        connection = self._new_connection()
        if secured is not None and not secured.is_closing():  # else it is returned closed, and its exchange fails
            secured.set_protocol(connection)
            connection.connection_made(secured)
            if early.data:
                connection.data_received(bytes(early.data))
        return connection


def _not_tls() -> ssl.SSLError:
    """The error for a peer that sends data before the handshake, as OpenSSL reports it during the handshake."""
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, "data before the TLS handshake")
    error.reason = "WRONG_VERSION_NUMBER"
    return error


class _EarlyData(asyncio.Protocol):
    """Keeps what a peer sends before the connection has its protocol."""

    def __init__(self) -> None:
        self.data = bytearray()

    def data_received(self, data: bytes) -> None:
        self.data += data
