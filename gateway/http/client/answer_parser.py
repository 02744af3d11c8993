"""Parses a backend's answers with httptools (llhttp, every leniency off), one after the other on one connection.

httptools finds where an answer ends, but has no limits of its own: the size of head and body, the number of header
lines and of interim answers, and the bytes on the wire are limited here. No I/O.
"""

from __future__ import annotations

from typing import Final

import httptools
import msgspec

from gateway.http.client.errors import BadAnswer, ExchangeError
from gateway.model.verdicts import Cause, Failure, ProxyError

MAX_HEAD: Final = 64 * 1024
"""Bytes of status line and header lines, interim answers included."""
MAX_HEADERS: Final = 200
MAX_INTERIM: Final = 32
"""1xx answers before the final one (RFC 9110, section 15.2)."""

_FIRST_BYTES: Final = b"HTTP/1."
"""llhttp accepts RTSP/1.0 too."""
_NO_BODY: Final = frozenset((204, 304))


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A whole answer as it came: nothing decoded, no redirect followed."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    queued: float = 0.0
    """Seconds for which its request waited until a connection of the pool was free."""


class AnswerParser:
    """Parses one answer at a time: ``feed`` until ``complete``, then ``answer``, then ``reset``."""

    def __init__(self, address: str, max_answer: int) -> None:
        """*address* is for messages; *max_answer*: bytes of the largest body."""
        self._address = address
        self._max_answer = max_answer
        self._parser = httptools.HttpResponseParser(self)
        self.server_keepalive: float | None = None
        """Seconds that the backend's own ``Keep-Alive: timeout=`` promises; None if it says nothing."""
        self.reset()

    def reset(self) -> None:
        """Forget the last answer."""
        self.received = 0
        """Bytes on the wire since the last reset."""
        self.complete = False
        self.keep_alive = False
        """Whether the connection may carry another exchange after a complete answer."""
        self.leftover = False
        """Whether something came after the answer."""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._head_size = 0  # names and values
        self._length = 0  # of the body so far
        self._interim = 0
        self._status = 0
        self._in_body = False  # the final answer's head is complete
        self._until_eof = False  # only the end of the connection ends the body

    def close(self) -> None:
        """Parse no more; break the reference cycle with httptools' parser."""
        self._parser = None  # type: ignore[assignment]

    def feed(self, data: bytes) -> ExchangeError | None:
        """Parse what has come; returns the error if it is no answer."""
        if not self.received and not data.startswith(_FIRST_BYTES[: len(data)]):
            return self._bad("not an HTTP/1 answer")
        self.received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return self._bad("switched protocols unasked", ProxyError.HTTP_UPGRADE_FAILED)
        except httptools.HttpParserError as exc:
            if not self.complete:
                fault = exc.__context__ if isinstance(exc.__context__, ExchangeError) else None
                # Without the traceback: its frames hold this one, which holds the fault, and with it all of the body.
                return (fault or self._bad(f"malformed HTTP ({exc})")).with_traceback(None)
            self.leftover = True
        if self.complete:
            return None
        if not self._in_body and self.received > MAX_HEAD:
            return self._bad("answer's head is larger than 64 KiB", ProxyError.HTTP_RESPONSE_HEADER_SECTION_SIZE)
        if self.received > MAX_HEAD + 2 * self._max_answer:
            return self._too_large()  # chunk framing and extensions count as well
        return None

    def end(self) -> ExchangeError | None:
        """The backend has ended its side after a part of the answer; returns the error unless that completes it."""
        if self._until_eof:
            self.complete = True
            return None
        what = "answer cut short" if self._in_body else "closed amid the answer's head"
        return self._bad(what, ProxyError.HTTP_RESPONSE_INCOMPLETE)

    def answer(self) -> Answer:
        """The complete answer."""
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        return Answer(self._status, tuple(self._headers), body)

    def failure(self, cause: Cause, error: ProxyError, what: str) -> Failure:
        """What went wrong with this answer, with the backend's address and status, if that is known."""
        return Failure(cause, error, f"{self._address}: {what}", self._status if self._in_body else None)

    # --- httptools' callbacks ---

    def on_message_begin(self) -> None:  # noqa: D102
        if self.complete:
            self.leftover = True

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        if self.complete or self._in_body:
            return  # a second message, or trailers: both are ignored
        if len(self._headers) >= MAX_HEADERS:
            raise self._bad(f"more than {MAX_HEADERS} header lines", ProxyError.HTTP_RESPONSE_HEADER_SECTION_SIZE)
        self._count_head(len(name) + len(value))
        self._headers.append((name, value))

    def on_status(self, reason: bytes) -> None:  # noqa: D102
        self._count_head(len(reason))

    def on_headers_complete(self) -> None:  # noqa: D102
        if self.complete:
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
        if self.complete:
            self.leftover = True
            return
        self._length += len(data)
        if self._length > self._max_answer:
            raise self._too_large()
        self._body.append(data)

    def on_message_complete(self) -> None:  # noqa: D102
        if not self._in_body:
            self._headers.clear()  # it was an interim answer
        elif not self._until_eof:
            self.keep_alive = not self.complete and self._parser.should_keep_alive()
            self.complete = True

    # --- limits and framing ---

    def _has_framing(self) -> bool:
        """Whether the answer says where it ends; raises BadAnswer if it says so ambiguously (RFC 9112, section 6.3)."""
        framed = False
        for name, value in self._headers:
            lower = name.lower()
            if lower == b"content-length":
                number = value.strip(b" \t")
                if not number.isdigit():
                    raise self._bad("Content-Length is not a number")
                if int(number[:20]) > self._max_answer:
                    raise self._too_large()
                framed = True
            elif lower == b"transfer-encoding":
                if value.strip().lower() != b"chunked":
                    raise self._bad("Transfer-Encoding is not exactly 'chunked'")
                framed = True
            elif lower == b"keep-alive":
                self.server_keepalive = _keepalive_timeout(value)
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

    def _bad(self, what: str, error: ProxyError = ProxyError.HTTP_PROTOCOL_ERROR) -> BadAnswer:
        return BadAnswer(self.failure(Cause.BAD_ANSWER, error, what))

    def _too_large(self) -> BadAnswer:
        return self._bad(f"answer's body is larger than {self._max_answer} bytes", ProxyError.HTTP_RESPONSE_BODY_SIZE)


def _keepalive_timeout(value: bytes) -> float | None:
    for part in value.split(b","):
        name, _, number = part.strip().partition(b"=")
        if name.strip().lower() == b"timeout" and number.isdigit():
            return float(number[:6])
    return None
