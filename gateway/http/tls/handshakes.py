"""TLS handshakes on the hook port: limited in time and number, and reported when they fail.

An event loop that accepts by itself drops the connections whose handshakes fail without a word. So what comes of each
handshake is seen here.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, cast

_GOODBYE: Final = 2.0
"""Seconds for a client to say goodbye (``close_notify``) when its connection is closed; many never do."""


class HandshakeFault(StrEnum):
    """Why a handshake failed."""

    NO_CERTIFICATE = "no_certificate"
    """The client showed none, and ``client_ca`` asks for one."""
    UNTRUSTED_CERTIFICATE = "untrusted_certificate"
    EXPIRED_CERTIFICATE = "expired_certificate"
    """Or one that is not valid yet: look at the clocks."""
    PROTOCOL_VERSION = "protocol_version"
    """The client speaks older versions of TLS only."""
    REFUSED_BY_CLIENT = "refused_by_client"
    """The client sent an alert: as a rule it does not trust the gateway's certificate."""
    NOT_TLS = "not_tls"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    """The client left: port scans, and health checks of load balancers."""
    TOO_MANY = "too_many"
    """More connections were open than could even be answered."""
    OTHER = "other"


class FailedHandshake(NamedTuple):
    """A failed handshake."""

    fault: HandshakeFault
    peer: str
    """The client's address and port; ``unix`` where it has none."""
    detail: str
    """OpenSSL's word for it, or ours."""


class Secured(Protocol):
    """What runs over TLS once the handshake is done: an asyncio.Protocol that can be closed gracefully."""

    def close_gracefully(self) -> None:
        """End the connection as soon as nothing is lost by it."""

    async def wait_closed(self) -> None:
        """Return when the connection has ended."""


_BY_REASON: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": HandshakeFault.NO_CERTIFICATE,
    "UNSUPPORTED_PROTOCOL": HandshakeFault.PROTOCOL_VERSION,
    "VERSION_TOO_LOW": HandshakeFault.PROTOCOL_VERSION,
    "NO_PROTOCOLS_AVAILABLE": HandshakeFault.PROTOCOL_VERSION,
    "HTTP_REQUEST": HandshakeFault.NOT_TLS,
    "HTTPS_PROXY_REQUEST": HandshakeFault.NOT_TLS,
    "WRONG_VERSION_NUMBER": HandshakeFault.NOT_TLS,
    "UNKNOWN_PROTOCOL": HandshakeFault.NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": HandshakeFault.NOT_TLS,
    "RECORD_TOO_SMALL": HandshakeFault.NOT_TLS,
    "RECORD_LENGTH_MISMATCH": HandshakeFault.NOT_TLS,
    "BAD_RECORD_TYPE": HandshakeFault.NOT_TLS,
}
"""OpenSSL's names for what can go wrong (SSL_R_*, in ``sslerr.h``)."""
_OUT_OF_DATE: Final = frozenset((9, 10))
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (``x509_vfy.h``)."""


class Handshakes:
    """Accepts connections and does their handshakes. Build it inside a running loop."""

    def __init__(
        self,
        context: ssl.SSLContext,
        limit: Callable[[], float],
        on_failure: Callable[[FailedHandshake], None],
        tasks: set[asyncio.Task[None]],
    ) -> None:
        """*limit*: seconds for one. *tasks*: what the server's end waits for; handshakes under way are among it."""
        self._context = context
        self._limit = limit
        self._on_failure = on_failure
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._closing = False
        self._generation = 0

    def __repr__(self) -> str:
        return f"<Handshakes {self._under_way} under way>"

    def invalidate_pending(self) -> None:
        """Close the connections whose handshakes are still running as soon as these are done."""
        self._generation += 1

    def close(self) -> None:
        """Nothing more is accepted: the connections whose handshakes are under way end as soon as nothing is lost."""
        self._closing = True
        self.invalidate_pending()

    def begin(self, sock: socket.socket, address: object, protocol: Secured, on_done: Callable[[bool], None]) -> None:
        """Begin the handshake of an accepted connection; *on_done* is called with whether it succeeded."""
        self._under_way += 1
        task = self._loop.create_task(self._handshake(sock, peer_name(address), protocol, on_done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def refuse(self, sock: socket.socket, address: object) -> None:
        """Close an accepted connection for which there is no room."""
        sock.close()
        detail = "more connections are open, or handshakes under way, than server.max_connections leaves room for"
        self._on_failure(FailedHandshake(HandshakeFault.TOO_MANY, peer_name(address), detail))

    async def _handshake(
        self, sock: socket.socket, peer: str, protocol: Secured, on_done: Callable[[bool], None]
    ) -> None:
        is_done, generation = False, self._generation
        try:
            is_done = await self._do_handshake(sock, peer, protocol)
        finally:
            self._under_way -= 1
            on_done(is_done)
        if is_done and (self._closing or generation != self._generation):
            protocol.close_gracefully()
            if self._closing:
                await protocol.wait_closed()

    async def _do_handshake(self, sock: socket.socket, peer: str, protocol: Secured) -> bool:
        """Whether the protocol has its connection."""
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: cast(asyncio.Protocol, protocol),
                sock,
                ssl=self._context,
                ssl_handshake_timeout=self._limit(),
                ssl_shutdown_timeout=_GOODBYE,
            )
        except OSError as exc:
            self._on_failure(self._classify(exc, peer))
            return False
        if transport.get_extra_info("ssl_object") is None:  # uvloop takes the end of a connection for success
            self._on_failure(
                FailedHandshake(HandshakeFault.CLOSED, peer, "the connection was closed before it was done")
            )
            return False
        return True

    def _classify(self, exc: OSError, peer: str) -> FailedHandshake:
        if isinstance(exc, ssl.SSLCertVerificationError):
            expired = exc.verify_code in _OUT_OF_DATE
            fault = HandshakeFault.EXPIRED_CERTIFICATE if expired else HandshakeFault.UNTRUSTED_CERTIFICATE
            return FailedHandshake(fault, peer, exc.verify_message)
        if isinstance(exc, ssl.SSLError):
            reason = exc.reason or str(exc)
            otherwise = HandshakeFault.REFUSED_BY_CLIENT if "_ALERT_" in reason else HandshakeFault.OTHER
            return FailedHandshake(_BY_REASON.get(reason, otherwise), peer, reason.replace("_", " ").lower())
        if isinstance(exc, ConnectionAbortedError):
            return FailedHandshake(HandshakeFault.TIMEOUT, peer, f"it was not done within {self._limit():g} s")
        return FailedHandshake(HandshakeFault.CLOSED, peer, "the client left before it was done")


def peer_name(address: object) -> str:
    """A peer as the log shows it."""
    if not isinstance(address, tuple):
        return "unix"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
