"""The plainest answers are read at a glance, and never otherwise than the parser reads them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.http.client import Answer, AnswerTimedOut, BadAnswer, ConnectionLost, ExchangeError
from gateway.http.client.answer_parser import MAX_HEADERS
from gateway.http.client.fast_path import PlainAnswer, PlainHead, parse_plain_answer
from tests.http.client.test_connection import LIMIT, Sent, Wire, answers, fields


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


class Seen(NamedTuple):
    """What came of an exchange: all that the pool goes by."""

    outcome: Answer | str
    """The answer, or the kind and words of the fault."""
    reusable: bool
    closed: bool
    server_keepalive: float | None


def seen(wire: Wire) -> Seen:
    outcome = wire.outcome()
    return Seen(
        repr(outcome) if isinstance(outcome, ExchangeError) else outcome,
        wire.connection.reusable,
        wire.transport.is_closing(),
        wire.connection.server_keepalive,
    )


def in_one_piece(loop: asyncio.AbstractEventLoop, sock: socket.socket, data: bytes) -> Seen:
    wire = Wire(loop, sock)
    wire.feed(data)
    return seen(wire)


def parsed(loop: asyncio.AbstractEventLoop, sock: socket.socket, data: bytes) -> Seen:
    """As the parser has it, which gets every answer that comes in pieces."""
    wire = Wire(loop, sock)
    wire.feed(data[:1], data[1:])
    return seen(wire)


def answer_of(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK", body: bytes = b"{}") -> bytes:
    return b"\r\n".join((start, *lines, b"", body))


LENGTH = b"Content-Length: 2"


# --- what is taken is what the parser takes ---


@st.composite
def plain_answers(draw: st.DrawFn) -> bytes:
    """Answers as nearly every backend sends them."""
    status = draw(st.integers(200, 599).filter(lambda status: status not in (204, 205, 304)))
    body = draw(st.binary(max_size=300))
    lines = [b"%b: %b" % field for field in draw(fields) if field[1].isascii()]
    lines.append(
        draw(st.sampled_from((b"Content-Length: %d", b"content-length:%d", b"CONTENT-LENGTH:  %d"))) % len(body)
    )
    lines += draw(st.sampled_from(([], [b"Connection: close"], [b"connection: Keep-Alive"])))
    start = b"HTTP/1.1 %d %b" % (status, draw(st.sampled_from((b"OK", b"", b"Some Reason"))))
    return answer_of(*draw(st.permutations(lines)), start=start, body=body)


@given(data=plain_answers())
def test_a_plain_answer_is_taken_and_is_what_the_parser_makes_of_it(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, data: bytes
) -> None:
    assert parse_plain_answer(data) is not None
    assert in_one_piece(loop, sock, data) == parsed(loop, sock, data)


starts = st.sampled_from(
    (
        b"HTTP/1.1 200 OK", b"HTTP/1.1 403 Forbidden", b"HTTP/1.1 500 ", b"HTTP/1.1 200", b"HTTP/1.1 204 No",
        b"HTTP/1.1 205 R", b"HTTP/1.1 304 Not", b"HTTP/1.0 200 OK", b"HTTP/1.1 100 Continue", b"HTTP/1.1 101 S",
        b"HTTP/1.1 600 X", b"HTTP/1.1 20 X", b"HTTP/1.1 2000 X", b"HTTP/1.1  200 OK", b"HTTP/1.1 200 O\xffK",
        b"HTTP/1.1 200 O\tK", b"HTTP/2.0 200 OK", b"http/1.1 200 OK", b"HTTP/1.1 407 P", b"HTTP/1.1 426 Upgrade",
    )
)  # fmt: skip
lines = st.lists(
    st.sampled_from(
        (
            LENGTH, LENGTH, LENGTH, b"content-length:2", b"Content-Length: 2 ", b"Content-Length:\t2",
            b"Content-Length: 02", b"Content-Length: 3", b"Content-Length: +2", b"Content-Length: 2, 2",
            b"Content-Length:", b"Content-Length: 4097", b"Content-Length : 2", b"Content-Length: \xb2",
            b"Content-Length: 0000000002", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity",
            b"transfer-encoding:", b"TE: trailers", b"Connection: close", b"Connection: Keep-Alive",
            b"Connection: close ", b"Connection: keep-alive, close", b"Connection: upgrade", b"Connection:",
            b"Proxy-Connection: close", b"Keep-Alive: timeout=5", b"keep-alive: max=1", b"Upgrade: h2c",
            b"Trailer: X-Sum", b"X-A: b", b"X-A:b ", b"X-A:  b\t", b"X-A: ", b"X-A:", b"X-A", b": b", b"X A: b",
            b"X-A : b", b" folded", b"\tfolded: 1", b"X-A: \xff", b"X\xff: b", b"X-A: b\r", b"X-A: b\nX-B: c",
            b"X-A: \0", b"", b"Date: Mon, 01 Jan 2024 00:00:00 GMT", b"Content-Encoding: gzip", b"X-A: " + b"y" * 990,
            b"(X): 1", b"X\"Y: 1",
        )
    ),
    max_size=5,
)  # fmt: skip
ends = st.sampled_from((b"{}", b"{}", b"{}", b"", b"{", b"{}\r\n", b"{}x", b"{}HTTP/1.1 200 OK\r\n\r\n"))


@given(start=starts, fields=lines, body=ends)
@example(start=b"HTTP/1.1 200 OK", fields=[b"X-A: b ", LENGTH], body=b"{}")
@example(start=b"HTTP/1.1 200 OK", fields=[b"a:"] * MAX_HEADERS + [LENGTH], body=b"{}")
def test_whatever_is_taken_is_what_the_parser_makes_of_it(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, start: bytes, fields: list[bytes], body: bytes
) -> None:
    data = answer_of(*fields, start=start, body=body)
    if parse_plain_answer(data) is not None:
        assert in_one_piece(loop, sock, data) == parsed(loop, sock, data)


@given(sent=answers())
def test_a_valid_answer_is_taken_only_where_it_is_one_and_says_its_length(sent: Sent) -> None:
    plain = parse_plain_answer(sent.data)
    if plain is not None:
        assert not sent.until_eof
        assert Answer(plain.head.status, plain.head.headers, plain.body) == sent.answer
        assert sent.data.startswith(b"HTTP/1.1 %d" % sent.answer.status)


def test_what_it_says_is_read() -> None:
    data = answer_of(b"Server:  nginx", LENGTH, b"Connection: close", start=b"HTTP/1.1 403 Forbidden")
    headers = ((b"Server", b"nginx"), (b"Content-Length", b"2"), (b"Connection", b"close"))
    for _ in range(2):  # the second time, its head is remembered
        assert parse_plain_answer(data) == PlainAnswer(PlainHead(403, headers, 2, keep_alive=False), b"{}")


def test_heads_that_are_remembered_keep_their_own_bodies() -> None:
    assert [parse_plain_answer(answer_of(LENGTH, body=body)) for body in (b"{}", b"[]", b"{}x")] == [
        PlainAnswer(PlainHead(200, ((b"Content-Length", b"2"),), 2, keep_alive=True), b"{}"),
        PlainAnswer(PlainHead(200, ((b"Content-Length", b"2"),), 2, keep_alive=True), b"[]"),
        None,
    ]


# --- what is left to the parser ---


@pytest.mark.parametrize(
    "data",
    [
        answer_of(b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"),
        answer_of(LENGTH, b"Transfer-Encoding: chunked"),
        answer_of(LENGTH, LENGTH),
        answer_of(LENGTH, b"content-length: 2"),
        answer_of(LENGTH, b"Content-Length: 3"),
        answer_of(b"Content-Length: 1_0", body=b"x" * 10),
        answer_of(b"Content-Length: " + b"0" * 9 + b"2"),
        answer_of(),
        answer_of(LENGTH, b"Keep-Alive: timeout=5"),
        answer_of(LENGTH, b"keep-ALIVE: timeout=5"),
        answer_of(LENGTH, b"Upgrade: h2c"),
        answer_of(LENGTH, b"Trailer: X-Sum"),
        answer_of(LENGTH, b"Connection: upgrade"),
        answer_of(LENGTH, b"Connection: close, keep-alive"),
        answer_of(LENGTH, b"Connection: close", b"Connection: keep-alive"),
        answer_of(b"Content-Length: 0", start=b"HTTP/1.1 204 No Content", body=b""),
        answer_of(LENGTH, start=b"HTTP/1.1 204 No Content"),
        answer_of(LENGTH, start=b"HTTP/1.1 205 Reset Content"),
        answer_of(LENGTH, start=b"HTTP/1.1 304 Not Modified", body=b""),
        answer_of(LENGTH, start=b"HTTP/1.0 200 OK"),
        answer_of(LENGTH, start=b"HTTP/1.1 100 Continue"),
        answer_of(LENGTH, start=b"HTTP/1.1 101 Switching Protocols"),
        answer_of(LENGTH, start=b"HTTP/1.1 200"),
        answer_of(LENGTH, start=b"HTTP/1.1 200OK"),
        answer_of(LENGTH, start=b"HTTP/1.1 999 OK"),
        answer_of(LENGTH, start=b"HTTP/2.0 200 OK"),
        answer_of(LENGTH, start=b"\r\nHTTP/1.1 200 OK"),
        answer_of(b"X-A: b\0", LENGTH),
        answer_of(b"X-A: b\tc", LENGTH),
        answer_of(b"X-A: b\x7f", LENGTH),
        answer_of(b"X-A: b\rc", LENGTH),
        answer_of(b"X-A: b\nX-B: c", LENGTH),
        answer_of(b"X-A: \xc3\xa9", LENGTH),
        answer_of(b"X-A: b", b" folded", LENGTH),
        answer_of(b"X-A", LENGTH),
        answer_of(b": b", LENGTH),
        answer_of(b"X A: b", LENGTH),
        answer_of(b"Content-Length : 2"),
        answer_of(LENGTH, body=b"{}x"),
        answer_of(LENGTH, body=b"{}\r\n"),
        answer_of(LENGTH, body=b"{"),
        answer_of(LENGTH, body=b""),
        answer_of(b"X-A: " + b"y" * 1024, LENGTH),
        answer_of(*[b"a:"] * MAX_HEADERS, LENGTH),
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{}",
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer_of(LENGTH),
        b"",
    ],
)
def test_what_differs_from_it_in_the_least_is_left_to_the_parser(data: bytes) -> None:
    assert parse_plain_answer(data) is None


@pytest.mark.parametrize("size", [1000, 1024, 1025, 5000])
def test_a_long_head_is_read_all_the_same(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> None:
    data = answer_of(b"X-A: " + b"y" * (size - len(answer_of(b"X-A: ", LENGTH))), LENGTH)
    assert in_one_piece(loop, sock, data) == parsed(loop, sock, data)


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
def test_the_limit_on_a_body_holds_for_plain_answers_too(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int
) -> None:
    data = answer_of(b"Content-Length: %d" % size, body=b"x" * size)
    assert parse_plain_answer(data) is not None
    wire = Wire(loop, sock)
    wire.feed(data)
    assert isinstance(wire.outcome(), Answer if size == LIMIT else BadAnswer)
    assert wire.connection.reusable is (size == LIMIT)


# --- one connection, both ways of reading ---


CUTS = st.sampled_from(((), (1,), (20,)))


@given(
    turns=st.lists(st.tuples(answers().filter(lambda sent: not sent.until_eof) | plain_answers(), CUTS), max_size=6),
    lost=st.booleans(),
)
def test_answers_read_either_way_never_mix_on_one_connection(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    turns: list[tuple[Sent | bytes, tuple[int, ...]]],
    lost: bool,
) -> None:
    wire = Wire(loop, sock)
    for number, (sent, points) in enumerate(turns, 1):
        data = sent.data if isinstance(sent, Sent) else sent
        wire.feed(*(data[start:stop] for start, stop in zip((0, *points), (*points, None), strict=True)))
        assert wire.outcome() == parsed(loop, sock, data).outcome
        assert wire.connection.exchanges == number
        if not wire.connection.reusable or wire.connection.closed:
            assert wire.connection.reusable is not wire.connection.closed
            return
        wire.answer = wire.connection.exchange(b"", b"", loop.time() + 3600)
        assert not wire.answer.done(), "an answer belongs to one request"
    if lost:
        wire.end()
        fault = wire.outcome()
        assert isinstance(fault, ConnectionLost)
        assert fault.retry_safe is bool(turns), "a kept connection that closes without a byte has acted on nothing"
    else:
        wire.connection._on_deadline()
        fault = wire.outcome()
        assert isinstance(fault, AnswerTimedOut)
        assert "no answer in time" in fault.failure.detail


@pytest.mark.parametrize("parts", [1, 2])
def test_an_answer_before_the_request_is_written_whole_ends_the_connection(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, parts: int
) -> None:
    wire = Wire(loop, sock)
    wire.transport.unsent = 5
    data = answer_of(LENGTH)
    wire.feed(data) if parts == 1 else wire.feed(data[:9], data[9:])
    assert isinstance(wire.outcome(), Answer)
    assert not wire.connection.reusable
    assert wire.transport.is_closing()
