"""The pools to a backend, and httpx's interface to them: ``httpx.AsyncClient(transport=Transport())`` works.

Hooks go to ``pool()`` directly, since httpx's objects cost more than all the rest of an exchange; health checks come
by httpx. It keeps no cookies, follows no redirects, decodes no bodies and reads no proxy variables. Beyond httpx's own
it understands two request extensions:

``deadline``
    loop time (seconds) by which the whole exchange must be over; it overrides the four phase timeouts.
``fresh_connection``
    true = do not use a connection that has carried a request before.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from dataclasses import dataclass
from typing import Any, Final

import httpx

from gateway.http.client.dialer import Origin
from gateway.http.client.pool import Pool, PoolLimits, RequestOptions
from gateway.http.client.resolver import Resolver
from gateway.http.lines import breaks_lines
from gateway.policy.shared import Quota

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
    max_age: float | None = None
    """Greatest age of a connection that is used again; None = any."""
    tls: ssl.SSLContext | None = None
    """For https; None = the system's certificate authorities."""
    server_name: str | None = None
    """The name that the backend's certificate must have; None = the URL's host."""

    @property
    def limits(self) -> PoolLimits:
        """The part of them that the pools keep."""
        max_age = math.inf if self.max_age is None else self.max_age
        return PoolLimits(self.keepalive, self.max_connections, self.max_answer, self.shared, max_age)


async def _read_all(stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> bytes:
    """All bytes of a request's or response's stream."""
    if isinstance(stream, httpx.SyncByteStream):
        return b"".join(stream)
    return b"".join([chunk async for chunk in stream])


def url_origin(url: httpx.URL) -> Origin:
    """Where connections for a URL go, its host as it is sent and looked up. Raises httpx.UnsupportedProtocol."""
    if url.raw_scheme not in _DEFAULT_PORTS:
        raise httpx.UnsupportedProtocol(f"{url.scheme!r} is neither http nor https")
    # Not url.host, which has decoded Punycode: asyncio would encode that again, by the older rules (IDNA 2003).
    return Origin(url.scheme, url.raw_host.decode("ascii"), url.port or _DEFAULT_PORTS[url.raw_scheme])


class Transport(httpx.AsyncBaseTransport):
    """HTTP/1.1 with pooled connections; one pool per scheme, host and port. Build it inside a running loop."""

    def __init__(
        self,
        settings: TransportSettings | None = None,
        *,
        resolver: Resolver | None = None,
        quota: Quota | None = None,
    ) -> None:
        self._quota = quota
        self.settings = settings or TransportSettings()
        self.resolver = resolver or Resolver()
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

    @property
    def free(self) -> int:
        """Requests that could begin now without making any wait, in all pools."""
        return sum(pool.free for pool in self._pools.values()) if self._pools else self.settings.max_connections

    def prepare(self, settings: TransportSettings) -> None:
        """Have what ``configure`` will need for these, which then cannot fail. Raises OSError."""
        if settings.tls is None and self._default_tls is None and any(pool.is_secure for pool in self._pools.values()):
            self._default_tls = ssl.create_default_context()

    def configure(self, settings: TransportSettings) -> None:
        """Change the limits under way; connections already open stay."""
        self.settings = settings
        for pool in self._pools.values():
            pool.set_limits(settings.limits)
            pool.serve_waiting()
            if pool.is_secure:
                pool.set_tls(self._tls_for_pools(), settings.server_name)

    def yield_idle(self) -> None:
        """Close connections that nobody uses where a hook waits at another worker."""
        for pool in self._pools.values():
            pool.yield_idle()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Exchange one request for its whole answer.

        Raises the kinds of ExchangeError, each of which is the httpx exception of its phase too, and
        httpx.LocalProtocolError for a request that cannot be written.
        """
        body = await _read_all(request.stream)
        answer = await self.pool(request.url).exchange(
            self._head(request, len(body)),
            body,
            self._request_options(request.extensions),
            fresh=bool(request.extensions.get("fresh_connection")),
        )
        return httpx.Response(
            answer.status,
            headers=list(answer.headers),
            stream=httpx.ByteStream(answer.body),
        )

    def pool(self, url: httpx.URL) -> Pool:
        """The connections to the URL's scheme, host and port. Raises httpx.UnsupportedProtocol."""
        key = (url.raw_scheme, url.raw_host, url.port)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = self._new_pool(url)
        return pool

    async def aclose(self) -> None:
        """Close idle connections now, busy ones when their exchange ends."""
        for pool in self._pools.values():
            await pool.aclose()
        if self._owns_resolver:
            await self.resolver.aclose()

    def _new_pool(self, url: httpx.URL) -> Pool:
        pool = Pool(url_origin(url), self.settings.limits, self.resolver, self._quota)
        if url.raw_scheme == b"https":
            pool.set_tls(self._tls_for_pools(), self.settings.server_name)
        return pool

    def _tls_for_pools(self) -> ssl.SSLContext:
        if self.settings.tls is not None:
            return self.settings.tls
        if self._default_tls is None:
            self._default_tls = ssl.create_default_context()
        return self._default_tls

    def _head(self, request: httpx.Request, length: int) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
        lines += [b"%b: %b" % (name, value) for name, value in request.headers.raw if name.lower() not in _OWN_FRAMING]
        if length or request.method in ("POST", "PUT", "PATCH"):
            lines.append(b"Content-Length: %d" % length)
        if self.settings.keepalive is None:
            lines.append(b"Connection: close")
        head = b"\r\n".join(lines)
        if breaks_lines(head, len(lines) - 1) or b"\0" in head:
            raise httpx.LocalProtocolError("a request's line would break in two")
        return head + b"\r\n"

    def _request_options(self, extensions: dict[str, Any]) -> RequestOptions:
        now = self._loop.time()
        deadline = extensions.get("deadline")
        if deadline is not None:
            return RequestOptions(deadline, now + self.settings.connect_timeout, deadline, deadline)
        phases: dict[str, float | None] = extensions.get("timeout") or {}
        queue, connect_phase, read = phases.get("pool"), phases.get("connect"), phases.get("read")
        never = now + 86400.0
        return RequestOptions(
            never if queue is None else now + queue,
            now + min(self.settings.connect_timeout, 86400.0 if connect_phase is None else connect_phase),
            never,
            never,
            read=read,
        )
