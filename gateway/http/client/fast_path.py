"""A fast path for plain answers: whole in one piece, HTTP/1.1, with the body's length in Content-Length.

Nearly every backend sends these. Anything else is left to the parser (answer_parser.py), so this must accept only what
the parser accepts too, with the same result. Pure: bytes in, PlainAnswer or None out.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

_LONGEST: Final = 1024
"""Bytes of the longest head that is taken here."""
_MOST_FIELDS: Final = 100
_REMEMBERED: Final = 512
"""Heads that are remembered: a backend's differ in their Date and Content-Length."""
_CONTROLS: Final = bytes([*range(0x20), 0x7F])
_is_status_line = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) [ -~]*").fullmatch
_is_name = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_NOT_PLAIN: Final = frozenset((b"transfer-encoding", b"keep-alive", b"upgrade", b"trailer", b"proxy-connection"))
_NO_BODY: Final = frozenset((204, 205, 304))


class PlainHead(NamedTuple):
    """The head of a plain answer."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    length: int
    """Bytes of the body."""
    keep_alive: bool


class PlainAnswer(msgspec.Struct, frozen=True, gc=False):
    """A plain answer, whole."""

    head: PlainHead
    body: bytes


def parse_plain_answer(data: bytes) -> PlainAnswer | None:
    """The answer that these bytes are, no byte more or less; None = let the parser have them."""
    end = data.find(b"\r\n\r\n", 0, _LONGEST)
    if end < 0:
        return None
    head = _plain_head(data[:end])
    if head is None or len(data) - end - 4 != head.length:
        return None
    return PlainAnswer(head, data[end + 4 :])


@lru_cache(_REMEMBERED)
def _plain_head(data: bytes) -> PlainHead | None:
    status_line, *lines = data.split(b"\r\n")
    # Each line break is two control characters; one more of any kind is one too many.
    if len(data.translate(None, _CONTROLS)) != len(data) - 2 * len(lines) or not data.isascii():
        return None
    status = _is_status_line(status_line)
    if len(lines) > _MOST_FIELDS or status is None or int(status[1]) in _NO_BODY:
        return None
    headers: list[tuple[bytes, bytes]] = []
    length: int | None = None
    keep_alive = True
    for line in lines:
        name, colon, value = line.partition(b":")
        value = value.lstrip(b" ")  # the parser keeps white space behind a value
        headers.append((name, value))
        lower = name.lower()
        if not colon or not _is_name(name) or lower in _NOT_PLAIN:
            return None
        if lower == b"content-length":
            if length is not None or not value.isdigit() or len(value) > 9:
                return None
            length = int(value)
        elif lower == b"connection":
            if not keep_alive or value.lower() not in (b"close", b"keep-alive"):
                return None
            keep_alive = value.lower() == b"keep-alive"
    return None if length is None else PlainHead(int(status[1]), tuple(headers), length, keep_alive)
