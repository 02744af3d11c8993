"""The chunked coding of a request's body, read strictly (RFC 9112, section 7.1). Pure: bytes in, body out."""

from __future__ import annotations

import re
from typing import Final

from gateway.http.server.head import BadRequest

_MAX_LINE: Final = 256
"""Bytes of a chunk's size line with its extensions, or of one trailer."""
_MAX_TRAILERS: Final = 8
_size_line = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t -~\x80-\xff]*)?").fullmatch
_trailer = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t -~\x80-\xff]*").fullmatch
_NO_TRAILERS: Final = frozenset((b"content-length", b"transfer-encoding", b"host", b"authorization", b"trailer"))
"""Fields that a trailer must not have (RFC 9110, section 6.5.1)."""


class ChunkedBody:
    """Takes the body out of its chunks; raises BadRequest for everything that could be read in two ways."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._chunks: list[bytes] = []
        self._size = 0
        self._trailers = -1  # >= 0 once the last chunk has come

    def feed(self, buffer: bytearray) -> bytes | None:
        """Consume what is complete at the start of the buffer. Returns the whole body once it is there, else None."""
        while True:
            line_end = buffer.find(b"\r\n", 0, _MAX_LINE + 2)
            if line_end < 0:
                if len(buffer) > _MAX_LINE + 1:  # half of the line end may have come
                    raise BadRequest(400, "a chunk's size line, or a trailer, is too long")
                return None
            line = bytes(buffer[:line_end])
            if self._trailers >= 0:
                del buffer[: line_end + 2]
                if not line:
                    return b"".join(self._chunks)
                self._check_trailer(line)
                continue
            size = self._chunk_size(line)
            end = line_end + 2 + size
            if size and len(buffer) < end + 2:
                return None
            if size:
                if buffer[end : end + 2] != b"\r\n":
                    raise BadRequest(400, "a chunk is longer than its size says")
                self._chunks.append(bytes(buffer[line_end + 2 : end]))
                self._size += size
                del buffer[: end + 2]
            else:
                self._trailers = 0
                del buffer[: line_end + 2]

    def _chunk_size(self, line: bytes) -> int:
        match = _size_line(line)
        if match is None:
            raise BadRequest(400, "a chunk's size is not a hexadecimal number")
        size = int(match[1], 16)
        if self._size + size > self._max_body:
            raise BadRequest(413, f"the body is larger than {self._max_body} bytes")
        if len(self._chunks) > 16 + self._max_body // 16:
            raise BadRequest(400, "the body comes in too many chunks")
        return size

    def _check_trailer(self, line: bytes) -> None:
        match = _trailer(line)
        self._trailers += 1
        if match is None or match[1].lower() in _NO_TRAILERS or self._trailers > _MAX_TRAILERS:
            raise BadRequest(400, "a trailer is malformed, or names what no trailer may")
