"""One connection to a backend: writes a request, reads exactly one answer, and says whether it may be used again.

The plainest answers are read by ``fast_path``, all others by ``answer_parser``.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Final, cast

from gateway.http.client.answer_parser import Answer, AnswerParser
from gateway.http.client.errors import AnswerTimedOut, ConnectionLost, ExchangeError, timeout_error
from gateway.http.client.fast_path import parse_plain_answer
from gateway.http.timer import ResettableTimer
from gateway.model.verdicts import Cause, ProxyError

_CROSSING: Final = 0.25
"""Seconds within which a request and the close of an idle connection cross on the wire."""


class Connection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    *on_idle_close* is called when the connection dies or becomes unusable while no exchange runs on it.
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
        self._parser = AnswerParser(address, max_answer)
        self._poll = select.poll()
        self._waiter: asyncio.Future[Answer] | None = None
        self._timer = ResettableTimer(loop, self._on_deadline)
        self.exchanges = 0
        self._began = 0.0
        self.reusable = False
        """Whether the connection may carry another exchange after the last one."""
        self.server_keepalive: float | None = None
        """Seconds that the backend's own ``Keep-Alive: timeout=`` promises; None if it says nothing."""
        self.tls_settings: object = None
        """The TLS settings with which the pool made it; None = do not use it again."""
        self.peer = ""
        """The IP address that was dialled."""
        self.born = 0.0
        """Loop time at which it was made, or a little earlier: its age is counted from it."""
        self.expires = 0.0
        """Loop time until which the pool may keep it idle."""

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

        The future raises ExchangeError's kinds. A caller that stops waiting for it must abort the connection.
        """
        transport = self.transport
        if self._parser.received:
            self._parser.reset()
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
        """Whether an idle connection has neither ended nor sent anything unasked, according to the kernel.

        The event loop may not have seen yet what has already arrived; without this check, a stale connection would
        cost a retry, and a stray answer could be taken for the next hook's.
        """
        transport = self.transport
        return transport is not None and not transport.is_closing() and not self._poll.poll(0)

    def abort(self) -> None:
        """End the connection at once; a waiting exchange is left to its caller."""
        self._end_exchange()
        self.reusable = False
        if self.transport is not None:
            self.transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self.transport = cast(asyncio.Transport, transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._waiter is None:
            self._drop_idle()  # an answer that nobody asked for: it is unknown whose it is
            return
        parser = self._parser
        if not parser.received and (plain := parse_plain_answer(data)) is not None:
            head = plain.head
            if head.length <= self.max_answer:
                self.reusable = head.keep_alive
                self._finish(Answer(head.status, head.headers, plain.body))
                return
        if (fault := parser.feed(data)) is not None:
            self._fail(fault)
        elif parser.complete:
            self._finish_parsed()

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
        self._parser.close()

    # --- the end of an exchange ---

    def _finish_parsed(self) -> None:
        parser = self._parser
        self.reusable = parser.keep_alive and not parser.leftover
        self.server_keepalive = parser.server_keepalive
        self._finish(parser.answer())

    def _finish(self, answer: Answer) -> None:
        transport, waiter = self.transport, self._waiter
        if transport is None or waiter is None:
            return
        # Unsent bytes of the request mean that the backend answered before it had read it all.
        unsent = transport.get_write_buffer_size()
        if unsent:
            self.reusable = False
        self._end_exchange()
        if not self.reusable:
            if unsent:
                transport.abort()  # close() would wait until the backend reads on, which it may never do
            else:
                transport.close()
        if not waiter.done():
            waiter.set_result(answer)

    def _on_end(self, exc: Exception | None) -> None:
        """The backend has closed its side (*exc* is None) or reset the connection during an exchange."""
        if not self._parser.received:
            self._fail(self._lost("closed without an answer" if exc is None else "reset without an answer"))
        elif exc is not None:
            self._fail(self._lost("reset amid the answer"))
        elif (fault := self._parser.end()) is not None:
            self._fail(fault)
        else:
            self._finish_parsed()

    def _on_deadline(self) -> None:
        what = "answer not complete in time" if self._parser.received else "no answer in time"
        failure = self._parser.failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, what)
        self._fail(timeout_error(AnswerTimedOut, failure, self._timer.late))

    def _fail(self, fault: ExchangeError) -> None:
        waiter = self._waiter
        self.abort()
        if waiter is not None and not waiter.done():
            waiter.set_exception(fault)

    def _end_exchange(self) -> None:
        self._waiter = None
        self._timer.clear()

    def _drop_idle(self) -> None:
        self.reusable = False
        if self.transport is not None:
            self.transport.abort()
        self._on_idle_close(self)

    def _lost(self, how: str) -> ConnectionLost:
        # A backend that closes an idle connection just as the next request is sent has not acted on that request; one
        # that takes longer before it closes may have worked on it.
        received = self._parser.received
        stale = self.exchanges > 1 and not received and self._loop.time() - self._began < _CROSSING
        failure = self._parser.failure(Cause.UNREACHABLE, ProxyError.CONNECTION_TERMINATED, how)
        return ConnectionLost(failure, retry_safe=stale)
