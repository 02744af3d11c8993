"""Encodes answers: ASGI messages as bytes on the wire, head and body in one piece where possible."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from starlette.types import Message

from gateway.http.lines import breaks_lines

STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode("ascii")) for status in HTTPStatus
}


def encode_answer(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, *, keep_alive: bool) -> bytes:
    """An answer in one piece; *headers* include Content-Length. RuntimeError: a header breaks its line."""
    lines = [b"%b: %b\r\n" % field for field in headers]
    head = b"".join(lines)
    if breaks_lines(head, len(lines)):
        raise RuntimeError("a header of the answer would break into two lines")
    return b"%b%b%b%b" % (STATUS_LINES[status], head, b"\r\n" if keep_alive else b"connection: close\r\n\r\n", body)


class ResponseWriter:
    """Encodes one exchange's messages. Raises RuntimeError if the app breaks the protocol."""

    def __init__(self, *, head_only: bool, keep_alive: bool, chunks_allowed: bool) -> None:
        self.keep_alive = keep_alive
        self.complete = False
        self._head_only = head_only
        self._chunks_allowed = chunks_allowed
        self._start: Message | None = None
        self._chunked = False
        self._left: int | None = None
        self._head_sent = False

    def encode(self, message: Message, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The bytes that a message adds; none for the start, which goes out with the first of the body."""
        if self.complete:
            raise RuntimeError("an answer goes on after its end")
        if message["type"] == "http.response.start":
            if self._start is not None:
                raise RuntimeError("an answer begins twice")
            self._start = message
            return b""
        if message["type"] != "http.response.body" or self._start is None:
            raise RuntimeError(f"{message['type']} is not what comes next")
        body: bytes = message.get("body", b"")
        self.complete = not message.get("more_body", False)
        if self._head_sent:
            return self._body(body)
        self._head_sent = True
        return self._head(self._start, len(body), default_headers) + self._body(body)

    def _head(self, start: Message, size: int, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        parts = [STATUS_LINES[start["status"]]]
        for name, value in (*default_headers, *start.get("headers", ())):
            if name == b"content-length":
                self._left = int(value)
            elif name == b"connection" and value == b"close":
                self.keep_alive = False
                continue
            parts.append(b"%b: %b\r\n" % (name, value))
        if start["status"] in (204, 304):
            self._head_only = True  # these have no body (RFC 9110, sections 15.3.5, 15.4.5)
        elif self._left is None:
            self._frame(parts, size)
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        head = b"".join(parts)
        if breaks_lines(head, len(parts)):
            raise RuntimeError("a header of the answer would break into two lines")
        return head

    def _frame(self, parts: list[bytes], size: int) -> None:
        """Add the framing of a body whose length the app has not given."""
        if self.complete:
            self._left = size
            parts.append(b"content-length: %d\r\n" % size)
        elif self._chunks_allowed:
            self._chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
        else:
            self.keep_alive = False  # to HTTP/1.0, the end of the connection ends the body

    def _body(self, body: bytes) -> bytes:
        if self._head_only:
            return b""
        if self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk + (b"0\r\n\r\n" if self.complete else b"")
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self.complete and self._left):
                raise RuntimeError("the answer's length is not what its Content-Length says")
        return body
