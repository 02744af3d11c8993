"""Takes requests out of what a client sends: in order, each one whole. Pure: bytes in, requests out."""

from __future__ import annotations

from gateway.http.server.chunked import ChunkedBody
from gateway.http.server.head import MAX_HEAD, BadRequest, Head, read_head

Request = tuple[Head, bytes]
"""A whole request: its head, and its body without any coding."""


def whole_request(data: bytes, max_body: int) -> Request | None:
    """The one request that these bytes are, as nearly every hook comes.

    None = they are none, or not one alone, or a faulty one: give them to a RequestReader. *max_body* is in bytes.
    """
    end = data.find(b"\r\n\r\n")
    if not 0 <= end <= MAX_HEAD:
        return None
    try:
        head = read_head(data[:end])
    except BadRequest:
        return None
    length = head.length
    if length is None or length != len(data) - end - 4 or length > max_body:
        return None
    return head, data[end + 4 :]


class RequestReader:
    """What a client has sent and nobody has taken yet."""

    __slots__ = ("_chunked", "buffer", "continue_due", "head")

    def __init__(self) -> None:
        self.buffer: bytes | bytearray = b""
        """Bytes that have not been read as part of a request."""
        self.head: Head | None = None
        """The head of a request whose body has not come whole."""
        self._chunked: ChunkedBody | None = None
        self.continue_due = False
        """Whether the client waits for ``100 Continue`` before it sends the body."""

    @property
    def has_begun(self) -> bool:
        """Whether a part of a request is here."""
        return self.head is not None or bool(self.buffer)

    def add(self, data: bytes) -> None:
        """Append what has come."""
        if not self.buffer:
            self.buffer = data
        elif isinstance(self.buffer, bytearray):
            self.buffer += data
        else:
            self.buffer = bytearray(self.buffer)  # it comes in pieces: from now on one copies no more than each
            self.buffer += data

    def clear(self) -> None:
        """Drop everything."""
        self.buffer = b""
        self.head = self._chunked = None

    def next_request(self, max_body: int) -> Request | None:
        """Take the next request; None = it has not come whole.

        *max_body*: bytes of the largest body. Raises BadRequest (400, 413, 431).
        """
        head = self.head or self._read_head(max_body)
        if head is None:
            return None
        body = self._read_body(head)
        if body is None:
            return None
        self.head = self._chunked = None
        return head, body

    def _read_head(self, max_body: int) -> Head | None:
        buffer = self.buffer
        if buffer.startswith(b"\r\n"):
            self._drop(2)  # one empty line before a request is passed over (RFC 9112, section 2.2)
            buffer = self.buffer
        if not buffer or buffer == b"\r":
            return None
        if not 0x41 <= buffer[0] <= 0x5A:
            raise BadRequest(400, "this is not HTTP: a request begins with its method in capital letters")
        end = buffer.find(b"\r\n\r\n")
        if end > MAX_HEAD or (end < 0 and len(buffer) > MAX_HEAD):
            raise BadRequest(431, f"the head is larger than {MAX_HEAD} bytes")
        if end < 0:
            if buffer.count(b"\n") != buffer.count(b"\r\n"):
                raise BadRequest(400, "the head has a line break that is not CR LF")
            return None
        head = self.head = read_head(bytes(buffer[:end]))
        self._drop(end + 4)
        if head.length is None:
            self._chunked = ChunkedBody(max_body)
        elif head.length > max_body:
            raise BadRequest(413, f"the body is larger than {max_body} bytes")
        self.continue_due = head.expects_continue and not self.buffer and head.length != 0
        return head

    def _read_body(self, head: Head) -> bytes | None:
        if self._chunked is not None:
            if not isinstance(self.buffer, bytearray):
                self.buffer = bytearray(self.buffer)
            return self._chunked.feed(self.buffer)
        if head.length is None or len(self.buffer) < head.length:
            return None
        body = bytes(self.buffer[: head.length])
        self._drop(head.length)
        return body

    def _drop(self, size: int) -> None:
        """Forget the first bytes."""
        if isinstance(self.buffer, bytearray):
            del self.buffer[:size]
        else:
            self.buffer = self.buffer[size:]
