"""The bytes that cases send: whole answers, chunks, and the pieces and floods in which they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from tests.support.faulty.cases import WRONG_ANSWER, End, Expected, Pause, Step, add_case, right_answer

V = TypeVar("V")
T = TypeVar("T")
R = TypeVar("R")

BLOCK: Final = 64 * 1024
"""Bytes that a flood sends at once."""
_ENDLESS: Final = 8 * 1024 * 1024
"""Bytes after which an endless case falls silent, so that a broken reader cannot run the machine full."""


def head(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """An answer's head: status line, then header lines, then the empty line."""
    return b"\r\n".join((start, *lines, b"", b""))


def reply(body: bytes, *lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A whole answer with its true Content-Length."""
    return head(b"Content-Type: application/json", *lines, b"Content-Length: %d" % len(body), start=start) + body


def chunks(body: bytes, size: int = 10, *, extension: bytes = b"", last: bytes = b"0\r\n\r\n") -> bytes:
    """A body in chunked coding (RFC 9112, section 7.1)."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts) + last


def chunked(coded: bytes, *lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """An answer whose body is this, already in chunks."""
    return head(b"Content-Type: application/json", *lines, b"Transfer-Encoding: chunked", start=start) + coded


def bind(value: V, make: Callable[[V, T], R]) -> Callable[[T], R]:
    """*make* with its first argument fixed now, for the cases that a loop makes."""
    return lambda rest: make(value, rest)


def one_by_one(data: bytes, seconds: float) -> Iterator[Step]:
    """Every byte by itself, with so many seconds after each."""
    for byte in data:
        yield bytes((byte,))
        yield Pause(seconds)


def endless(first: bytes, block: bytes) -> Iterator[Step]:
    """A beginning, and then the same again and again."""
    yield first
    for _ in range(_ENDLESS // len(block)):
        yield block
    yield End.SILENCE


def surplus(data: bytes) -> bytes:
    """The right answer's bytes with another hook's answer right behind."""
    return data + reply(WRONG_ANSWER)


def pieces(data: bytes, size: int) -> Iterator[Step]:
    """Segments of so many bytes."""
    for at in range(0, len(data), size):
        yield data[at : at + size]
        yield Pause(0.001)


def padded(right: bytes, size: int) -> bytes:
    """The right answer, made as long as this."""
    return right[:-1] + b',"pad":"' + b"x" * (size - len(right) - 9) + b'"}'


def add_body(
    name: str, doc: str, expect: Expected, make: Callable[[bytes], bytes], *,
    lines: tuple[bytes, ...] = (), also: tuple[Expected, ...] = (),
) -> None:  # fmt: skip
    """A case with faultless framing, where only the body is special; *make* gets the right answer."""
    add_case(
        name, doc, expect, 1, lambda t: [reply(make(t.right), *lines)],
        also=also, body=lambda request_body: make(right_answer(request_body)),
    )  # fmt: skip


def add_answer(
    name: str, doc: str, expect: Expected, after: int, whole: Callable[[bytes], bytes], *,
    also: tuple[Expected, ...] = (),
) -> None:  # fmt: skip
    """A case that sends one made-up answer, *whole* of the right body, and then falls silent or goes on."""
    end: tuple[Step, ...] = () if after else (End.SILENCE,)
    add_case(name, doc, expect, after, lambda t: [whole(t.right), *end], also=also)
