"""One client connection: one request at a time, each with a deadline, each answered exactly once.

uvicorn is given this as its ``http`` protocol class. A request goes to the app only when it is whole, so the app never
waits for a client. Anything that is no request is refused here, with the same kind of answer, log line and count as the
app's own refusals. What comes in is taken apart by ``request_reader``, and answers become bytes in ``response``.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any, Final, cast

from starlette.types import Message, Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.http.server.exchange import EXCHANGE, Exchange
from gateway.http.server.forwarded_for import NOT_FROM_HERE, forwarded_client
from gateway.http.server.head import BadRequest, Head, NotAllowed, TooManyConnections
from gateway.http.server.request_reader import RequestReader, whole_request
from gateway.http.server.response import ResponseWriter, encode_answer
from gateway.http.server.slots import ClientKind, Slot
from gateway.http.server.state import TOO_MANY, Answer, FrontState
from gateway.http.timer import ResettableTimer
from gateway.policy.access import Client, ClientAddresses

logger = logging.getLogger(__name__)

LINGER: Final = 5.5
"""Seconds after its last use for which a draining gateway keeps an idle connection open.

Java's client keeps one for 5 s. If the gateway closes it just as a hook is sent, the client silently sends that hook
again: it is doubled, or lost if nobody else listens.
"""
_DISCARD_TIME: Final = 2.0
"""Seconds for which the rest of a refused request is read, so that its sender sees the answer and not a reset."""
_DISCARD_LIMIT: Final = 8
"""The same limit in bytes, as a multiple of the largest body."""
_NO_SCOPE: Final[Scope] = {}
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}
_READ_AHEAD: Final = 64 * 1024
"""Bytes of pipelined requests read while one is being answered."""


class FrontProtocol(asyncio.Protocol):
    """The protocol class that uvicorn makes for each connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        slot: Slot,
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app = config.loaded_app
        self._state = cast(FrontState, server_state)
        self.slot = slot
        self.balancer: Client = None
        """The peer whose PROXY header has named the client; None where there was no such header."""
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._client = slot.client
        self._server: tuple[str, int] | None = None
        self._scheme = "http"
        self._reader = RequestReader()
        self._exchange: Exchange | None = None
        self._scope = _NO_SCOPE
        self._timer = ResettableTimer(self._loop, self._expired)
        self._idle = True
        self._checked_by: ClientAddresses | None = None
        self._allowed = False
        self._is_proxy = False
        self._leaving = False
        self._last_use = 0.0
        self._discarding = False
        self._discarded = 0
        self._half_closed = False
        self._stall_timer: asyncio.TimerHandle | None = None
        self.writable: asyncio.Future[None] | None = None
        """Done once the client reads again; None while it does."""
        self._closed: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._next: asyncio.Future[None] | None = None  # the task waits for a request

    def __repr__(self) -> str:
        state = "answering" if self._exchange else "reading" if self._reader.has_begun else "idle"
        return f"<FrontProtocol {self._client} {state}>"

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast(asyncio.Transport, transport)
        self._server = _address(transport.get_extra_info("sockname"))
        if transport.get_extra_info("sslcontext") is not None:
            self._scheme = "https"
        self._last_use = self._loop.time()
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn types its own classes only
        if self.slot.kind is ClientKind.EXCESS:
            self._refuse(TooManyConnections(403, TOO_MANY))
        else:
            self._wait(self._state.limits.read_timeout)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._discarding:
            self._discarded += len(data)
            if self._discarded > _DISCARD_LIMIT * self._state.limits.max_body:
                self._transport.abort()
            return
        try:
            self._receive(data)
        except MemoryError:
            self._out_of_memory()

    def _receive(self, data: bytes) -> None:
        reader = self._reader
        if self._exchange is None and not reader.buffer and reader.head is None and self._is_allowed():
            request = whole_request(data, self._state.limits.max_body)
            if request is not None:
                self._start(*request)
                return
        reader.add(data)
        if self._exchange is None:
            if self._idle:
                self._stop_waiting()  # what follows has a request's time, not an idle connection's
            self._advance()
            if self._is_at_rest():  # an empty line, and no request yet
                self._wait(self._state.limits.read_timeout)
        elif len(reader.buffer) > _READ_AHEAD:
            self._transport.pause_reading()

    def eof_received(self) -> bool:  # noqa: D102
        # A client that has only ended its own side still reads: TLS cannot, so there the connection ends.
        if self._exchange is None or self._scheme == "https":
            return False
        self._half_closed = True
        self._exchange.keep_alive = bool(self._reader.buffer) and self._exchange.keep_alive
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._state.connections.discard(self)
        self.slot.leave()
        self._timer.close()
        self._stop_stall_timer()
        for future in (self._closed, self.writable, self._next):
            if future is not None and not future.done():
                future.set_result(None)
        if self._exchange is None and self._reader.has_begun and not self._discarding:
            self._report_refusal(BadRequest(CLIENT_LEFT, "the client left before its request was whole"))

    def pause_writing(self) -> None:  # noqa: D102
        self.writable = self._loop.create_future()
        # An answer that nobody reads must not hold its task and memory forever.
        self._stall_timer = self._loop.call_later(self._state.limits.keepalive_timeout, self._transport.abort)

    def resume_writing(self) -> None:  # noqa: D102
        self._stop_stall_timer()
        if self.writable is not None and not self.writable.done():
            self.writable.set_result(None)
        self.writable = None

    # --- what uvicorn calls ---

    def shutdown(self) -> None:
        """The listener ends: close the connection gracefully."""
        self._state.draining = True
        self.close_gracefully()

    def close_gracefully(self) -> None:
        """End the connection: after the answer if a hook is being answered, else once it was idle long enough."""
        self._leaving = True
        if self._exchange is not None:
            self._exchange.keep_alive = False
        elif self._is_at_rest():
            self._stop_waiting()
            self._idle = True
            self._wait(max(0.0, self._last_use + self._state.linger - self._loop.time()))

    def idle_since(self) -> float:
        """Loop time at which it was last used; infinite while it is in use."""
        return self._last_use if self._is_at_rest() else math.inf

    def apply_keepalive(self) -> None:
        """Apply a changed keep-alive time to an idle connection."""
        if self._idle and self._is_at_rest() and not self._leaving:
            self._timer.clear()
            kept = max(self._state.limits.keepalive_timeout, self._state.linger)
            self._wait(max(0.0, self._last_use + kept - self._loop.time()))

    def recheck(self) -> None:
        """The lists of addresses have changed: an address that may send no hooks any more gives up its slot."""
        if self.balancer is not None and not self._state.addresses.expects_header(self.balancer):
            self.close_gracefully()  # nothing names its client any more
        if self._is_allowed():
            if self.slot.kind is ClientKind.STRANGER and (slot := self._state.admit(self._client)) is not None:
                self.slot.leave()
                self.slot = slot
        elif self.slot.kind is ClientKind.MEMBER:
            self.close_gracefully()

    @property
    def eviction_rank(self) -> int | None:
        """How readily its slot goes to a new connection, lower first; None while a request is being answered."""
        if self._exchange is None:
            return 0
        return 1 if self.writable is not None else None  # its client has stopped reading

    @property
    def last_use(self) -> float:
        """Loop time at which it was opened, or its last answer was written."""
        return self._last_use

    def evict(self) -> None:
        """End at once: a new connection takes the slot."""
        self.slot.leave()
        self._transport.abort()

    # --- reading ---

    def _advance(self) -> None:
        """Take the next request out of the reader, as far as it is there."""
        reader = self._reader
        try:
            if reader.head is None and not self._is_allowed():
                raise NotAllowed(403, NOT_FROM_HERE)
            request = reader.next_request(self._state.limits.max_body)
        except BadRequest as exc:
            self._refuse(exc)
            return
        if request is not None:
            self._start(*request)
            return
        if reader.continue_due:
            reader.continue_due = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if reader.has_begun:
            self._wait(self._state.limits.read_timeout)

    def _is_allowed(self) -> bool:
        """Whether the client may send or bring hooks; looked up once per connection and configuration."""
        addresses = self._state.addresses
        if addresses is not self._checked_by:
            self._checked_by = addresses
            self._is_proxy = addresses.trusts(self._client)
            self._allowed = self._is_proxy or addresses.allows(self._client)
        return self._allowed

    # --- answering ---

    def _start(self, head: Head, body: bytes) -> None:
        """Pass a whole request to the app."""
        client = self._client
        if self._is_proxy:
            try:
                client = forwarded_client(head.headers, client, self._checked_by or self._state.addresses)
            except NotAllowed as exc:
                exc.head = head
                self._refuse(exc)
                return
        self._stop_waiting()
        exchange = self._exchange = Exchange(
            self,
            head,
            body,
            keep_alive=head.keep_alive
            and not (self._leaving or self._state.draining)
            and (bool(self._reader.buffer) or not self._half_closed),
        )
        self._scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": "1.1",
            "method": head.method,
            "scheme": self._scheme,
            "path": head.decoded_path,
            "raw_path": head.path,
            "query_string": head.query,
            "root_path": "",
            "headers": head.headers,
            "client": client,
            "server": self._server,
            "extensions": {EXCHANGE: exchange},
        }
        if self._task is None:
            self._task = self._loop.create_task(self._answer())
        elif self._next is not None:
            if not self._next.done():
                self._next.set_result(None)
            self._next = None
        self._state.tasks.add(self._task)

    async def _answer(self) -> None:
        """Answer one request after another: a task for each would cost more than all the work here."""
        task = asyncio.current_task()
        while (exchange := self._exchange) is not None:
            try:
                await self._app(self._scope, exchange.receive, exchange.send)
            except asyncio.CancelledError:
                pass
            except Exception:
                logger.exception("the app failed")
            self._scope["extensions"].clear()  # a scope that is kept keeps no connection alive
            if self._exchange is exchange:  # without its whole answer
                self._transport.abort() if self._transport.get_write_buffer_size() else self._transport.close()
                break
            if self._exchange is None and not self._transport.is_closing():
                del exchange  # an idle connection keeps no body
                self._scope = _NO_SCOPE
                self._state.tasks.discard(task)
                self._next = self._loop.create_future()
                await self._next
        self._state.tasks.discard(task)

    def write_whole(self, exchange: Exchange, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Write the answer of the exchange under way."""
        if self._exchange is not exchange:
            raise RuntimeError("an answer goes on after its end")
        headers += self._state.default_headers
        data = encode_answer(status, headers, body, keep_alive=exchange.keep_alive)
        if not self._transport.is_closing():
            self._transport.write(data)
        self._finish(exchange)

    def write_part(self, exchange: Exchange, message: Message) -> None:
        """Write a part of the answer of the exchange under way."""
        writer = exchange.writer
        writer.keep_alive = writer.keep_alive and exchange.keep_alive
        data = writer.encode(message, self._state.default_headers)
        if data and not self._transport.is_closing():
            self._transport.write(data)
        if writer.complete:
            exchange.keep_alive = writer.keep_alive
            self._finish(exchange)

    def _finish(self, exchange: Exchange) -> None:
        """The answer is written: close, or go on to the next request."""
        self._exchange = None
        self._state.total_requests += 1
        self._last_use = self._loop.time()
        if self._transport.is_closing():
            return
        if not exchange.keep_alive or self._state.waiting:
            self._close_gently()
            return
        if self._reader.buffer:
            self._transport.resume_reading()
            self._advance()
        if self._is_at_rest():
            self._idle = True
            self._wait(self._state.limits.keepalive_timeout)

    def _is_at_rest(self) -> bool:
        """Whether no part of a request is here."""
        reader = self._reader
        return self._exchange is None and reader.head is None and not reader.buffer and not self._discarding

    async def wait_closed(self) -> None:
        """Return when the connection has ended."""
        if self._transport.is_closing():
            return
        if self._closed is None:
            self._closed = self._loop.create_future()
        await asyncio.shield(self._closed)

    def _refuse(self, refusal: BadRequest) -> None:
        """Answer something that is no request, and read no more from this client."""
        answer = self._report_refusal(refusal)
        writer = ResponseWriter(head_only=False, keep_alive=False, chunks_allowed=False)
        writer.encode({"type": "http.response.start", "status": answer.status, "headers": answer.headers}, ())
        data = writer.encode({"type": "http.response.body", "body": answer.body}, self._state.default_headers)
        self._transport.write(data)
        self._close_gently()

    def _out_of_memory(self) -> None:
        """Free this connection's memory, then refuse the request; if even that fails, end the connection."""
        self._reader.clear()
        if self._exchange is not None:  # its answer is being written, or the app reports why not
            self._exchange.keep_alive = False
            return
        try:
            self._refuse(TooManyConnections(403, "memory has run out"))
        except MemoryError:
            self._transport.abort()

    def _report_refusal(self, refusal: BadRequest) -> Answer:
        refusal.head = refusal.head or self._reader.head
        refusal.client = refusal.client or self._client
        return self._state.refuse(refusal)

    def _close_gently(self) -> None:
        """Close without a reset: read and discard for a moment what the client still sends."""
        self._stop_waiting()
        self._reader.clear()
        self._discarding = True
        self._timer.set(self._loop.time() + _DISCARD_TIME)
        if self._transport.can_write_eof() and not self._half_closed:
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    # --- waiting for the client ---

    def _wait(self, seconds: float) -> None:
        """Start the timer for the client, unless it is running."""
        if not self._timer.is_set:
            self._timer.set(self._loop.time() + seconds)

    def _stop_waiting(self) -> None:
        self._idle = False
        self._timer.clear()

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _expired(self) -> None:
        if self._discarding:
            self._transport.abort()
        elif self._reader.has_begun:
            seconds = self._state.limits.read_timeout
            self._refuse(BadRequest(408, f"the request did not arrive within {seconds:g} s"))
        elif self._transport.get_write_buffer_size():
            self._transport.abort()  # it never read its last answer
        else:
            self._transport.close()


CLIENT_LEFT: Final = 499
"""Only in the log, as nginx writes it: the client left before it was answered."""


def _address(name: object) -> tuple[str, int] | None:
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None
