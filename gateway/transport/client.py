"""The httpx transport over our pools: takes an ``httpx.Request``, returns a whole, bounded ``httpx.Response``.

Works under ``httpx.AsyncClient(transport=…)`` too. It keeps no cookies, follows no redirects, decodes no bodies and
reads no proxy variables. Beyond httpx's own it understands two request extensions:

``deadline``
    loop time (seconds) by which the whole exchange must be over; it stands above the four phase timeouts.
``fresh_connection``
    true = do not use a connection that has carried a request before.
``usual``
    seconds that an exchange takes as a rule: a request that has less left when it would have to queue is refused.
``deadline_header``
    name of the header field in which the backend is told how many milliseconds are left until the deadline.
``tenant``
    in whose name the request is made, where a shared pool keeps tenants from taking all of it.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any, Final

import httpx

from gateway.transport.pool import Origin, Pool, PoolLimits, Terms
from gateway.transport.resolver import Resolver

_DEFAULT_PORTS: Final = {b"http": 80, b"https": 443}
_OWN_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))


@dataclass(frozen=True)
class TransportSettings:
    """A transport's limits; times in seconds, sizes in bytes."""

    connect_timeout: float = 5.0
    keepalive: float | None = 60.0
    max_connections: int = 64
    max_answer: int = 1024 * 1024
    shared: bool = False
    tls: ssl.SSLContext | None = None
    """For https; None = the system's certificate authorities."""
    server_name: str | None = None
    """The name that the backend's certificate must have; None = the URL's host."""

    @property
    def limits(self) -> PoolLimits:
        """The part of them that the pools keep."""
        return PoolLimits(self.keepalive, self.max_connections, self.max_answer, self.shared)


async def whole(stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> bytes:
    """All bytes of a request's or response's stream."""
    if isinstance(stream, httpx.SyncByteStream):
        return b"".join(stream)
    return b"".join([chunk async for chunk in stream])


class Transport(httpx.AsyncBaseTransport):
    """HTTP/1.1 with pooled connections; one pool per scheme, host and port. Build it inside a running loop."""

    def __init__(
        self,
        settings: TransportSettings | None = None,
        *,
        resolver: Resolver | None = None,
    ) -> None:
        self._settings = settings or TransportSettings()
        self._resolver = resolver or Resolver()
        self._owns_resolver = resolver is None
        self._loop = asyncio.get_running_loop()
        self._default_tls: ssl.SSLContext | None = None
        self._pools: dict[tuple[bytes, bytes, int | None], Pool] = {}

    def __repr__(self) -> str:
        return f"<Transport {list(self._pools.values())}>"

    @property
    def open_connections(self) -> int:
        """Connections open or being opened, in all pools."""
        return sum(pool.open_connections for pool in self._pools.values())

    @property
    def queued(self) -> int:
        """Requests waiting for a connection, in all pools."""
        return sum(pool.queued for pool in self._pools.values())

    def configure(self, settings: TransportSettings) -> None:
        """Change the limits under way; connections already open stay."""
        self._settings = settings
        for pool in self._pools.values():
            pool.limits = settings.limits
            pool.call_waiting()
            if pool.tls is not None:
                pool.secure(self._tls_for_pools(), settings.server_name)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Exchange one request for its whole answer.

        The response's extension ``queued`` has the seconds for which it waited until a connection was free.
        Raises the kinds of ExchangeError, each of which is the httpx exception of its phase too, and
        httpx.LocalProtocolError for a request that cannot be written.
        """
        body = await whole(request.stream)
        answer = await self._pool(request.url).exchange(
            self._head(request, len(body)),
            body,
            self._terms(request.extensions),
            fresh=bool(request.extensions.get("fresh_connection")),
        )
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=httpx.ByteStream(answer.body),
            extensions={"queued": answer.queued},
        )

    async def aclose(self) -> None:
        """Close idle connections now, busy ones when their exchange ends."""
        for pool in self._pools.values():
            await pool.aclose()
        if self._owns_resolver:
            await self._resolver.aclose()

    def _pool(self, url: httpx.URL) -> Pool:
        key = (url.raw_scheme, url.raw_host, url.port)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = self._new_pool(url)
        return pool

    def _new_pool(self, url: httpx.URL) -> Pool:
        if url.raw_scheme not in _DEFAULT_PORTS:
            raise httpx.UnsupportedProtocol(f"{url.scheme!r} is neither http nor https")
        port = url.port or _DEFAULT_PORTS[url.raw_scheme]
        pool = Pool(Origin(url.scheme, url.host, port), self._settings.limits, self._resolver)
        if url.raw_scheme == b"https":
            pool.secure(self._tls_for_pools(), self._settings.server_name)
        return pool

    def _tls_for_pools(self) -> ssl.SSLContext:
        if self._settings.tls is not None:
            return self._settings.tls
        if self._default_tls is None:
            self._default_tls = ssl.create_default_context()
        return self._default_tls

    def _head(self, request: httpx.Request, length: int) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
        lines += [b"%b: %b" % (name, value) for name, value in request.headers.raw if name.lower() not in _OWN_FRAMING]
        if length or request.method in ("POST", "PUT", "PATCH"):
            lines.append(b"Content-Length: %d" % length)
        if self._settings.keepalive is None:
            lines.append(b"Connection: close")
        head = b"\r\n".join(lines)
        # One line break per line and no other: nothing that a header's value carries can begin another line.
        if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1 or b"\0" in head:
            raise httpx.LocalProtocolError("a request's line would break in two")
        return head + b"\r\n"

    def _terms(self, extensions: dict[str, Any]) -> Terms:
        now = self._loop.time()
        deadline = extensions.get("deadline")
        if deadline is not None:
            connect = now + self._settings.connect_timeout
            usual, tenant = extensions.get("usual", 0.0), extensions.get("tenant", "")
            told_in = extensions.get("deadline_header", b"")
            return Terms(deadline, connect, deadline, deadline, usual, tenant, told_in=told_in)
        phases: dict[str, float | None] = extensions.get("timeout") or {}
        queue, connect_phase, read = phases.get("pool"), phases.get("connect"), phases.get("read")
        never = now + 86400.0
        return Terms(
            never if queue is None else now + queue,
            now + min(self._settings.connect_timeout, 86400.0 if connect_phase is None else connect_phase),
            never,
            never,
            read=read,
        )
