"""Each way in which an exchange fails is one error with one cause."""

from __future__ import annotations

import errno
import socket
import ssl

import httpx
import pytest

from gateway.http.client import (
    AnswerTimedOut,
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    ExchangeError,
    QueueTimedOut,
)
from gateway.http.client.errors import connect_error, is_own_limit, timeout_error
from gateway.model.verdicts import Cause, Failure, ProxyError

FAILURE = Failure(Cause.OVERLOAD, ProxyError.CONNECTION_LIMIT_REACHED, "what happened", 500)


@pytest.mark.parametrize(
    ("own", "of_httpx"),
    [
        (ConnectFailed, httpx.ConnectError),
        (ConnectTimedOut, httpx.ConnectTimeout),
        (QueueTimedOut, httpx.PoolTimeout),
        (AnswerTimedOut, httpx.ReadTimeout),
        (ConnectionLost, httpx.ReadError),
        (BadAnswer, httpx.RemoteProtocolError),
    ],
)
def test_each_error_is_httpxs_of_its_phase_and_keeps_its_failure(
    own: type[ExchangeError], of_httpx: type[httpx.TransportError]
) -> None:
    error = own(FAILURE)
    assert isinstance(error, of_httpx)
    assert isinstance(error, ExchangeError)
    assert error.failure is FAILURE
    assert not error.retry_safe, "unless it is known to be"
    assert own(FAILURE, retry_safe=True).retry_safe
    assert str(error) == "what happened"


def tls_error(reason: str) -> ssl.SSLError:
    exc = ssl.SSLError(1, reason)
    exc.reason = reason
    return exc


@pytest.mark.parametrize(
    ("exc", "cause", "error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), Cause.UNREACHABLE, ProxyError.CONNECTION_REFUSED, "refused"),
        (ConnectionResetError(errno.ECONNRESET, ""), Cause.UNREACHABLE, ProxyError.CONNECTION_TERMINATED, "closed"),
        (OSError(errno.EHOSTUNREACH, ""), Cause.UNREACHABLE, ProxyError.DESTINATION_IP_UNROUTABLE, "no route"),
        (OSError(errno.EMFILE, ""), Cause.OVERLOAD, ProxyError.CONNECTION_LIMIT_REACHED, "no file descriptor left"),
        (OSError(errno.EINVAL, "odd"), Cause.UNREACHABLE, ProxyError.DESTINATION_UNAVAILABLE, "cannot connect: odd"),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), Cause.UNREACHABLE, ProxyError.DNS_ERROR, "unknown"),
        (tls_error("BAD_CIPHER"), Cause.UNREACHABLE, ProxyError.TLS_PROTOCOL_ERROR, "TLS handshake failed: BAD_CIPHER"),
    ],
)
def test_a_connection_that_was_not_made_has_its_cause_and_may_be_retried(
    exc: OSError, cause: Cause, error: ProxyError, words: str
) -> None:
    made = connect_error(exc, "host:80")
    assert (made.failure.cause, made.failure.proxy_error, made.retry_safe) == (cause, error, True)
    assert made.failure.detail.startswith("host:80: ")
    assert words in made.failure.detail


@pytest.mark.parametrize(
    ("code", "expected"), [(errno.EMFILE, True), (errno.EADDRNOTAVAIL, True), (errno.EPIPE, False)]
)
def test_what_this_machine_lacks_says_nothing_of_the_address(code: int, expected: bool) -> None:
    assert is_own_limit(OSError(code, "")) is expected


def test_a_timeout_says_whether_this_process_itself_was_held_up() -> None:
    usual = timeout_error(AnswerTimedOut, FAILURE, 0.0)
    assert (usual.held_up, usual.failure) == (False, FAILURE)
    late = timeout_error(ConnectTimedOut, FAILURE, 2.5, retry_safe=True)
    assert (late.held_up, late.retry_safe) == (True, True)
    assert late.failure.detail == "what happened; this gateway itself was held up for 2.5 s"
