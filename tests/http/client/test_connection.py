"""Reading an answer: however its bytes are cut it is the same answer, and no bytes do worse than an ExchangeError."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.http.client import BadAnswer, ExchangeError
from gateway.http.client.answer_parser import MAX_HEAD, Answer
from gateway.http.client.connection import Connection
from gateway.model.verdicts import Cause

LIMIT: Final = 4096


class FakeTransport(asyncio.Transport):
    """Takes what is written and delivers nothing; its socket is real, so that it can be polled."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"socket": sock})
        self._closing = False
        self.unsent = 0

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Wire:
    """A Connection fed by hand: what comes of the bytes is known without a network."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self.connection = Connection(loop, "127.0.0.1:80", LIMIT, lambda connection: None)
        self.transport = FakeTransport(sock)
        self.connection.connection_made(self.transport)
        self.answer = self.connection.exchange(b"", b"", loop.time() + 3600)

    def feed(self, *parts: bytes) -> None:
        for part in parts:
            if self.transport.is_closing():
                return
            if part:
                self.connection.data_received(part)

    def end(self, exc: Exception | None = None) -> None:
        """The backend closes, or resets the connection."""
        if exc is None and not self.transport.is_closing():
            self.connection.eof_received()
        self.transport.abort()
        self.connection.connection_lost(exc)

    def outcome(self) -> Answer | ExchangeError:
        assert self.answer.done()
        error = self.answer.exception()
        if error is None:
            return self.answer.result()
        assert isinstance(error, ExchangeError), error
        return error


class Sent(NamedTuple):
    """A valid answer as bytes, and what it says."""

    data: bytes
    answer: Answer
    until_eof: bool = False


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture(scope="module")
def sock() -> Iterator[socket.socket]:
    one, other = socket.socketpair()
    with one, other:
        yield one


tokens = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12)
fields = st.lists(
    st.tuples(
        tokens.map(lambda token: b"X-" + token.encode()),
        st.binary(max_size=20).map(lambda raw: bytes(byte for byte in raw if byte > 32 and byte != 127)),
    ),
    max_size=5,
)
bodies = st.binary(max_size=300)
statuses = st.integers(200, 599)


@st.composite
def answers(draw: st.DrawFn) -> Sent:
    """Valid answers in every framing, with and without interim answers before them."""
    status = draw(statuses)
    headers = draw(fields)
    body = b"" if status in (204, 304) else draw(bodies)
    interim = b"".join(
        draw(st.sampled_from((b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n")))
        for _ in range(draw(st.integers(0, 3)))
    )
    framing = draw(st.sampled_from(("length", "chunked", "eof"))) if status not in (204, 304) else "none"
    coded = body
    if framing == "length":
        headers = [*headers, (b"Content-Length", b"%d" % len(body))]
    elif framing == "chunked":
        headers = [*headers, (b"Transfer-Encoding", b"chunked")]
        size = draw(st.integers(1, 40))
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        extension = draw(st.sampled_from((b"", b";a=b")))
        trailers = draw(st.sampled_from((b"", b"X-Sum: 1\r\n", b"Content-Type: text/html\r\n")))
        coded = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
        coded += b"0\r\n" + trailers + b"\r\n"
    version = draw(st.sampled_from((b"1.1", b"1.0"))) if framing in ("length", "eof") else b"1.1"
    lines = b"".join(b"%b: %b\r\n" % field for field in headers)
    data = b"%bHTTP/%b %d Some Reason\r\n%b\r\n%b" % (interim, version, status, lines, coded)
    return Sent(data, Answer(status, tuple(headers), body), framing == "eof")


def cut(data: bytes, points: list[int]) -> list[bytes]:
    """The data cut at these points, which may be in any order."""
    edges = [0, *sorted(point % (len(data) + 1) for point in points), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


@given(sent=answers(), points=st.lists(st.integers(0, 5000), max_size=40))
def test_an_answer_is_the_same_however_it_is_cut(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, sent: Sent, points: list[int]
) -> None:
    wire = Wire(loop, sock)
    wire.feed(*cut(sent.data, points))
    assert wire.answer.done() is not sent.until_eof
    wire.end()
    assert wire.outcome() == sent.answer


@given(sent=answers())
def test_an_answer_is_the_same_byte_by_byte(loop: asyncio.AbstractEventLoop, sock: socket.socket, sent: Sent) -> None:
    wire = Wire(loop, sock)
    wire.feed(*(bytes((byte,)) for byte in sent.data))
    wire.end()
    assert wire.outcome() == sent.answer


surpluses = st.binary(min_size=1, max_size=60).filter(lambda raw: bool(raw.strip(b"\r\n")))
"""Line ends alone are passed over by llhttp, and can never become a part of another answer."""


@given(sent=answers().filter(lambda sent: not sent.until_eof), surplus=surpluses)
def test_what_comes_right_behind_an_answer_changes_nothing_but_ends_the_connection(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, sent: Sent, surplus: bytes
) -> None:
    wire = Wire(loop, sock)
    wire.feed(sent.data + surplus)
    assert wire.outcome() == sent.answer
    assert not wire.connection.reusable
    assert wire.transport.is_closing()


@given(sent=answers(), length=st.integers(0, 5000))
def test_an_answer_that_breaks_off_is_never_taken_for_a_whole_one(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, sent: Sent, length: int
) -> None:
    data = sent.data[: length % len(sent.data)]
    for error in (None, ConnectionResetError()):
        wire = Wire(loop, sock)
        wire.feed(data)
        wire.end(error)
        outcome = wire.outcome()
        if isinstance(outcome, Answer):  # only an answer without a length can end anywhere in its body
            assert sent.until_eof
            assert error is None
            assert sent.answer.body.startswith(outcome.body)


pieces = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        (
            b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 100 C\r\n\r\n", b"HTTP/1.1 101 S\r\n", b"\r\n",
            b"Upgrade: h2c\r\nConnection: Upgrade\r\n", b"Content-Length: 2\r\n", b"Content-Length: 99999999999\r\n",
            b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Keep-Alive: timeout=x\r\n", b"{}",
            b"2\r\n{}\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"RTSP/1.0 200 OK\r\n", b"X: " + b"y" * 500,
        )
    ),
)  # fmt: skip


@given(
    data=st.lists(pieces, max_size=12).map(b"".join),
    points=st.lists(st.integers(0, 5000), max_size=10),
    ending=st.sampled_from(("eof", "reset", "deadline")),
)
@example(data=b"HTTP/1.1 200 OK\r\n\r\n{}", points=[], ending="eof")
@example(data=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", points=[3], ending="reset")
def test_no_bytes_do_worse_than_an_exchange_error(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, data: bytes, points: list[int], ending: str
) -> None:
    wire = Wire(loop, sock)
    wire.feed(*cut(data, points))
    if ending == "deadline" and not wire.answer.done():
        wire.connection._on_deadline()
    wire.end(ConnectionResetError() if ending == "reset" else None)
    outcome = wire.outcome()
    if isinstance(outcome, Answer):
        assert 200 <= outcome.status <= 599
        assert len(outcome.body) <= LIMIT
    else:
        assert outcome.failure.cause in (Cause.TIMEOUT, Cause.UNREACHABLE, Cause.BAD_ANSWER)
        assert outcome.failure.detail.isprintable()
        assert len(outcome.failure.detail) < 300


OVERSIZED: Final = {
    "one_header": b"X-Filler: " + b"x" * (MAX_HEAD + 1) + b"\r\n",
    "reason": b"",
    "many_headers": b"X-Filler: 1\r\n" * 201,
}


@pytest.mark.parametrize("name", OVERSIZED)
@pytest.mark.parametrize("parts", [1, 2, 100])
def test_a_head_above_the_limit_is_refused_however_it_is_cut(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, name: str, parts: int
) -> None:
    reason = b"x" * (MAX_HEAD + 1) if name == "reason" else b"OK"
    data = b"HTTP/1.1 200 %b\r\n%bContent-Length: 2\r\n\r\n{}" % (reason, OVERSIZED[name])
    wire = Wire(loop, sock)
    size = len(data) // parts + 1
    wire.feed(*(data[at : at + size] for at in range(0, len(data), size)))
    assert isinstance(wire.outcome(), BadAnswer)


@pytest.mark.parametrize("start", [b"RTSP/1.0", b"ICE/1.0", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"\r\nHTTP/1.1"])
def test_nothing_but_http_1_is_an_answer(loop: asyncio.AbstractEventLoop, sock: socket.socket, start: bytes) -> None:
    wire = Wire(loop, sock)
    wire.feed(start + b" 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    assert isinstance(wire.outcome(), BadAnswer)


@pytest.mark.parametrize("value", [b"2", b" 2", b"\t2 ", b"2 \t"])
def test_white_space_around_a_length_is_not_part_of_it(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, value: bytes
) -> None:
    """RFC 9112, section 5: optional white space surrounds a field's value."""
    wire = Wire(loop, sock)
    wire.feed(b"HTTP/1.1 200 OK\r\nContent-Length:" + value + b"\r\n\r\n{}")
    outcome = wire.outcome()
    assert isinstance(outcome, Answer), outcome
    assert outcome.body == b"{}"
