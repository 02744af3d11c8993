"""One client connection: one request at a time, each with a deadline, each answered exactly once.

uvicorn accepts the connection and stops the server; this is the ``http`` protocol class that it is given. A request
goes to the app only when it is whole, so the app never waits for a client. What is no request is refused here, with the
same kind of answer, log line and count as everything that the app refuses.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any, Final, cast

from starlette.types import Message, Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.http.server.chunked import ChunkedBody
from gateway.http.server.exchange import EXCHANGE, Exchange
from gateway.http.server.head import MAX_HEAD, BadRequest, Head, NotAllowed, TooManyConnections, read_head
from gateway.http.server.places import Place, TargetState
from gateway.http.server.response import ResponseWriter, whole_answer
from gateway.http.server.state import TOO_MANY, Answer, FrontState
from gateway.http.timer import ResettableTimer
from gateway.policy.access import AllowedAddresses

logger = logging.getLogger(__name__)

LINGER: Final = 5.5
"""Seconds since its last use for which a draining gateway keeps an idle connection open.

Java's client keeps one for 5 s. If we close it in the moment in which a hook sets out on it, the client silently sends
that hook again: doubled, or lost where nobody else listens.
"""
_DISCARD_TIME: Final = 2.0
"""Seconds for which a refused request is read on, so that its sender sees the answer and not a reset."""
_DISCARD_LIMIT: Final = 8
"""The same in bytes, as a multiple of the largest body."""
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
        place: Place,
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app = config.loaded_app
        self._state = cast(FrontState, server_state)
        self.place = place
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int] | None = None
        self._scheme = "http"
        self._buffer: bytes | bytearray = b""
        self._head: Head | None = None
        self._chunked: ChunkedBody | None = None
        self._exchange: Exchange | None = None
        self._scope = _NO_SCOPE
        self._timer = ResettableTimer(self._loop, self._expired)
        self._idle = True
        self._checked_by: AllowedAddresses | None = None
        self._allowed = False
        self._leaving = False
        self._last_use = 0.0
        self._discarding = False
        self._discarded = 0
        self._half_closed = False
        self._stalled: asyncio.TimerHandle | None = None
        self.writable: asyncio.Future[None] | None = None
        """Done once the client reads again; None while it does."""
        self._gone: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._next: asyncio.Future[None] | None = None  # the task waits for a request

    def __repr__(self) -> str:
        state = "answering" if self._exchange else "reading" if self._buffer or self._head else "idle"
        return f"<FrontProtocol {self._client} {state}>"

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast(asyncio.Transport, transport)
        self._client = _address(transport.get_extra_info("peername"))
        self._server = _address(transport.get_extra_info("sockname"))
        if transport.get_extra_info("sslcontext") is not None:
            self._scheme = "https"
        self._last_use = self._loop.time()
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn types its own classes only
        if self.place.standing is TargetState.EXCESS:
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
        if not self._buffer:
            if self._exchange is None and self._head is None and self._take_whole(data):
                return
            self._buffer = data
        elif isinstance(self._buffer, bytearray):
            self._buffer += data
        else:
            self._buffer = bytearray(self._buffer)  # it comes in pieces: from now on one copies no more than each
            self._buffer += data
        if self._exchange is None:
            if self._idle:
                self._stop_waiting()  # what follows has a request's time, not an idle connection's
            self._advance()
            if self._is_at_rest():  # an empty line, and no request yet
                self._wait(self._state.limits.read_timeout)
        elif len(self._buffer) > _READ_AHEAD:
            self._transport.pause_reading()

    def eof_received(self) -> bool:  # noqa: D102
        # A client that has only ended its own side still reads: TLS cannot, so there the connection ends.
        if self._exchange is None or self._scheme == "https":
            return False
        self._half_closed = True
        self._exchange.keep_alive = bool(self._buffer) and self._exchange.keep_alive
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._state.connections.discard(self)
        self.place.leave()
        self._timer.close()
        self._stop_stalling()
        for future in (self._gone, self.writable, self._next):
            if future is not None and not future.done():
                future.set_result(None)
        if self._exchange is None and (self._head is not None or self._buffer) and not self._discarding:
            self._tell_refused(BadRequest(CLIENT_LEFT, "the client left before its request was whole"))

    def pause_writing(self) -> None:  # noqa: D102
        self.writable = self._loop.create_future()
        # An answer that nobody takes must not hold its task and its memory for ever.
        self._stalled = self._loop.call_later(self._state.limits.keepalive_timeout, self._transport.abort)

    def resume_writing(self) -> None:  # noqa: D102
        self._stop_stalling()
        if self.writable is not None and not self.writable.done():
            self.writable.set_result(None)
        self.writable = None

    # --- what uvicorn calls ---

    def shutdown(self) -> None:
        """The listener ends: let go of the connection."""
        self._state.draining = True
        self.let_go()

    def let_go(self) -> None:
        """End the connection: after its answer if a hook is on it, else once it has been idle for long."""
        self._leaving = True
        if self._exchange is not None:
            self._exchange.keep_alive = False
        elif self._is_at_rest():
            self._stop_waiting()
            self._idle = True
            self._wait(max(0.0, self._last_use + self._state.linger - self._loop.time()))

    def idle_since(self) -> float:
        """When it was last of use, on the loop's clock; infinite while it is."""
        return self._last_use if self._is_at_rest() else math.inf

    def keep_shorter(self) -> None:
        """Have an idle connection go by the time for which they are kept now."""
        if self._idle and self._is_at_rest() and not self._leaving:
            self._timer.clear()
            kept = max(self._state.limits.keepalive_timeout, self._state.linger)
            self._wait(max(0.0, self._last_use + kept - self._loop.time()))

    def recheck(self) -> None:
        """The list of addresses that may send hooks has changed: who is not on it any more gives its place up."""
        if self._is_allowed():
            if self.place.standing is TargetState.STRANGER and (place := self._state.admit(self._client)) is not None:
                self.place.leave()
                self.place = place
        elif self.place.standing is TargetState.MEMBER:
            self.let_go()

    @property
    def gives_way(self) -> int | None:
        """How readily its place goes to a new connection, lower first; None: a request is being answered on it."""
        if self._exchange is None:
            return 0
        return 1 if self.writable is not None else None  # its client has stopped reading

    @property
    def last_use(self) -> float:
        """Loop time at which it was made, or its last answer went out."""
        return self._last_use

    def give_way(self) -> None:
        """End at once: a new connection takes its place."""
        self.place.leave()
        self._transport.abort()

    # --- reading ---

    def _take_whole(self, data: bytes) -> bool:
        """Begin with a request that has come in one piece, as nearly every one does; False = it is none, or faulty."""
        end = data.find(b"\r\n\r\n")
        if not 0 <= end <= MAX_HEAD or not self._is_allowed():
            return False
        try:
            head = read_head(data[:end])
        except BadRequest:
            return False
        length = head.length
        if length is None or length != len(data) - end - 4 or length > self._state.limits.max_body:
            return False
        self._begin(head, data[end + 4 :])
        return True

    def _advance(self) -> None:
        """Take the next request out of the buffer, as far as it is there."""
        try:
            head = self._head or self._read_head()
            if head is None:
                return
            body = self._read_body(head)
        except BadRequest as exc:
            self._refuse(exc)
            return
        if body is not None:
            self._begin(head, body)

    def _read_head(self) -> Head | None:
        buffer = self._buffer
        if not self._is_allowed():
            raise NotAllowed(403, "hooks are not taken from this address")
        if buffer.startswith(b"\r\n"):
            self._drop(2)  # one empty line before a request is passed over (RFC 9112, section 2.2)
            buffer = self._buffer
        if not buffer:
            return None
        if buffer == b"\r":
            self._wait(self._state.limits.read_timeout)
            return None
        if not 0x41 <= buffer[0] <= 0x5A:
            raise BadRequest(400, "this is not HTTP: a request begins with its method in capital letters")
        end = buffer.find(b"\r\n\r\n")
        if end > MAX_HEAD or (end < 0 and len(buffer) > MAX_HEAD):
            raise BadRequest(431, f"the head is larger than {MAX_HEAD} bytes")
        if end < 0:
            if buffer.count(b"\n") != buffer.count(b"\r\n"):
                raise BadRequest(400, "a line break that is not CR LF stands in the head")
            self._wait(self._state.limits.read_timeout)
            return None
        head = self._head = read_head(bytes(buffer[:end]))
        self._drop(end + 4)
        max_body = self._state.limits.max_body
        if head.length is None:
            self._chunked = ChunkedBody(max_body)
        elif head.length > max_body:
            raise BadRequest(413, f"the body is larger than {max_body} bytes")
        if head.expects_continue and not self._buffer and head.length != 0:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return head

    def _is_allowed(self) -> bool:
        """Whether the peer may send hooks; looked up once per connection and configuration."""
        addresses = self._state.addresses
        if addresses is not self._checked_by:
            self._checked_by = addresses
            self._allowed = addresses.allows(self._client)
        return self._allowed

    def _read_body(self, head: Head) -> bytes | None:
        body = None
        if self._chunked is not None:
            if not isinstance(self._buffer, bytearray):
                self._buffer = bytearray(self._buffer)
            body = self._chunked.feed(self._buffer)
        elif head.length is not None and len(self._buffer) >= head.length:
            body = bytes(self._buffer[: head.length])
            self._drop(head.length)
        if body is None:
            self._wait(self._state.limits.read_timeout)
        return body

    def _drop(self, size: int) -> None:
        """Forget the first bytes of what has come."""
        if isinstance(self._buffer, bytearray):
            del self._buffer[:size]
        else:
            self._buffer = self._buffer[size:]

    # --- answering ---

    def _begin(self, head: Head, body: bytes) -> None:
        """The request is whole: it goes to the app."""
        self._stop_waiting()
        self._head = self._chunked = None
        exchange = self._exchange = Exchange(
            self,
            head,
            body,
            keep_alive=head.keep_alive
            and not (self._leaving or self._state.draining)
            and (bool(self._buffer) or not self._half_closed),
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
            "client": self._client,
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
        """Answer one request after the other: a task for each would cost more than all that is done here."""
        task = asyncio.current_task()
        while (exchange := self._exchange) is not None:
            try:
                await self._app(self._scope, exchange.receive, exchange.send)
            except asyncio.CancelledError:
                pass
            except Exception:
                logger.exception("the app failed")
            self._scope["extensions"].clear()  # whoever keeps the scope keeps no connection
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
        data = whole_answer(status, headers, body, keep_alive=exchange.keep_alive)
        if not self._transport.is_closing():
            self._transport.write(data)
        self._end(exchange)

    def write_part(self, exchange: Exchange, message: Message) -> None:
        """Write a part of the answer of the exchange under way."""
        writer = exchange.writer
        writer.keep_alive = writer.keep_alive and exchange.keep_alive
        data = writer.encode(message, self._state.default_headers)
        if data and not self._transport.is_closing():
            self._transport.write(data)
        if writer.complete:
            exchange.keep_alive = writer.keep_alive
            self._end(exchange)

    def _end(self, exchange: Exchange) -> None:
        """The answer is out: close, or go on to the next request."""
        self._exchange = None
        self._state.total_requests += 1
        self._last_use = self._loop.time()
        if self._transport.is_closing():
            return
        if not exchange.keep_alive or self._state.waiting:
            self._close_gently()
            return
        if self._buffer:
            self._transport.resume_reading()
            self._advance()
        if self._is_at_rest():
            self._idle = True
            self._wait(self._state.limits.keepalive_timeout)

    def _is_at_rest(self) -> bool:
        """Whether nothing of a request is here."""
        return self._exchange is None and self._head is None and not self._buffer and not self._discarding

    async def gone(self) -> None:
        """Return when the connection has ended."""
        if self._transport.is_closing():
            return
        if self._gone is None:
            self._gone = self._loop.create_future()
        await asyncio.shield(self._gone)

    def _refuse(self, refusal: BadRequest) -> None:
        """Answer what is no request, and take no more from this client."""
        answer = self._tell_refused(refusal)
        writer = ResponseWriter(head_only=False, keep_alive=False, chunks_allowed=False)
        writer.encode({"type": "http.response.start", "status": answer.status, "headers": answer.headers}, ())
        data = writer.encode({"type": "http.response.body", "body": answer.body}, self._state.default_headers)
        self._transport.write(data)
        self._close_gently()

    def _out_of_memory(self) -> None:
        """Refuse with what memory is left, once this connection's own is given back; else end it."""
        self._buffer = b""
        self._head = self._chunked = None
        if self._exchange is not None:  # its answer is on its way, or the app says why not
            self._exchange.keep_alive = False
            return
        try:
            self._refuse(TooManyConnections(403, "memory has run out"))
        except MemoryError:
            self._transport.abort()

    def _tell_refused(self, refusal: BadRequest) -> Answer:
        refusal.head = self._head
        return self._state.refuse(refusal)

    def _close_gently(self) -> None:
        """Close without resetting: what the client still sends is read for a moment and thrown away."""
        self._stop_waiting()
        self._head = self._chunked = None
        self._buffer = b""
        self._discarding = True
        self._timer.set(self._loop.time() + _DISCARD_TIME)
        if self._transport.can_write_eof() and not self._half_closed:
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    # --- waiting for the client ---

    def _wait(self, seconds: float) -> None:
        """Begin the time that the client has, unless it runs already."""
        if not self._timer.is_set:
            self._timer.set(self._loop.time() + seconds)

    def _stop_waiting(self) -> None:
        self._idle = False
        self._timer.clear()

    def _stop_stalling(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _expired(self) -> None:
        if self._discarding:
            self._transport.abort()
        elif self._head is not None or self._buffer:
            seconds = self._state.limits.read_timeout
            self._refuse(BadRequest(408, f"the request did not arrive within {seconds:g} s"))
        elif self._transport.get_write_buffer_size():
            self._transport.abort()  # it never read its last answer
        else:
            self._transport.close()


CLIENT_LEFT: Final = 499
"""In the log only, as nginx writes it: nobody was there to be answered."""


def _address(name: object) -> tuple[str, int] | None:
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None
