"""How an exchange with a backend fails: one tree under httpx's own exceptions, each with its one cause.

httpx.TransportError
└── ExchangeError                          cause
    ├── ConnectFailed     httpx.ConnectError         unreachable (overload where our own limits stop it)
    ├── ConnectTimedOut   httpx.ConnectTimeout       unreachable; timeout where the budget itself ran out
    ├── QueueTimedOut     httpx.PoolTimeout          overload
    ├── AnswerTimedOut    httpx.ReadTimeout          timeout
    ├── ConnectionLost    httpx.ReadError            unreachable
    └── BadAnswer         httpx.RemoteProtocolError  bad_answer
"""

from __future__ import annotations

import errno
import socket
import ssl

import httpx

from gateway.model.verdicts import Cause, Failure, ProxyError


class ExchangeError(httpx.TransportError):
    """An exchange that brought no whole answer; ``failure`` has its cause and its words."""

    def __init__(self, failure: Failure, *, retry_safe: bool = False) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.retry_safe = retry_safe
        """Whether the backend cannot have acted on the request: it may be sent again without being asked."""
        self.queued = 0.0
        """Seconds for which it had waited until a connection was free."""
        self.held_up = False
        """Whether its time ran out while this process itself was held up: it says nothing of the backend."""


class ConnectFailed(ExchangeError, httpx.ConnectError):
    """No connection was made."""


class ConnectTimedOut(ExchangeError, httpx.ConnectTimeout):
    """No connection was made in the time for it."""


class QueueTimedOut(ExchangeError, httpx.PoolTimeout):
    """Every connection that the limit allows stayed busy until the deadline."""


class AnswerTimedOut(ExchangeError, httpx.ReadTimeout):
    """The deadline passed before the answer was complete."""


class ConnectionLost(ExchangeError, httpx.ReadError):
    """The connection was closed or reset before any byte, or was reset amid the answer."""


class BadAnswer(ExchangeError, httpx.RemoteProtocolError):
    """What came back is not one whole HTTP answer within the limits."""


def timeout_error(
    kind: type[ExchangeError], failure: Failure, late: float, *, retry_safe: bool = False
) -> ExchangeError:
    """The error when the time ran out; *late*: seconds for which the event loop itself was held up, or 0."""
    if late:
        failure = failure._replace(detail=f"{failure.detail}; this gateway itself was held up for {late:.1f} s")
    fault = kind(failure, retry_safe=retry_safe)
    fault.held_up = late > 0.0
    return fault


_OUR_LIMITS = {
    errno.EMFILE: "this process has no file descriptor left",
    errno.ENFILE: "this machine has no file descriptor left",
    errno.ENOBUFS: "this machine has no network buffers left",
    errno.EADDRNOTAVAIL: "this machine has no local port left",
}
_UNROUTABLE = frozenset((errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN))


def is_own_limit(exc: OSError) -> bool:
    """Whether a connection was not made because this machine lacks something: that says nothing of the address."""
    return not isinstance(exc, ssl.SSLError) and exc.errno in _OUR_LIMITS


def connect_error(exc: OSError, address: str) -> ConnectFailed:
    """Translate what the operating system or TLS said while a connection was being made."""
    return ConnectFailed(_connect_failure(exc, address), retry_safe=True)


def _connect_failure(exc: OSError, address: str) -> Failure:
    if isinstance(exc, ssl.SSLCertVerificationError):
        detail = f"{address}: certificate refused: {exc.verify_message}"
        return Failure(Cause.UNREACHABLE, ProxyError.TLS_CERTIFICATE_ERROR, detail)
    if isinstance(exc, ssl.SSLError):
        detail = f"{address}: TLS handshake failed: {exc.reason or 'protocol error'}"
        return Failure(Cause.UNREACHABLE, ProxyError.TLS_PROTOCOL_ERROR, detail)
    if isinstance(exc, socket.gaierror):
        return Failure(Cause.UNREACHABLE, ProxyError.DNS_ERROR, f"{address}: name not resolved: {exc.strerror}")
    if exc.errno in _OUR_LIMITS:
        detail = f"{address}: {_OUR_LIMITS[exc.errno]}"
        return Failure(Cause.OVERLOAD, ProxyError.CONNECTION_LIMIT_REACHED, detail)
    if isinstance(exc, ConnectionRefusedError):
        return Failure(Cause.UNREACHABLE, ProxyError.CONNECTION_REFUSED, f"{address}: connection refused")
    if exc.errno in _UNROUTABLE:
        detail = f"{address}: no route to the host"
        return Failure(Cause.UNREACHABLE, ProxyError.DESTINATION_IP_UNROUTABLE, detail)
    if isinstance(exc, ConnectionError):
        detail = f"{address}: closed while connecting"
        return Failure(Cause.UNREACHABLE, ProxyError.CONNECTION_TERMINATED, detail)
    detail = f"{address}: cannot connect: {exc.strerror or type(exc).__name__}"
    return Failure(Cause.UNREACHABLE, ProxyError.DESTINATION_UNAVAILABLE, detail)
