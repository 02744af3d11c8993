"""The app's messages as bytes on the wire: framed so that the client knows where each answer ends."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from http.client import HTTPResponse, IncompleteRead
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from gateway.http.server.response import ResponseWriter


class Wire:
    """Bytes as http.client wants to read them."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)


def writer(*, head_only: bool = False, keep_alive: bool = True, chunks_allowed: bool = True) -> ResponseWriter:
    return ResponseWriter(head_only=head_only, keep_alive=keep_alive, chunks_allowed=chunks_allowed)


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def written(out: ResponseWriter, *messages: Message) -> bytes:
    return b"".join(out.encode(message, ()) for message in messages)


def lines_of(data: bytes) -> list[bytes]:
    return data.partition(b"\r\n\r\n")[0].split(b"\r\n")


def read(data: bytes, method: str = "POST") -> tuple[HTTPResponse, bytes]:
    response = HTTPResponse(Wire(data), method=method)  # type: ignore[arg-type]  # all that it asks of a socket
    response.begin()
    return response, response.read()


def bodies(parts: Iterable[bytes]) -> Iterator[Message]:
    *most, last = parts
    yield from (part(one, more=True) for one in most)
    yield part(last)


# --- framing ---


def test_an_answer_in_one_piece_is_head_and_body_in_one_piece() -> None:
    out = writer()
    assert out.encode(start(200, (b"x-own", b"1")), ()) == b""
    data = out.encode(part(b"hello"), ())
    assert data == b"HTTP/1.1 200 OK\r\nx-own: 1\r\ncontent-length: 5\r\n\r\nhello"
    assert out.complete
    assert out.keep_alive


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=6), st.booleans(), st.booleans(), st.booleans())
def test_whatever_its_parts_a_client_reads_the_body(
    parts: list[bytes], told: bool, keep_alive: bool, chunks_allowed: bool
) -> None:
    body = b"".join(parts)
    out = writer(keep_alive=keep_alive, chunks_allowed=chunks_allowed)
    headers = [(b"content-length", b"%d" % len(body))] if told else []
    data = written(out, start(200, *headers), *bodies(parts))
    response, got = read(data)
    assert got == body
    assert out.complete
    framed = response.getheader("content-length") is not None or response.getheader("transfer-encoding") is not None
    assert framed or not out.keep_alive
    assert (response.getheader("connection") == "close") is not out.keep_alive
    assert not (response.getheader("content-length") and response.getheader("transfer-encoding"))


def test_a_length_that_the_app_told_is_told_once() -> None:
    data = written(writer(), start(200, (b"content-length", b"5")), part(b"hello"))
    assert [line for line in lines_of(data) if line.startswith(b"content-length")] == [b"content-length: 5"]


def test_a_streamed_answer_is_chunked_and_an_empty_part_does_not_end_it() -> None:
    data = written(writer(), start(), *bodies([b"one", b"", b"three", b""]))
    assert b"transfer-encoding: chunked" in lines_of(data)
    assert data.partition(b"\r\n\r\n")[2] == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"


def test_a_streamed_answer_to_http_1_0_ends_with_its_connection() -> None:
    out = writer(keep_alive=False, chunks_allowed=False)
    data = written(out, start(), *bodies([b"one", b"two"]))
    assert lines_of(data) == [b"HTTP/1.1 200 OK", b"connection: close"]
    assert data.endswith(b"\r\n\r\nonetwo")
    assert not out.keep_alive


def test_a_streamed_answer_that_was_cut_short_does_not_look_whole() -> None:
    data = written(writer(), start(), part(b"one", more=True))
    with pytest.raises(IncompleteRead):
        read(data)


@pytest.mark.parametrize("parts", [[b"hello"], [b"hel", b"lo"]])
def test_head_gets_the_head_of_the_answer_alone(parts: list[bytes]) -> None:
    out = writer(head_only=True)
    data = written(out, start(200, (b"content-length", b"5")), *bodies(parts))
    assert data == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    assert out.complete
    assert out.keep_alive


def test_head_is_told_the_length_that_the_body_would_have() -> None:
    assert b"content-length: 5" in lines_of(written(writer(head_only=True), start(), part(b"hello")))


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("body", [b"", b"none the less"])
def test_an_answer_that_has_no_body_gets_none(status: int, body: bytes) -> None:
    out = writer()
    data = written(out, start(status), part(body))
    assert lines_of(data) == [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
    assert data.endswith(b"\r\n\r\n")
    assert out.complete


# --- the head ---


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 405, 408, 413, 422, 431, 500, 503])
def test_every_status_has_its_phrase(status: int) -> None:
    response, _ = read(written(writer(), start(status), part(b"")))
    assert (response.status, response.reason) == (status, HTTPStatus(status).phrase)


def test_default_headers_come_first() -> None:
    out = writer()
    out.encode(start(200, (b"x-own", b"1")), [(b"x-default", b"2")])
    assert lines_of(out.encode(part(b""), [(b"x-default", b"2")]))[1:3] == [b"x-default: 2", b"x-own: 1"]


def test_an_app_that_says_close_is_obeyed_and_it_is_said_once() -> None:
    out = writer()
    data = written(out, start(200, (b"connection", b"close")), part(b""))
    assert lines_of(data).count(b"connection: close") == 1
    assert not out.keep_alive


def test_a_connection_that_is_not_kept_is_announced() -> None:
    assert b"connection: close" in lines_of(written(writer(keep_alive=False), start(), part(b"")))


@pytest.mark.parametrize("bad", [b"a\r\nx-forged: 1", b"a\nb", b"a\rb", b"\r\n\r\nbody"])
def test_a_header_that_would_break_into_two_lines_is_not_written(bad: bytes) -> None:
    for header in ((b"x-own", bad), (b"x-" + bad, b"1")):
        out = writer()
        out.encode(start(200, header), ())
        with pytest.raises(RuntimeError, match="two lines"):
            out.encode(part(b""), ())


# --- an app that breaks the protocol ---

WRONG_ORDERS: list[tuple[list[Message], str]] = [
    ([part(b"")], "not what comes next"),
    ([{"type": "http.response.trailers"}], "not what comes next"),
    ([start(), start()], "begins twice"),
    ([start(), {"type": "websocket.send"}], "not what comes next"),
    ([start(), part(b""), part(b"")], "after its end"),
    ([start(), part(b""), start()], "after its end"),
    ([start(), part(b"", more=True), start()], "begins twice"),
]


@pytest.mark.parametrize(("messages", "said"), WRONG_ORDERS)
def test_messages_in_a_wrong_order_are_an_error(messages: list[Message], said: str) -> None:
    out = writer()
    written(out, *messages[:-1])
    with pytest.raises(RuntimeError, match=said):
        out.encode(messages[-1], ())


LIES: list[list[Any]] = [[b"hell"], [b"hello!"], [b"hel", b"lo!"], [b"hel", b"l"], [b"hello", b"!"], [b""]]


@pytest.mark.parametrize("parts", LIES)
def test_an_answer_of_another_length_than_told_is_an_error(parts: list[bytes]) -> None:
    out = writer()
    with pytest.raises(RuntimeError, match="Content-Length"):
        written(out, start(200, (b"content-length", b"5")), *bodies(parts))
