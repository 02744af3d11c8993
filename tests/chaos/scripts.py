"""What a backend sends in each mode, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Final

SLOW: Final = 0.25
DRIP: Final = 0.002
DRIP_LATE: Final = 0.1


class End(Enum):
    """How a connection is left; without one it is closed."""

    KEEP = "the next hook may come"
    RESET = "reset"
    WAIT = "nothing more, until the other side ends it"


Step = bytes | float | End
"""Bytes that are sent, a pause in seconds, or the end."""


def head(status: str, length: int, *more: str) -> bytes:
    """An answer's head."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()


def _answer(body: bytes, *, status: str = "200 OK") -> Callable[[bytes], Iterable[Step]]:
    """This body, for every hook."""
    return lambda _: [head(status, len(body)) + body, End.KEEP]


def whole(answer: bytes) -> bytes:
    """The right answer."""
    return head("200 OK", len(answer)) + answer


def _drip(answer: bytes, pause: float) -> Iterator[Step]:
    for byte in whole(answer):
        yield bytes([byte])
        yield pause
    yield End.KEEP


def _endless(_: bytes) -> Iterator[Step]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for _turn in range(2000):
        yield b"400\r\n" + b" " * 1024 + b"\r\n"
        yield 0.001


def _behind_a_mark(answer: bytes) -> list[Step]:
    return [whole(b"\xef\xbb\xbf" + answer), End.KEEP]


_ANOTHERS: Final = whole(b'{"answeredTo":"another hook","by":"sick"}')
_DIES: Final = b"<b>Fatal error</b>:  Uncaught Error: Call to a member function on null in /a.php:3"

SCRIPTS: Final[dict[str, Callable[[bytes], Iterable[Step]]]] = {
    "ok": lambda answer: [whole(answer), End.KEEP],
    "slow": lambda answer: [SLOW, whole(answer), End.KEEP],
    "drip": lambda answer: _drip(answer, DRIP),
    "connection_close": lambda answer: [head("200 OK", len(answer), "Connection: close") + answer],
    "closes_silently": lambda answer: [whole(answer)],
    "surplus": lambda answer: [whole(answer) + _ANOTHERS, End.KEEP],
    "denied": _answer(b"", status="403 Forbidden"),
    "error": _answer(b"<html>a stack trace</html>", status="500 Internal Server Error"),
    "redirect": lambda _: [head("302 Found", 0, "Location: /login"), End.KEEP],
    "no_content": lambda _: [b"HTTP/1.1 204 No Content\r\n\r\n", End.KEEP],
    "html": _answer(b"<html>your login</html>"),
    "empty": _answer(b""),
    "bom": _behind_a_mark,
    "array": _answer(b"[]"),
    "php_dies": _answer(_DIES),
    "noise": lambda _: [bytes((number * 7 + 13) % 256 for number in range(512))],
    "short": lambda answer: [head("200 OK", len(answer) + 50) + answer],
    "reset": lambda _: [End.RESET],
    "close": lambda _: [],
    "reset_amid": lambda answer: [whole(answer)[:-10], 0.01, End.RESET],
    "close_amid": lambda answer: [whole(answer)[:40]],
    "hang": lambda _: [End.WAIT],
    "hang_amid": lambda answer: [whole(answer)[:-10], End.WAIT],
    "drip_late": lambda answer: _drip(answer, DRIP_LATE),
    "endless": _endless,
}
