"""A test backend that plays each fault of a backend, byte for byte, on real loopback sockets.

One server plays every case at once: the last path segment but one names the case, so an upstream whose URL is
``backend.url_of("reset_during_head")`` meets that fault with every hook. No HTTP library takes part: what a
case sends is what its script says. A script yields steps (bytes, a pause, an end); one that runs out leaves
the connection open for the next request.

The expectations hold for an app with a timeout of 600 ms, a connect_timeout of 200 ms, fallback *reject* and
a largest answer of 1 MiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gzip
import hashlib
import re
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from programs import require

MAX_ANSWER: Final = 1024 * 1024
"""Bytes: the largest answer that the gateway under test accepts."""
BASE_PATH: Final = "/rest/my_api"
WRONG_ANSWER: Final = b'{"answer":"of another hook"}'
"""A 200 that belongs to nobody: no client may ever see it."""
CALLER_INPUT: Final = b'{"restPolicy":"OVERWRITE"}'
"""JSON that a caller smuggled into a backend's error text: no client may ever see it as an answer."""
V = TypeVar("V")
T = TypeVar("T")
R = TypeVar("R")

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_BLOCK: Final = 64 * 1024
_ENDLESS: Final = 8 * 1024 * 1024
"""Bytes after which an endless case falls silent, so that a broken reader cannot run the machine full."""
_MAX_REQUEST: Final = 16 * 1024 * 1024
_PATIENCE: Final = 30.0
"""Seconds after which a silent connection is closed, whatever the peer does."""


class Expected(NamedTuple):
    """What the gateway makes of a case."""

    status: int
    reason: str
    verdict: str


OK: Final = Expected(200, "ok", "allow")
DENIED: Final = Expected(403, "denied", "reject")
TIMEOUT: Final = Expected(403, "timeout", "reject")
UNREACHABLE: Final = Expected(403, "unreachable", "reject")
BAD_ANSWER: Final = Expected(403, "bad_answer", "reject")
ERROR_STATUS: Final = Expected(403, "error_status", "reject")


@dataclasses.dataclass(frozen=True, slots=True)
class Recorded:
    """A request as it arrived."""

    line: bytes
    """The request line without its line end."""
    method: str
    path: str
    """The request target as it came, query included."""
    headers: list[tuple[bytes, bytes]]
    """Names in the case in which they came, values without the optional white space around them."""
    case: str
    connection: int
    """Number of the connection, from 1, in the order in which the backend accepted them."""
    turn: int
    """How many requests this connection has brought, this one included."""
    time: float
    """time.monotonic() at which the head was complete."""
    body: bytes = b""
    chunked: bool = False
    complete: bool = True
    """False where the case answers before it reads the body; *body* is empty then."""

    def values(self, name: str) -> list[bytes]:
        """All values of a header, its name in any case."""
        wanted = name.lower().encode("ascii")
        return [value for key, value in self.headers if key.lower() == wanted]


class Pause(NamedTuple):
    """Nothing is sent for this many seconds."""

    seconds: float


class End(Enum):
    """How a script leaves its connection."""

    CLOSE = "close"
    RESET = "reset"
    SILENCE = "silence"
    """Nothing more is sent; the connection stays until the peer leaves."""


Step = bytes | Pause | End


class Turn(NamedTuple):
    """What a script may build on."""

    request: Recorded
    right: bytes
    """The answer that belongs to this request."""
    nth: int
    """How many requests this case has had on all connections, this one included."""


Script = Callable[[Turn], Iterable[Step]]


def right_answer(request_body: bytes) -> bytes:
    """The JSON answer that belongs to this request body and to no other."""
    return b'{"answer":"%b"}' % hashlib.sha256(request_body).hexdigest()[:32].encode("ascii")


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One behaviour, and what the gateway makes of it."""

    name: str
    doc: str
    expect: Expected
    """The outcome of a hook on a fresh connection."""
    connections_after: int
    """How many connections of this one hook the gateway may keep for later hooks: 0 (must close it) or 1."""
    script: Script
    also: tuple[Expected, ...] = ()
    """Outcomes that the contract or the RFCs leave open beside *expect*."""
    second: tuple[Expected, ...] = ()
    """Acceptable outcomes of the next hook, sent once this one is answered; empty: the same again."""
    early: bool = False
    """The script starts when the head is in, before the body is read."""
    body: Callable[[bytes], bytes] = right_answer
    """The body that an allowed hook gets, byte for byte, from the request's body."""

    @property
    def allowed(self) -> tuple[Expected, ...]:
        """Every acceptable outcome, the expected one first."""
        return (self.expect, *self.also)


CASES: Final[dict[str, Case]] = {}


def _case(
    name: str, doc: str, expect: Expected, connections_after: int, script: Script, *,
    also: tuple[Expected, ...] = (), second: tuple[Expected, ...] = (), early: bool = False,
    body: Callable[[bytes], bytes] = right_answer,
) -> None:  # fmt: skip
    if name in CASES or not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError(f"case name {name!r} is taken or does not fit into a path")
    CASES[name] = Case(name, doc, expect, connections_after, script, also, second, early, body)


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


def _chunked(coded: bytes, *lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return head(b"Content-Type: application/json", *lines, b"Transfer-Encoding: chunked", start=start) + coded


def _bind(value: V, make: Callable[[V, T], R]) -> Callable[[T], R]:
    """*make* with its first argument fixed now, for the cases that a loop makes."""
    return lambda rest: make(value, rest)


def _body(
    name: str, doc: str, expect: Expected, make: Callable[[bytes], bytes], *,
    lines: tuple[bytes, ...] = (), also: tuple[Expected, ...] = (),
) -> None:  # fmt: skip
    """A case with faultless framing, where only the body is special; *make* gets the right answer."""
    _case(
        name, doc, expect, 1, lambda t: [reply(make(t.right), *lines)],
        also=also, body=lambda request_body: make(right_answer(request_body)),
    )  # fmt: skip


def _head(
    name: str, doc: str, expect: Expected, after: int, whole: Callable[[bytes], bytes], *,
    also: tuple[Expected, ...] = (),
) -> None:  # fmt: skip
    """A case that sends one made-up answer, *whole* of the right body, and then falls silent or goes on."""
    end: tuple[Step, ...] = () if after else (End.SILENCE,)
    _case(name, doc, expect, after, lambda t: [whole(t.right), *end], also=also)


def _one_by_one(data: bytes, seconds: float) -> Iterator[Step]:
    for byte in data:
        yield bytes((byte,))
        yield Pause(seconds)


def _endless(first: bytes, block: bytes) -> Iterator[Step]:
    yield first
    for _ in range(_ENDLESS // len(block)):
        yield block
    yield End.SILENCE


def _surplus(data: bytes) -> bytes:
    """The right answer's bytes with another hook's answer right behind."""
    return data + reply(WRONG_ANSWER)


# fmt: off
# Tables from here on: a case is its name, a sentence, what is expected, and what is sent.


def _answers() -> None:
    """Faultless answers in all the forms that real backends use."""
    _case("ok", "A right answer on a connection that stays open.", OK, 1, lambda t: [reply(t.right)])
    _case("ok_close", "A right answer with Connection: close, then the close.", OK, 0,
          lambda t: [reply(t.right, b"Connection: close"), End.CLOSE])
    _case("ok_close_unsaid", "A right answer, then a close that no header announced.", OK, 0,
          lambda t: [reply(t.right), End.CLOSE])
    _case("ok_close_said_but_open",
          "A right answer with Connection: close on a connection that stays open.", OK, 0,
          lambda t: [reply(t.right, b"Connection: close"), End.SILENCE])
    _case("ok_slow", "A right answer after 300 ms.", OK, 1, lambda t: [Pause(0.3), reply(t.right)])
    _case("ok_in_pieces", "A right answer in segments of seven bytes.", OK, 1, lambda t: _pieces(reply(t.right), 7))
    _case("ok_http10", "An HTTP/1.0 answer without a length that ends with the connection.", OK, 0,
          lambda t: [head(start=b"HTTP/1.0 200 OK") + t.right, End.CLOSE])
    _case("ok_http10_keep_alive", "An HTTP/1.0 answer with a length and Connection: keep-alive.", OK, 1,
          lambda t: [reply(t.right, b"Connection: keep-alive", start=b"HTTP/1.0 200 OK")])
    _case("ok_http10_open",
          "An HTTP/1.0 answer with a length and no keep-alive on a connection that stays.", OK, 0,
          lambda t: [reply(t.right, start=b"HTTP/1.0 200 OK"), End.SILENCE])
    _case("ok_until_eof", "An HTTP/1.1 answer without a length that ends with the connection.", OK, 0,
          lambda t: [head() + t.right, End.CLOSE])
    _case("ok_keep_alive_timeout",
          "A right answer with Keep-Alive: timeout=1, and a close after that second.", OK, 1,
          lambda t: [reply(t.right, b"Keep-Alive: timeout=1", b"Connection: keep-alive"), Pause(1.0), End.CLOSE])
    _head("ok_upper_case", "Header names in upper case.", OK, 1,
          lambda right: head(b"CONTENT-LENGTH: %d" % len(right)) + right)
    _head("ok_lower_case", "Header names in lower case.", OK, 1,
          lambda right: head(b"content-length: %d" % len(right)) + right)
    _head("ok_no_reason", "A status line without a reason phrase.", OK, 1,
          lambda right: reply(right, start=b"HTTP/1.1 200 "))
    _head("ok_set_cookie", "A Set-Cookie beside a right answer: it is sent on neither way.", OK, 1,
          lambda right: reply(right, b"Set-Cookie: PHPSESSID=secret-of-the-backend; path=/"))
    _head("ok_html_type", "A right answer that calls itself text/html, as PHP does.", OK, 1,
          lambda right: head(b"Content-Type: text/html", b"Content-Length: %d" % len(right)) + right)
    _body("ok_white_space", "White space around the JSON.", OK, lambda right: b"\r\n \t" + right + b"\n\n")
    _body("ok_at_limit", "A body exactly at the limit.", OK, functools.partial(_padded, size=MAX_ANSWER))
    _body("ok_long_number", "A JSON number of 5,000 digits.", OK, lambda _: b'{"a":' + b"9" * 5000 + b"}")


def _pieces(data: bytes, size: int) -> Iterator[Step]:
    for at in range(0, len(data), size):
        yield data[at : at + size]
        yield Pause(0.001)


def _padded(right: bytes, size: int) -> bytes:
    return right[:-1] + b',"pad":"' + b"x" * (size - len(right) - 9) + b'"}'


def _silences_and_ends() -> None:
    """Backends that hang, leave or dawdle."""
    _case("hang", "Takes the request and never answers.", TIMEOUT, 0, lambda t: [End.SILENCE])
    _case("hang_before_body", "Never reads the body, never answers.", TIMEOUT, 0, lambda t: [End.SILENCE],
          early=True)
    _case("late_answer", "The right answer after 900 ms, when nobody waits for it any more.", TIMEOUT, 0,
          lambda t: [Pause(0.9), reply(t.right)])
    _case("reset_before_body", "Resets when the head is in, before it reads the body.", UNREACHABLE, 0,
          lambda t: [End.RESET], early=True)
    _case("reset_before_answer", "Resets when the request is in.", UNREACHABLE, 0, lambda t: [End.RESET])
    _case("reset_during_head", "Half a head, then a reset.", UNREACHABLE, 0,
          lambda t: [b"HTTP/1.1 200 OK\r\nContent-Le", Pause(0.02), End.RESET], also=(BAD_ANSWER,))
    _case("reset_during_body", "Half the body, then a reset.", UNREACHABLE, 0,
          lambda t: [reply(t.right)[:-10], Pause(0.02), End.RESET], also=(BAD_ANSWER,))
    _case("reset_after_answer", "A right answer, then a reset.", OK, 0,
          lambda t: [reply(t.right), Pause(0.02), End.RESET])
    _case("close_without_a_byte", "Closes when the request is in.", UNREACHABLE, 0, lambda t: [End.CLOSE])
    _case("half_head_close", "Half a head, then a close.", BAD_ANSWER, 0,
          lambda t: [b"HTTP/1.1 200 OK\r\nContent-Le", End.CLOSE], also=(UNREACHABLE,))
    _case("half_status_close", "Half a status line, then a close.", BAD_ANSWER, 0,
          lambda t: [b"HTTP/1.1 2", End.CLOSE], also=(UNREACHABLE,))
    _case("half_head_silence", "Half a head, then silence.", TIMEOUT, 0,
          lambda t: [b"HTTP/1.1 200 OK\r\nContent-Le", End.SILENCE])
    _case("half_body_close", "Half the body, then a close.", BAD_ANSWER, 0,
          lambda t: [reply(t.right)[:-10], End.CLOSE])
    _case("half_body_silence", "Half the body, then silence.", TIMEOUT, 0,
          lambda t: [reply(t.right)[:-10], End.SILENCE])
    _case("half_body_until_eof", "Half the body of an answer without a length, then a close.", BAD_ANSWER,
          0, lambda t: [head() + t.right[:-10], End.CLOSE])
    _case("no_end", "The whole body of an answer without a length, but the connection stays open.", TIMEOUT,
          0, lambda t: [head() + t.right, End.SILENCE])
    _case("trickle_head", "One byte of the answer every 100 ms, far past the budget.", TIMEOUT, 0,
          lambda t: _one_by_one(reply(t.right), 0.1))
    _case("trickle_body", "A head at once, then one byte of the body every 100 ms.", TIMEOUT, 0, _trickle_body)
    _case("trickle_in_time", "Three bytes 100 ms apart, then the rest, within the budget.", OK, 1,
          _trickle_in_time)
    _case("answer_before_body", "The answer when the head is in, before the body is read.", OK, 1,
          lambda t: [reply(t.right)], early=True, body=lambda _: right_answer(b""))
    _case("error_before_body",
          "413 with Connection: close when the head is in, and a close with the body unread.", ERROR_STATUS,
          0, lambda t: [reply(b"", b"Connection: close", start=b"HTTP/1.1 413 Too Large"), End.CLOSE],
          early=True, also=(UNREACHABLE,))


def _trickle_body(turn: Turn) -> Iterator[Step]:
    whole = reply(turn.right)
    yield whole[: -len(turn.right)]
    yield from _one_by_one(turn.right, 0.1)


def _trickle_in_time(turn: Turn) -> Iterator[Step]:
    whole = reply(turn.right)
    yield from _one_by_one(whole[:3], 0.1)
    yield whole[3:]


def _sizes() -> None:
    """Answers without end, or too large."""
    _case("endless_head", "Header lines without end.", BAD_ANSWER, 0,
          lambda t: _endless(b"HTTP/1.1 200 OK\r\n", b"X-Filler: 0123456789\r\n" * 1000))
    _case("endless_header", "One header value without end.", BAD_ANSWER, 0,
          lambda t: _endless(b"HTTP/1.1 200 OK\r\nX-Filler: ", b"x" * _BLOCK))
    _case("endless_reason", "A reason phrase without end.", BAD_ANSWER, 0,
          lambda t: _endless(b"HTTP/1.1 200 ", b"x" * _BLOCK))
    _case("endless_body", "A body without length or end.", BAD_ANSWER, 0,
          lambda t: _endless(head(), b"x" * _BLOCK))
    _case("endless_declared", "A Content-Length of 1 TB, and a body on its way to it.", BAD_ANSWER, 0,
          lambda t: _endless(head(b"Content-Length: 1000000000000"), b"x" * _BLOCK))
    _case("endless_chunks", "Chunks without end.", BAD_ANSWER, 0,
          lambda t: _endless(_chunked(b""), b"a\r\n0123456789\r\n" * 4000))
    _case("endless_chunk", "One chunk of 1 TB.", BAD_ANSWER, 0,
          lambda t: _endless(_chunked(b"e8d4a51000\r\n"), b"x" * _BLOCK))
    _case("endless_chunk_extension", "A chunk extension without end.", BAD_ANSWER, 0,
          lambda t: _endless(_chunked(b"5;"), b"x" * _BLOCK))
    _case("endless_trailers", "A whole chunked body, then trailers without end.", BAD_ANSWER, 0,
          lambda t: _endless(_chunked(chunks(t.right, last=b"0\r\n")), b"X-Filler: 0123456789\r\n" * 1000))
    _body("body_over_limit", "A declared body one byte over the limit.", BAD_ANSWER,
          functools.partial(_padded, size=MAX_ANSWER + 1))
    _case("body_over_limit_chunked", "A chunked body one byte over the limit.", BAD_ANSWER, 0,
          lambda t: [_chunked(chunks(_padded(t.right, MAX_ANSWER + 1), size=_BLOCK))])
    _case("body_over_limit_until_eof", "A body without length one byte over the limit.", BAD_ANSWER, 0,
          lambda t: [head() + _padded(t.right, MAX_ANSWER + 1), End.CLOSE])
    _head("headers_1000", "1,000 header lines.", BAD_ANSWER, 0,
          lambda right: reply(right, *(b"X-Filler-%d: 0123456789" % n for n in range(1000))))
    _head("header_100_kb", "One header of 100 kB.", BAD_ANSWER, 0,
          lambda right: reply(right, b"X-Filler: " + b"x" * 100_000))


def _lengths() -> None:
    """Content-Length that lies, or is none (RFC 9112, section 6.3)."""
    _case("length_cuts_json", "Content-Length ends amid the JSON; the rest, and an answer, lie behind.",
          BAD_ANSWER, 0,
          lambda t: [head(b"Content-Length: %d" % (len(t.right) - 10)) + _surplus(t.right), End.SILENCE])
    _case("length_too_small", "The right answer, and behind its Content-Length another hook's 200.", OK, 0,
          lambda t: [_surplus(reply(t.right)), End.SILENCE], also=(BAD_ANSWER,))
    _case("length_zero", "Content-Length: 0 before a body.", BAD_ANSWER, 0,
          lambda t: [head(b"Content-Length: 0") + _surplus(t.right), End.SILENCE])
    _case("length_too_large_close", "Content-Length is 10 too large, then a close.", BAD_ANSWER, 0,
          lambda t: [head(b"Content-Length: %d" % (len(t.right) + 10)) + t.right, End.CLOSE])
    _case("length_too_large_silence", "Content-Length is 10 too large, then silence.", TIMEOUT, 0,
          lambda t: [head(b"Content-Length: %d" % (len(t.right) + 10)) + t.right, End.SILENCE])
    malformed = {
        "negative": b"-%d", "plus": b"+%d", "hex": b"0x%x", "words": b"%d bytes", "decimal": b"%d.0",
        "space_inside": b"%d 0", "quoted": b'"%d"',
    }  # fmt: skip
    for name, value in malformed.items():
        shown = (value % 45).decode("ascii")
        _length(f"length_{name}", f"Content-Length: {shown}.", _bind(value, lambda value, n: (value % n,)))
    _length("length_overflow", "Content-Length: the true one and 2^64.", lambda n: (b"%d" % (2**64 + n),))
    _length("length_empty", "An empty Content-Length.", lambda _: (b"",))
    _length("length_doubled_same", "Content-Length twice, the same.", lambda n: (b"%d" % n, b"%d" % n), also=(OK,))
    _length("length_doubled_different", "Content-Length twice, different.", lambda n: (b"%d" % n, b"%d" % (n - 5)))
    _length("length_list_same", "Content-Length: n, n.", lambda n: (b"%d, %d" % (n, n),), also=(OK,))
    _length("length_list_different", "Content-Length: n, m.", lambda n: (b"%d, %d" % (n, n - 5),))
    _head("length_beside_chunked", "Content-Length beside Transfer-Encoding: chunked.", BAD_ANSWER, 0,
          lambda right: _chunked(chunks(right), b"Content-Length: %d" % len(right)))
    _head("chunked_before_length", "Transfer-Encoding: chunked, and Content-Length after it.", BAD_ANSWER,
          0, lambda right: head(b"Transfer-Encoding: chunked", b"Content-Length: 5") + chunks(right))
    _head("length_space_around", "Optional white space around the Content-Length.", OK, 1,
          lambda right: head(b"Content-Length: \t%d \t" % len(right)) + right)


def _length(
    name: str, doc: str, values: Callable[[int], tuple[bytes, ...]], also: tuple[Expected, ...] = ()
) -> None:
    def whole(right: bytes) -> bytes:
        return head(*(b"Content-Length: " + value for value in values(len(right)))) + right

    _head(name, doc, BAD_ANSWER, 0, whole, also=also)


def _codings() -> None:
    """Chunked bodies, fair and foul (RFC 9112, section 7.1)."""
    _head("chunked", "A right answer in chunks.", OK, 1, lambda right: _chunked(chunks(right)))
    _head("chunked_bytes", "A right answer in chunks of one byte.", OK, 1,
          lambda right: _chunked(chunks(right, 1)))
    _head("chunked_upper_case", "Transfer-Encoding: CHUNKED, sizes in upper case and with leading zeros.",
          OK, 1,
          lambda right: head(b"Transfer-Encoding: CHUNKED") + b"000%X\r\n%b\r\n0\r\n\r\n" % (len(right), right))
    _head("chunked_extensions", "Chunk extensions.", OK, 1,
          lambda right: _chunked(chunks(right, extension=b';name=value;quoted="a;b"')))
    _head("chunked_trailers", "Trailers after the chunks.", OK, 1,
          lambda right: _chunked(chunks(right, last=b"0\r\nX-Checksum: 1\r\n\r\n")))
    _head("chunked_trailer_length", "A trailer that names a framing header.", OK, 0,
          lambda right: _chunked(chunks(right, last=b"0\r\nContent-Length: 5\r\n\r\n")), also=(BAD_ANSWER,))
    _head("chunked_surplus", "A right answer in chunks, another hook's 200 right behind.", OK, 0,
          lambda right: _surplus(_chunked(chunks(right))), also=(BAD_ANSWER,))
    sizes = {
        "word": b"zz", "negative": b"-5", "plus": b"+5", "prefix": b"0x5", "empty": b"", "space_before": b" 5",
        "underscore": b"1_0", "overflow": b"10000000000000005",
    }  # fmt: skip
    for name, size in sizes.items():
        doc = f"A chunk size of {size.decode('ascii')!r}."
        _head(f"chunk_size_{name}", doc, BAD_ANSWER, 0,
              _bind(size, lambda size, right: _chunked(size + b"\r\n" + right + b"\r\n0\r\n\r\n")))
    _head("chunk_too_long", "A chunk with more data than its size says.", BAD_ANSWER, 0,
          lambda right: _chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(right) - 3, right)))
    _head("chunk_no_line_end", "No line end between a chunk's data and the next size.", BAD_ANSWER, 0,
          lambda right: _chunked(b"%x\r\n%b0\r\n\r\n" % (len(right), right)))
    _head("chunk_bare_lf", "Chunk lines that end with a bare LF.", BAD_ANSWER, 0,
          lambda right: _chunked(chunks(right).replace(b"\r\n", b"\n")))
    _case("chunk_last_missing_close", "No last chunk, then a close.", BAD_ANSWER, 0,
          lambda t: [_chunked(chunks(t.right, last=b"")), End.CLOSE])
    _case("chunk_last_missing_silence", "No last chunk, then silence.", TIMEOUT, 0,
          lambda t: [_chunked(chunks(t.right, last=b"")), End.SILENCE])
    _case("chunk_last_half_close", "The last chunk lacks its empty line, then a close.", BAD_ANSWER, 0,
          lambda t: [_chunked(chunks(t.right, last=b"0\r\n")), End.CLOSE])
    _case("chunk_half_close", "Half a chunk, then a close.", BAD_ANSWER, 0,
          lambda t: [_chunked(chunks(t.right, size=40)[:-20]), End.CLOSE])
    codings = {
        "unknown": b"xchunked", "list": b"gzip, chunked", "twice": b"chunked, chunked",
        "not_last": b"chunked, gzip", "quoted": b'"chunked"', "identity_chunked": b"identity, chunked",
    }  # fmt: skip
    for name, value in codings.items():
        _case(f"coding_{name}", f"Transfer-Encoding: {value.decode('ascii')}.", BAD_ANSWER, 0,
              _bind(value, lambda value, t: [head(b"Transfer-Encoding: " + value) + chunks(t.right), End.CLOSE]))
    _head("coding_in_http10", "Chunks in an HTTP/1.0 answer (RFC 9112, section 6.1: faulty framing).",
          BAD_ANSWER, 0, lambda right: _chunked(chunks(right), start=b"HTTP/1.0 200 OK"), also=(OK,))
    packed = (b"Content-Encoding: gzip",)
    _body("gzip_unasked", "A gzip body that nobody asked for.", BAD_ANSWER, gzip.compress, lines=packed)
    _body("gzip_bomb", "8 MB of white space and a JSON object in 8 kB of gzip.", BAD_ANSWER,
          lambda _: _gzip_bomb(), lines=packed)


@functools.cache
def _gzip_bomb() -> bytes:
    return gzip.compress(b" " * 8_000_000 + WRONG_ANSWER)


def _statuses() -> None:
    """Interim answers and every status that is no verdict."""
    interim = head(start=b"HTTP/1.1 100 Continue")
    hints = head(b"Link: </a>; rel=preload", start=b"HTTP/1.1 103 Early Hints")
    _case("interim_one", "100 Continue, then the right answer.", OK, 1, lambda t: [interim + reply(t.right)])
    _case("interim_apart", "103 Early Hints, and the right answer 50 ms later.", OK, 1,
          lambda t: [hints, Pause(0.05), reply(t.right)])
    _case("interim_five", "Five interim answers, then the right one.", OK, 1,
          lambda t: [interim * 4 + hints + reply(t.right)])
    _case("interim_thousand", "A thousand interim answers, then the right one.", BAD_ANSWER, 0,
          lambda t: [interim * 1000 + reply(t.right)])
    _case("interim_silence", "100 Continue, then silence.", TIMEOUT, 0, lambda t: [interim, End.SILENCE])
    _case("interim_close", "100 Continue, then a close.", UNREACHABLE, 0, lambda t: [interim, End.CLOSE],
          also=(BAD_ANSWER,))
    _case("status_101", "101 Switching Protocols that nobody asked for.", ERROR_STATUS, 0,
          lambda t: [head(b"Upgrade: websocket", b"Connection: Upgrade", start=b"HTTP/1.1 101 Switching Protocols"),
                     End.SILENCE],
          also=(BAD_ANSWER,))
    for status in (204, 304):
        start = b"HTTP/1.1 %d Nothing" % status
        _case(f"status_{status}", f"{status} without a body.", ERROR_STATUS, 1,
              _bind(start, lambda start, t: [head(start=start)]))
        _case(f"status_{status}_body", f"{status}, and a body that must not be there.", ERROR_STATUS, 0,
              _bind(start, lambda start, t: [_surplus(reply(t.right, start=start)), End.SILENCE]),
              also=(BAD_ANSWER,))
    _case("status_204_late_body", "204, and 50 ms later another hook's 200.", ERROR_STATUS, 0,
          lambda t: [head(start=b"HTTP/1.1 204 No Content"), Pause(0.05), reply(WRONG_ANSWER), End.SILENCE])
    _case("status_304_length", "304 with the Content-Length of the body that it does not carry.",
          ERROR_STATUS, 1, lambda t: [head(b"Content-Length: 45", start=b"HTTP/1.1 304 Not Modified")])
    _status(205)
    for status in (201, 202, 203, 206, 300):
        _case(f"status_{status}", f"{status} with JSON that says yes.", ERROR_STATUS, 1,
              _bind(status, lambda status, t: [reply(t.right, start=b"HTTP/1.1 %d Nearly" % status)]))
    target = f"Location: {BASE_PATH}/redirect_target/OnCallEvent".encode("ascii")
    for status in (301, 302, 303, 307, 308):
        start = b"HTTP/1.1 %d Elsewhere" % status
        _case(f"redirect_{status}", f"{status} to redirect_target, which is never asked.", ERROR_STATUS, 1,
              _bind(start, lambda start, t: [reply(b"", target, start=start)]))
    _case("redirect_target", "Where the redirects lead.", OK, 1, lambda t: [reply(t.right)])
    client_errors = (400, 401, 402, 404, 405, 406, 408, 409, 413, 418, 422, 429, 431, 451)
    for status in (*client_errors, 500, 501, 502, 503, 504, 505, 599):
        _status(status)
    _case("status_500_close", "500 with an HTML page and a close, as old PHP does.", ERROR_STATUS, 0,
          lambda t: [head(b"Content-Type: text/html", start=b"HTTP/1.0 500 Internal Server Error")
                     + b"<html>secret stack trace</html>", End.CLOSE])
    _case("status_500_half_close", "500, half its body, then a close.", ERROR_STATUS, 0,
          lambda t: [reply(t.right, start=b"HTTP/1.1 500 Oops")[:-10], End.CLOSE],
          also=(BAD_ANSWER, UNREACHABLE))
    _case("status_500_half_silence", "500, half its body, then silence.", ERROR_STATUS, 0,
          lambda t: [reply(t.right, start=b"HTTP/1.1 500 Oops")[:-10], End.SILENCE], also=(TIMEOUT,))
    _head("status_999", "Status 999.", ERROR_STATUS, 1,
          lambda right: reply(right, start=b"HTTP/1.1 999 What"), also=(BAD_ANSWER,))
    malformed = {
        "99": b"99",
        "abc": b"abc",
        "20": b"20",
        "2000": b"2000",
        "plus": b"+200",
        "negative": b"-200",
        "decimal": b"200.0",
        "hex": b"0xC8",
    }
    for name, code in malformed.items():
        _head(f"status_{name}", f"The status {code.decode('ascii')}.", BAD_ANSWER, 0,
              _bind(code, lambda code, right: reply(right, start=b"HTTP/1.1 " + code + b" OK")))
    for code in (b"099", b"000"):
        _head(f"status_{code.decode('ascii')}", "Three digits that are no status.", BAD_ANSWER, 1,
              _bind(code, lambda code, right: reply(right, start=b"HTTP/1.1 " + code + b" OK")),
              also=(ERROR_STATUS,))


def _status(status: int) -> None:
    start = b"HTTP/1.1 %d Status" % status
    more = {
        401: (b'WWW-Authenticate: Basic realm="backend"',),
        503: (b"Retry-After: 1",),
        429: (b"Retry-After: 1",),
    }
    lines = more.get(status, ())
    _case(f"status_{status}", f"{status} without content.", ERROR_STATUS, 1,
          lambda t: [reply(b"", *lines, start=start)])
    _case(f"status_{status}_yes", f"{status} with JSON that says yes.", ERROR_STATUS, 1,
          lambda t: [reply(t.right, *lines, start=start)])


def _denials() -> None:
    """403 is a verdict in every form."""
    start = b"HTTP/1.1 403 Forbidden"
    _case("denied", "403 without content.", DENIED, 1, lambda t: [reply(b"", start=start)])
    _case("denied_yes", "403 with JSON that says yes.", DENIED, 1, lambda t: [reply(t.right, start=start)])
    _case("denied_html", "403 with an HTML page.", DENIED, 1, lambda t: [reply(b"<html>no</html>", start=start)])
    _case("denied_chunked", "403 in chunks.", DENIED, 1, lambda t: [_chunked(chunks(t.right), start=start)])
    _case("denied_close", "403 with Connection: close.", DENIED, 0,
          lambda t: [reply(b"", b"Connection: close", start=start), End.CLOSE])
    _case("denied_http10", "403 in HTTP/1.0, its body ended by the connection.", DENIED, 0,
          lambda t: [head(start=b"HTTP/1.0 403 Forbidden") + b"no", End.CLOSE])
    _case("denied_surplus", "403 with another hook's 200 right behind.", DENIED, 0,
          lambda t: [_surplus(reply(b"", start=start)), End.SILENCE], also=(BAD_ANSWER,))
    _case("denied_half_close", "403, half its body, then a close.", DENIED, 0,
          lambda t: [reply(t.right, start=start)[:-10], End.CLOSE], also=(BAD_ANSWER, UNREACHABLE))
    _case("denied_half_silence", "403, half its body, then silence.", DENIED, 0,
          lambda t: [reply(t.right, start=start)[:-10], End.SILENCE], also=(TIMEOUT,))
    _case("denied_endless", "403 with a body without end.", DENIED, 0,
          lambda t: _endless(head(start=start), b"x" * _BLOCK), also=(BAD_ANSWER,))


_NOTICE: Final = (
    b"<br />\n<b>Notice</b>:  Undefined index: callee in <b>api.php</b> on line <b>12</b><br />\n"
)
_QUOTING: Final = b"<br />\n<b>Warning</b>:  bad value " + CALLER_INPUT + b" in <b>api.php</b><br />\n"


def _bodies() -> None:
    """A 200 whose body is not one JSON object in UTF-8 (RFC 8259)."""
    bodies: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
        "html": ("An HTML page.", lambda _: b"<!DOCTYPE html><html><body>Welcome</body></html>"),
        "notice_before": ("A PHP notice before the JSON.", lambda right: _NOTICE + right),
        "notice_after": ("A PHP notice after the JSON.", lambda right: right + _NOTICE),
        "notice_quotes": ("A PHP warning that quotes the caller's JSON, and nothing else.", lambda _: _QUOTING),
        "notice_quotes_before": ("A PHP warning that quotes the caller's JSON, then the answer.",
                                 lambda right: _QUOTING + right),
        "notice_quotes_after": ("The answer, then a PHP warning that quotes the caller's JSON.",
                                lambda right: right + _QUOTING),
        "caller_first": ("The caller's JSON, then the answer.", lambda right: CALLER_INPUT + right),
        "bom": ("A byte-order mark before the JSON.", lambda right: b"\xef\xbb\xbf" + right),
        "empty": ("Nothing.", lambda _: b""),
        "white_space": ("White space alone.", lambda _: b" \r\n"),
        "null": ("null.", lambda _: b"null"),
        "true": ("true.", lambda _: b"true"),
        "number": ("200.", lambda _: b"200"),
        "list": ("[].", lambda _: b"[]"),
        "list_of_one": ("The right object within a list.", lambda right: b"[" + right + b"]"),
        "string": ('"ok".', lambda _: b'"ok"'),
        "two_objects": ("Two objects.", lambda right: right + WRONG_ANSWER),
        "two_objects_lines": ("Two objects on two lines.", lambda right: right + b"\n" + WRONG_ANSWER + b"\n"),
        "cut_short": ("JSON that ends too early, with a Content-Length that fits.", lambda right: right[:-1]),
        "trailing_comma": ("A trailing comma.", lambda right: right[:-1] + b",}"),
        "single_quotes": ("Single quotes.", lambda _: b"{'answer':'yes'}"),
        "comment": ("A comment.", lambda right: right + b" /* yes */"),
        "jsonp": ("A JSONP call.", lambda right: b"callback(" + right + b")"),
        "nul_before": ("A NUL before the JSON.", lambda right: b"\x00" + right),
        "nul_after": ("A NUL after the JSON.", lambda right: right + b"\x00"),
        "vertical_tab": ("White space that JSON does not know.", lambda right: b"\x0b" + right),
        "utf16": ("UTF-16.", lambda right: right.decode("ascii").encode("utf-16")),
        "not_utf8": ("A string in Latin-1.", lambda _: b'{"caller":"J\xfcrgen"}'),
        "surrogate_bytes": ("A lone surrogate, as bytes.", lambda _: b'{"caller":"\xed\xa0\x80"}'),
        "overlong_utf8": ("An overlong UTF-8 sequence.", lambda _: b'{"caller":"\xc0\xaf"}'),
        "nan": ("NaN.", lambda _: b'{"timeout":NaN}'),
        "infinity": ("-Infinity.", lambda _: b'{"timeout":-Infinity}'),
        "leading_zero": ("A number with a leading zero.", lambda _: b'{"timeout":01}'),
        "control_character": ("A bare line end within a string.", lambda _: b'{"sdp":"v=0\r\no=-"}'),
        "bad_escape": ("An escape that JSON does not know.", lambda _: b'{"caller":"\\x41"}'),
        "login_form": ("A login page.", lambda _: b"<form method=post action=/login>"),
    }  # fmt: skip
    for name, (doc, make) in bodies.items():
        _body(f"body_{name}", f"200 with this body: {doc}", BAD_ANSWER, make)
    _body("body_surrogate_escape",
          "200 with a lone surrogate as an escape, which RFC 8259's grammar lets through.", BAD_ANSWER,
          lambda _: b'{"caller":"\\ud800"}', also=(OK,))
    _body("body_nested", "200 with JSON nested 100,000 deep.", BAD_ANSWER,
          lambda _: b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", also=(OK,))


def _heads() -> None:
    """Heads that are not HTTP/1.1, in part or altogether (RFC 9112, sections 2, 4 and 5)."""

    def beside(*lines: bytes) -> Callable[[bytes], bytes]:
        return lambda right: reply(right, *lines)

    _head("header_folded", "A folded header.", BAD_ANSWER, 0, beside(b"X-Folded: a\r\n b"), also=(OK,))
    _head("header_folded_length", "Content-Length on a folded line.", BAD_ANSWER, 0,
          lambda right: head(b"Content-Length:\r\n %d" % len(right)) + right, also=(OK,))
    _head("header_no_colon", "A header line without a colon.", BAD_ANSWER, 0, beside(b"X-No-Colon"))
    _head("header_no_name", "A header line without a name.", BAD_ANSWER, 0, beside(b": value"))
    _head("header_space_before", "White space before the first header.", BAD_ANSWER, 0,
          lambda right: head(b" X-First: 1", b"Content-Length: %d" % len(right)) + right)
    _head("header_space_colon", "White space before a colon.", BAD_ANSWER, 0, beside(b"X-Space : 1"), also=(OK,))
    _head("header_space_colon_length", "White space before the colon of Content-Length.", BAD_ANSWER, 0,
          lambda right: head(b"Content-Length : %d" % len(right)) + right, also=(OK,))
    _head("header_nul", "A NUL in a header value.", BAD_ANSWER, 0, beside(b"X-Nul: a\x00b"))
    _head("header_nul_name", "A NUL in a header name.", BAD_ANSWER, 0, beside(b"X-N\x00ul: ab"))
    _head("header_bare_cr", "A bare CR in a header value.", BAD_ANSWER, 0, beside(b"X-Cr: a\rb"))
    _head("header_high_bytes", "Bytes over 127 in a header value (obs-text: allowed).", OK, 1,
          beside(b"X-Text: J\xfcrgen"))
    _head("header_bare_lf", "Bare LF as line ends throughout the head.", BAD_ANSWER, 0,
          lambda right: head(b"Content-Length: %d" % len(right)).replace(b"\r\n", b"\n") + right, also=(OK,))
    versions = {
        "20": b"HTTP/2.0",
        "20_short": b"HTTP/2",
        "30": b"HTTP/3.0",
        "11_long": b"HTTP/1.1.1",
        "lower_case": b"http/1.1",
        "other": b"ICAP/1.0",
        "no_slash": b"HTTP 1.1",
        "rtsp": b"RTSP/1.0",
    }
    for name, version in versions.items():
        _head(f"version_{name}", f"A status line of {version.decode('ascii')}.", BAD_ANSWER, 0,
              _bind(version, lambda version, right: reply(right, start=version + b" 200 OK")))
    _head("version_12", "HTTP/1.2, which RFC 9110, section 2.5, would have read as HTTP/1.1.", BAD_ANSWER,
          0, lambda right: reply(right, start=b"HTTP/1.2 200 OK"), also=(OK,))
    for name, doc, sent in (
        ("http09", "An HTTP/0.9 answer: the bare body.", None),
        ("ssh_banner", "An SSH banner.", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ("smtp_banner", "An SMTP greeting.", b"220 mail.example ESMTP\r\n"),
        ("noise", "Noise.", bytes((n * 7 + 13) % 256 for n in range(1024))),
        ("tls_alert", "A TLS alert record (RFC 8446, section 6).", bytes.fromhex("15030300020228")),
        (
            "http2_settings",
            "An HTTP/2 SETTINGS frame (RFC 9113, section 6.5).",
            bytes.fromhex("000000040000000000"),
        ),
        ("request", "A request instead of an answer.", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("blank_lines", "Blank lines without end, instead of a status line.", b"\r\n" * 50_000),
    ):
        _case(f"not_http_{name}", doc, BAD_ANSWER, 0, _bind(sent, lambda sent, t: [sent or t.right, End.CLOSE]))
    _case("not_http_tls_hello", "A TLS handshake record, then silence.", BAD_ANSWER, 0,
          lambda t: [bytes.fromhex("160303003a020000360303") + bytes(51), End.SILENCE])


def _later_hooks() -> None:
    """What happens to the hook after: a connection that is stale, or that still holds something."""
    _case("idle_two_answers", "Two answers in one segment.", OK, 0,
          lambda t: [_surplus(reply(t.right)), End.SILENCE], also=(BAD_ANSWER,))
    _case("idle_unsolicited", "The right answer, and 50 ms later another hook's 200.", OK, 0,
          lambda t: [reply(t.right), Pause(0.05), reply(WRONG_ANSWER), End.SILENCE])
    _case("idle_408", "The right answer, and 50 ms later a 408 for idleness and a close.", OK, 0,
          lambda t: [reply(t.right), Pause(0.05), reply(b"", start=b"HTTP/1.1 408 Idle"), End.CLOSE])
    _case("idle_interim", "The right answer, and 50 ms later the interim answer 100.", OK, 0,
          lambda t: [reply(t.right), Pause(0.05), head(start=b"HTTP/1.1 100 Continue"), End.SILENCE])
    _case("idle_byte", "The right answer, and 50 ms later one byte.", OK, 0,
          lambda t: [reply(t.right), Pause(0.05), b"H", End.SILENCE])
    _case("idle_close", "The right answer, and a close 50 ms later.", OK, 0,
          lambda t: [reply(t.right), Pause(0.05), End.CLOSE])
    _case("idle_reset", "The right answer, and a reset 50 ms later.", OK, 0,
          lambda t: [reply(t.right), Pause(0.05), End.RESET])
    on_reuse: dict[str, tuple[str, Step, tuple[Expected, ...]]] = {
        "close_after_idle": ("closes without a byte", End.CLOSE, (OK,)),
        "reset_after_idle": ("resets without a byte", End.RESET, (OK, UNREACHABLE)),
        "hang_after_idle": ("hangs", End.SILENCE, (TIMEOUT,)),
        "half_head_after_idle": ("breaks off in the head", b"HTTP/1.1 2", (BAD_ANSWER, UNREACHABLE)),
    }
    for name, (doc, step, second) in on_reuse.items():
        _case(name, f"Answers a connection's first request; at the second it {doc}.", OK, 1,
              _bind(step, lambda step, t: [reply(t.right)] if t.request.turn == 1 else [step, End.CLOSE]),
              second=second)
    _case("flaps", "Answers every other request of the case with 500.", OK, 1,
          lambda t: [reply(t.right, start=b"HTTP/1.1 200 OK" if t.nth % 2 else b"HTTP/1.1 500 Oops")],
          second=(ERROR_STATUS,))


# fmt: on
for _family in (
    _answers, _silences_and_ends, _sizes, _lengths, _codings, _statuses, _denials, _bodies, _heads, _later_hooks,
):  # fmt: skip
    _family()


class _PeerGoneError(Exception):
    """The peer has closed its side."""


class _BadRequestError(Exception):
    """The request's framing is not what a strict server takes."""


_REQUEST_LINE: Final = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.1")
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")


def _parse_head(raw: bytes, connection: int, turn: int) -> Recorded:
    line, *fields = raw.split(b"\r\n")
    request_line = _REQUEST_LINE.fullmatch(line)
    if request_line is None:
        raise _BadRequestError(f"request line {line[:100]!r}")
    headers = []
    for field in fields:
        match = _FIELD.fullmatch(field)
        if match is None:
            raise _BadRequestError(f"header line {field[:100]!r}")
        headers.append((match[1], match[2]))
    path = request_line[2].decode("latin-1")
    segments = path.partition("?")[0].split("/")
    return Recorded(
        line, request_line[1].decode("ascii"), path, headers,
        segments[-2] if len(segments) > 2 else "", connection, turn, time.monotonic(),
    )  # fmt: skip


def _framing(request: Recorded) -> int | None:
    """The body's length, or None for chunks."""
    lengths, codings = request.values("content-length"), request.values("transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise _BadRequestError(f"two framings: {lengths + codings!r}")
    if codings:
        if codings[0].lower() != b"chunked":
            raise _BadRequestError(f"Transfer-Encoding {codings[0][:100]!r}")
        return None
    if not lengths:
        return 0
    if not re.fullmatch(rb"[0-9]{1,10}", lengths[0]):
        raise _BadRequestError(f"Content-Length {lengths[0][:100]!r}")
    return int(lengths[0])


class _Connection:
    """One accepted connection: reads strictly, plays scripts."""

    def __init__(
        self, backend: FaultyBackend, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._backend = backend
        self._number = number
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()

    async def serve(self) -> None:
        """Take requests until a script or the peer ends the connection."""
        turn = 0
        try:
            while True:
                turn += 1
                if not await self._serve_one(turn):
                    return
        except _BadRequestError as exc:
            self._backend.problems.append(f"connection {self._number}: {exc}")
            await self._send(head(b"Content-Length: 0", b"Connection: close", start=b"HTTP/1.1 400 Bad Request"))
        except (_PeerGoneError, OSError):
            pass  # the gateway may leave whenever it likes: that is what many cases are for
        finally:
            await self._close()

    async def _serve_one(self, turn: int) -> bool:
        raw = await self._read_until(b"\r\n\r\n")
        request = _parse_head(raw, self._number, turn)
        length = _framing(request)
        case = CASES.get(request.case)
        if case is not None and case.early:
            request = dataclasses.replace(request, chunked=length is None, complete=False)
            goes_on = await self._play(case, request)
            if goes_on:
                await self._read_body(length)
            return goes_on
        body = await self._read_body(length)
        request = dataclasses.replace(request, body=body, chunked=length is None)
        if case is None:
            self._backend.record(request)
            await self._send(reply(b"", start=b"HTTP/1.1 404 No Such Case"))
            return True
        return await self._play(case, request)

    async def _play(self, case: Case, request: Recorded) -> bool:
        nth = self._backend.record(request)
        for step in case.script(Turn(request, right_answer(request.body), nth)):
            if isinstance(step, bytes):
                await self._send(step)
            elif isinstance(step, Pause):
                await self._pause(step.seconds)
            else:
                await self._end(step)
                return False
        return True

    async def _end(self, end: End) -> None:
        if end is End.SILENCE:
            await self._pause(_PATIENCE, discard=True)
        elif end is End.RESET:
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._writer.transport.abort()

    async def _send(self, data: bytes) -> None:
        if self._writer.is_closing():
            raise _PeerGoneError
        self._writer.write(data)
        await self._writer.drain()

    async def _pause(self, seconds: float, *, discard: bool = False) -> None:
        """Wait, but notice at once when the peer leaves; what it sends meanwhile is kept or dropped."""
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while (left := until - clock()) > 0:
            try:
                await asyncio.wait_for(self._fill(), left)
            except TimeoutError:
                return
            if discard:
                self._buffer.clear()

    async def _fill(self) -> None:
        data = await self._reader.read(_BLOCK)
        if not data:
            raise _PeerGoneError
        self._buffer += data
        if len(self._buffer) > _MAX_REQUEST:
            raise _BadRequestError("more than the largest request")

    async def _read_until(self, mark: bytes) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            await self._fill()
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return found

    async def _read_exactly(self, length: int) -> bytes:
        while len(self._buffer) < length:
            await self._fill()
        found = bytes(self._buffer[:length])
        del self._buffer[:length]
        return found

    async def _read_body(self, length: int | None) -> bytes:
        if length is not None:
            return await self._read_exactly(length)
        parts = []
        while True:
            size = await self._read_until(b"\r\n")
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,7}", size):
                raise _BadRequestError(f"chunk size {size[:100]!r}")
            parts.append(await self._read_exactly(int(size, 16)))
            if await self._read_exactly(2) != b"\r\n":
                raise _BadRequestError("a chunk without its line end, or trailers")
            if not parts[-1]:
                return b"".join(parts)

    async def _close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), 0.5)
        self._writer.transport.abort()


class FaultyBackend:
    """The server: ``with FaultyBackend() as backend:`` listens on 127.0.0.1 until the block ends.

    It lives in a thread with a loop of its own, so sync and asyncio tests use it alike. On leaving, all its
    connections are cut and its thread is gone; RuntimeError if that takes more than two seconds.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Recorded] = []
        """Every request in the order of arrival."""
        self.problems: list[str] = []
        """What was wrong with requests that a strict server refuses, and errors of the backend itself."""
        self.port = 0
        self.accepted = 0
        """How many connections were accepted (with TLS: before the handshake)."""
        self._scheme = "https" if tls else "http"
        self._tls = tls
        self._open: set[int] = set()
        self._changed = threading.Condition()
        self._counts: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faulty-backend", daemon=True)
        self._listener: socket.socket | None = None

    @property
    def url(self) -> str:
        """The base under which the cases are."""
        return f"{self._scheme}://127.0.0.1:{self.port}{BASE_PATH}"

    def url_of(self, case: str) -> str:
        """The upstream URL whose hooks meet this case; KeyError for a name that is none."""
        return f"{self.url}/{CASES[case].name}"

    def requests_of(self, case: str) -> list[Recorded]:
        """The requests that this case has had."""
        return [request for request in self.requests if request.case == case]

    def connections_of(self, case: str) -> list[int]:
        """The numbers of the connections that brought this case's requests, each once, in order."""
        return list(dict.fromkeys(request.connection for request in self.requests_of(case)))

    def open_connections(self, case: str | None = None) -> int:
        """How many connections are open just now: all, or those that have brought requests of this case."""
        with self._changed:
            return self._count(case)

    def wait_for_connections(self, count: int, case: str | None = None, within: float = 1.0) -> bool:
        """Block until exactly *count* connections are open, at most *within* seconds; whether it came to that.

        In asyncio tests: ``await asyncio.to_thread(backend.wait_for_connections, 0, "ok")``.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._count(case) == count, within)

    def wait_for_requests(self, count: int, case: str, within: float = 1.0) -> bool:
        """Block until the case has had at least *count* requests, at most *within* seconds; whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self._counts.get(case, 0) >= count, within)

    def record(self, request: Recorded) -> int:
        """Note a request; how many its case has now had."""
        with self._changed:
            self.requests.append(request)
            nth = self._counts[request.case] = self._counts.get(request.case, 0) + 1
            self._changed.notify_all()
        return nth

    def __enter__(self) -> FaultyBackend:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._thread.start()
        if not self._ready.wait(2):
            raise RuntimeError("the faulty backend did not start")
        return self

    def __exit__(self, *exc_info: object) -> None:
        loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None and self._thread.is_alive():
            loop.call_soon_threadsafe(stopping.set)
        self._thread.join(2)
        if self._thread.is_alive():
            raise RuntimeError("the faulty backend did not stop")

    def __repr__(self) -> str:
        return f"<FaultyBackend {self.url} requests={len(self.requests)} open={self.open_connections()}>"

    def _count(self, case: str | None) -> int:
        if case is None:
            return len(self._open)
        return len(self._open.intersection(self.connections_of(case)))

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # whatever policy the tests set
            runner.run(self._serve())

    async def _serve(self) -> None:
        assert self._listener is not None
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        accepting = asyncio.create_task(self._accept(self._listener))
        self._ready.set()
        try:
            await self._stopping.wait()
        finally:
            accepting.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.wait({accepting, *self._tasks}, timeout=1.5)
            self._listener.close()
            await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next round

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError:  # no file descriptors left, for instance: tests of just that share this process
                await asyncio.sleep(0.05)
                continue
            self.accepted += 1
            task = asyncio.create_task(self._serve_connection(sock, self.accepted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve_connection(self, sock: socket.socket, number: int) -> None:
        loop = asyncio.get_running_loop()
        with self._changed:
            self._open.add(number)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = asyncio.StreamReader(loop=loop)
            protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, sock, ssl=self._tls, ssl_handshake_timeout=2.0 if self._tls else None
            )
            assert isinstance(transport, asyncio.Transport)
            # drain() waits until all is sent; asyncio's TLS transport never resumes with 0
            transport.set_write_buffer_limits(high=1 if self._tls else 0, low=0)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            await _Connection(self, number, reader, writer).serve()
        except OSError:
            pass  # a refused certificate, a handshake cut short
        except Exception as exc:
            self.problems.append(f"connection {number}: {exc!r}")
        finally:
            sock.close()
            with self._changed:
                self._open.discard(number)
                self._changed.notify_all()


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses: bound, so that nobody else gets it, but not listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port of 127.0.0.1 that never completes a connection: its queue is full, so SYNs meet silence.

    OSError where the kernel goes on completing connections nevertheless.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(16):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.1)
            try:
                filler.connect(listener.getsockname())
            except TimeoutError:
                yield listener.getsockname()[1]
                return
        raise OSError("the kernel completes connections although the queue is full")


@contextlib.contextmanager
def hanging_listener() -> Iterator[int]:
    """A port of 127.0.0.1 where connections are made and nothing ever reads or answers, no TLS handshake either."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield listener.getsockname()[1]


def resetting_listener() -> contextlib.AbstractContextManager[int]:
    """A port of 127.0.0.1 that resets each connection as soon as it is made."""
    return _cutting_listener(reset=True)


def closing_listener() -> contextlib.AbstractContextManager[int]:
    """A port of 127.0.0.1 that closes each connection as soon as it is made."""
    return _cutting_listener(reset=False)


@contextlib.contextmanager
def _cutting_listener(*, reset: bool) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        thread = threading.Thread(target=_cut, args=(listener, reset), name="cutting-listener", daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            thread.join(2)


def _cut(listener: socket.socket, reset: bool) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        with sock, contextlib.suppress(OSError):
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


@contextlib.contextmanager
def added_case(name: str, doc: str, script: Script) -> Iterator[None]:
    """One more case, whose hooks are allowed, as long as the block lasts."""
    _case(name, doc, OK, 1, script)
    try:
        yield
    finally:
        del CASES[name]


@contextlib.contextmanager
def gated_case(name: str = "gated") -> Iterator[threading.Event]:
    """One more case, which answers right once the event is set; it is when the block ends."""
    opened = threading.Event()

    def script(turn: Turn) -> Iterable[Step]:
        while not opened.is_set():
            yield Pause(0.02)
        yield reply(turn.right)

    with added_case(name, "The right answer, when the test says so.", script):
        try:
            yield opened
        finally:
            opened.set()


class Certificates(NamedTuple):
    """Paths of PEM files, made for one test run by a certificate authority of its own."""

    ca: Path
    """What a client must trust to accept *valid*."""
    valid: tuple[Path, Path]
    """Certificate and key for 127.0.0.1 and localhost."""
    expired: tuple[Path, Path]
    wrong_host: tuple[Path, Path]
    """For elsewhere.example alone."""
    self_signed: tuple[Path, Path]
    client: tuple[Path, Path]
    """For a client that proves who it is; signed by the same authority."""

    def server(self, kind: str, *, ask_client: bool = False) -> ssl.SSLContext:
        """The TLS settings of a server that shows one of the certificates (by the name of its field)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate, key = getattr(self, kind)
        context.load_cert_chain(certificate, key)
        if ask_client:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def make_certificates(directory: Path) -> Certificates:
    """Make all certificates with the openssl command; without it the test is skipped, or failed under ``CI=true``."""
    require("openssl", "openssl")
    address = "IP:127.0.0.1,DNS:localhost"
    ca = _signed(directory, "ca", "keyUsage=critical,keyCertSign,cRLSign\nbasicConstraints=critical,CA:TRUE", None)
    return Certificates(
        ca=ca[0],
        valid=_signed(directory, "valid", f"subjectAltName={address}", ca),
        expired=_signed(directory, "expired", f"subjectAltName={address}", ca, days=-1),
        wrong_host=_signed(directory, "wrong_host", "subjectAltName=DNS:elsewhere.example", ca),
        self_signed=_signed(directory, "self_signed", f"subjectAltName={address}", None),
        client=_signed(directory, "client", "extendedKeyUsage=clientAuth", ca),
    )


def _signed(
    directory: Path, name: str, extensions: str, issuer: tuple[Path, Path] | None, days: int = 2
) -> tuple[Path, Path]:
    certificate, key, request = (directory / f"{name}.{suffix}" for suffix in ("pem", "key", "csr"))
    extension_file = directory / f"{name}.ext"
    extension_file.write_text(extensions + "\n")
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", key)
    _openssl("req", "-new", "-key", key, "-subj", f"/CN=test {name}", "-out", request)
    signer = ("-signkey", key) if issuer is None else ("-CA", issuer[0], "-CAkey", issuer[1], "-CAcreateserial")
    _openssl(
        "x509",
        "-req",
        "-in",
        request,
        *signer,
        "-days",
        str(days),
        "-sha256",
        "-extfile",
        extension_file,
        "-out",
        certificate,
    )
    return certificate, key


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)


@contextlib.contextmanager
def tls_backend(certificates: Certificates, kind: str, *, ask_client: bool = False) -> Iterator[FaultyBackend]:
    """A FaultyBackend behind TLS that shows the certificate *kind*: valid, expired, wrong_host or self_signed."""
    with FaultyBackend(certificates.server(kind, ask_client=ask_client)) as backend:
        yield backend
