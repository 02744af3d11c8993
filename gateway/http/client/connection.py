"""One connection to a backend: writes a request, reads exactly one answer, and says whether it may be used again.

The plainest answers are read at a glance (plain.py). For all others httptools (llhttp, every leniency off) finds the
message's bounds; it has no limits of its own, so the size of head and body, the number of header lines and of interim
answers, and the bytes on the wire are bounded here.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Final, cast

import httptools
import msgspec

from gateway.http.client.errors import AnswerTimedOut, BadAnswer, ConnectionLost, ExchangeError, too_late
from gateway.http.client.fast_path import plain_answer
from gateway.http.timer import ResettableTimer
from gateway.model.verdicts import Cause, Failure, ProxyError

MAX_HEAD: Final = 64 * 1024
"""Bytes of status line and header lines, interim answers included."""
MAX_HEADERS: Final = 200
MAX_INTERIM: Final = 32
"""1xx answers before the final one (RFC 9110, section 15.2)."""

_FIRST_BYTES: Final = b"HTTP/1."
"""llhttp takes RTSP/1.0 for an answer too."""
_NO_BODY: Final = frozenset((204, 304))


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A whole answer, as it came: nothing decoded, nothing followed."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    queued: float = 0.0
    """Seconds that its request had to wait for a connection of the pool's to be free."""


_CROSSING: Final = 0.25
"""Seconds within which the end of an idle connection and a request cross on the way."""


class Connection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    *on_idle_close* is called when the connection dies or turns unusable while no exchange runs on it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: str,
        max_answer: int,
        on_idle_close: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self.address = address
        self.max_answer = max_answer
        self._on_idle_close = on_idle_close
        self.transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._poll = select.poll()
        self._waiter: asyncio.Future[Answer] | None = None
        self._timer = ResettableTimer(loop, self._on_deadline)
        self.exchanges = 0
        self._began = 0.0
        self.reusable = False
        """Whether the last exchange left the connection fit for another."""
        self.server_keepalive: float | None = None
        """Seconds that the backend's own ``Keep-Alive: timeout=`` promises; None where it says nothing."""
        self.tls_settings: object = None
        """The TLS settings with which the pool made it; None = do not use it again."""
        self.peer = ""
        """The IP address that was dialled."""
        self.born = 0.0
        """Loop time at which it was made, or a little earlier: its age is counted from it."""
        self.expires = 0.0
        """Loop time until which the pool may keep it idle."""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._head_size = 0  # names and values
        self._length = 0  # of the body so far
        self._received = 0  # bytes on the wire, all of the exchange
        self._interim = 0
        self._status = 0
        self._in_body = False  # the final answer's head is complete
        self._complete = False
        self._leftover = False  # something came after the answer
        self._until_eof = False  # only the end of the connection ends the body

    def __repr__(self) -> str:
        state = "closed" if self.closed else "busy" if self._waiter is not None else "idle"
        return f"<Connection {self.address} {state}, exchange {self.exchanges}>"

    @property
    def closed(self) -> bool:
        """Whether it has ended, or is ending."""
        return self.transport is None or self.transport.is_closing()

    # --- what the pool calls ---

    def exchange(self, head: bytes, body: bytes, deadline: float) -> asyncio.Future[Answer]:
        """Write a request and return the future of its answer; *deadline* is loop time.

        The future raises ExchangeError's kinds. Whoever stops waiting for it must abort the connection.
        """
        transport = self.transport
        if self._received:
            self._begin_to_parse()
        self.reusable = False
        self.exchanges += 1
        self._began = self._loop.time()
        waiter = self._waiter = self._loop.create_future()
        if transport is None or transport.is_closing():
            self._fail(self._lost("closed without an answer"))
        else:
            self._timer.set(deadline)
            transport.write(head + body)
        return waiter

    def is_quiet(self) -> bool:
        """Whether an idle connection has neither ended nor sent anything unasked, asked of the kernel itself.

        The event loop may not have seen yet what has already arrived; without this look, a stale connection would
        cost a retry, and a stray answer could be taken for the next hook's.
        """
        transport = self.transport
        return transport is not None and not transport.is_closing() and not self._poll.poll(0)

    def abort(self) -> None:
        """End the connection at once; a waiting exchange is left to its own caller."""
        self._settle()
        self.reusable = False
        if self.transport is not None:
            self.transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self.transport = cast(asyncio.Transport, transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._waiter is None:
            self._drop_idle()  # an answer that nobody asked for: whose it is cannot be known
            return
        if not self._received:
            if (plain := plain_answer(data)) is not None and plain.head.length <= self.max_answer:
                self.reusable = plain.head.keep_alive
                self._finish(Answer(plain.head.status, plain.head.headers, plain.body))
                return
            if not data.startswith(_FIRST_BYTES[: len(data)]):
                self._fail(self._bad("not an HTTP/1 answer"))
                return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(self._bad("switched protocols unasked", ProxyError.HTTP_UPGRADE_FAILED))
            return
        except httptools.HttpParserError as exc:
            if self._complete:
                self._leftover = True
            else:
                fault = exc.__context__ if isinstance(exc.__context__, ExchangeError) else None
                # Without the traceback: its frames hold this one, which holds the fault, and with it all of the body.
                self._fail((fault or self._bad(f"malformed HTTP ({exc})")).with_traceback(None))
                return
        if self._complete:
            self._finish(self._parsed())
        elif not self._in_body and self._received > MAX_HEAD:
            self._fail(self._bad("answer's head is larger than 64 KiB", ProxyError.HTTP_RESPONSE_HEADER_SECTION_SIZE))
        elif self._received > MAX_HEAD + 2 * self.max_answer:
            self._fail(self._too_large())  # chunk framing and extensions count as well

    def eof_received(self) -> bool:  # noqa: D102
        if self._waiter is not None:
            self._on_end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        if self._waiter is not None:
            self._on_end(exc)
        else:
            self._drop_idle()
        self._timer.close()
        self._parser = None  # type: ignore[assignment]  # breaks the cycle between parser and protocol

    # --- httptools' callbacks ---

    def on_message_begin(self) -> None:  # noqa: D102
        if self._complete:
            self._leftover = True

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        if self._complete or self._in_body:
            return  # a second message, or trailers: neither has a say
        if len(self._headers) >= MAX_HEADERS:
            raise self._bad(f"more than {MAX_HEADERS} header lines", ProxyError.HTTP_RESPONSE_HEADER_SECTION_SIZE)
        self._count_head(len(name) + len(value))
        self._headers.append((name, value))

    def on_status(self, reason: bytes) -> None:  # noqa: D102
        self._count_head(len(reason))

    def on_headers_complete(self) -> None:  # noqa: D102
        if self._complete:
            return
        parser = self._parser
        status = self._status = parser.get_status_code()
        if parser.get_http_version() not in ("1.1", "1.0"):
            raise self._bad(f"HTTP version {parser.get_http_version()} is not 1.0 or 1.1")
        if not 100 <= status <= 599:
            raise self._bad(f"status {status} does not exist")
        if status < 200:
            self._count_interim(status)
            return
        self._in_body = True
        self._until_eof = status not in _NO_BODY and not self._has_framing()

    def on_body(self, data: bytes) -> None:  # noqa: D102
        if self._complete:
            self._leftover = True
            return
        self._length += len(data)
        if self._length > self.max_answer:
            raise self._too_large()
        self._body.append(data)

    def on_message_complete(self) -> None:  # noqa: D102
        if not self._in_body:
            self._headers.clear()  # it was an interim answer
        elif not self._until_eof:
            self.reusable = not self._complete and self._parser.should_keep_alive()
            self._complete = True

    # --- inside ---

    def _begin_to_parse(self) -> None:
        """Forget the answer that was parsed before."""
        self._headers = []
        self._body = []
        self._head_size = self._length = self._received = self._interim = self._status = 0
        self._in_body = self._complete = self._leftover = self._until_eof = False

    def _parsed(self) -> Answer:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        return Answer(self._status, tuple(self._headers), body)

    def _has_framing(self) -> bool:
        """Whether the answer says where it ends; refuses what only almost says so (RFC 9112, section 6.3)."""
        framed = False
        for name, value in self._headers:
            lower = name.lower()
            if lower == b"content-length":
                number = value.strip(b" \t")
                if not number.isdigit():
                    raise self._bad("Content-Length is not a number")
                if int(number[:20]) > self.max_answer:
                    raise self._too_large()
                framed = True
            elif lower == b"transfer-encoding":
                if value.strip().lower() != b"chunked":
                    raise self._bad("Transfer-Encoding is not exactly 'chunked'")
                framed = True
            elif lower == b"keep-alive":
                self.server_keepalive = _promised_seconds(value)
        return framed

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD:
            raise self._bad("answer's head is larger than 64 KiB", ProxyError.HTTP_RESPONSE_HEADER_SECTION_SIZE)

    def _count_interim(self, status: int) -> None:
        if status == 101:
            raise self._bad("switched protocols unasked", ProxyError.HTTP_UPGRADE_FAILED)
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise self._bad(f"more than {MAX_INTERIM} interim answers")

    def _finish(self, answer: Answer) -> None:
        transport, waiter = self.transport, self._waiter
        if transport is None or waiter is None:
            return
        # Bytes of the request still unsent mean that the backend answered before it had read it all.
        unsent = transport.get_write_buffer_size()
        if self._leftover or unsent:
            self.reusable = False
        self._settle()
        if not self.reusable:
            if unsent:
                transport.abort()  # close() would wait until the backend reads on, which it may never do
            else:
                transport.close()
        if not waiter.done():
            waiter.set_result(answer)

    def _on_end(self, exc: Exception | None) -> None:
        """The backend has closed its side (*exc* is None) or reset the connection, amid an exchange."""
        if exc is None and self._until_eof:
            self._complete = True
            self._finish(self._parsed())
        elif self._in_body and exc is None:
            self._fail(self._bad("answer cut short", ProxyError.HTTP_RESPONSE_INCOMPLETE))
        elif self._received and exc is None:
            self._fail(self._bad("closed amid the answer's head", ProxyError.HTTP_RESPONSE_INCOMPLETE))
        elif self._received:
            self._fail(self._lost("reset amid the answer"))
        else:
            self._fail(self._lost("closed without an answer" if exc is None else "reset without an answer"))

    def _on_deadline(self) -> None:
        what = "answer not complete in time" if self._received else "no answer in time"
        failure = self._failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, what)
        self._fail(too_late(AnswerTimedOut, failure, self._timer.late))

    def _fail(self, fault: ExchangeError) -> None:
        waiter = self._waiter
        self.abort()
        if waiter is not None and not waiter.done():
            waiter.set_exception(fault)

    def _settle(self) -> None:
        self._waiter = None
        self._timer.clear()

    def _drop_idle(self) -> None:
        self.reusable = False
        if self.transport is not None:
            self.transport.abort()
        self._on_idle_close(self)

    def _bad(self, what: str, error: ProxyError = ProxyError.HTTP_PROTOCOL_ERROR) -> BadAnswer:
        return BadAnswer(self._failure(Cause.BAD_ANSWER, error, what))

    def _failure(self, cause: Cause, error: ProxyError, what: str) -> Failure:
        return Failure(cause, error, f"{self.address}: {what}", self._status if self._in_body else None)

    def _too_large(self) -> BadAnswer:
        return self._bad(f"answer's body is larger than {self.max_answer} bytes", ProxyError.HTTP_RESPONSE_BODY_SIZE)

    def _lost(self, how: str) -> ConnectionLost:
        # A backend that closes an idle connection just as the next request sets out has not acted on that request; one
        # that takes its time before it closes may have worked on it meanwhile.
        stale = self.exchanges > 1 and not self._received and self._loop.time() - self._began < _CROSSING
        failure = self._failure(Cause.UNREACHABLE, ProxyError.CONNECTION_TERMINATED, how)
        return ConnectionLost(failure, retry_safe=stale)


def _promised_seconds(value: bytes) -> float | None:
    for part in value.split(b","):
        name, _, number = part.strip().partition(b"=")
        if name.strip().lower() == b"timeout" and number.isdigit():
            return float(number[:6])
    return None
