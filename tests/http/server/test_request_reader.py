"""Requests are taken out of what a client sends whole and in order, however it comes in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.server.head import MAX_HEAD, BadRequest
from gateway.http.server.request_reader import Request, RequestReader, whole_request

MAX_BODY = 100


def post(body: bytes, *lines: bytes) -> bytes:
    head = (b"POST /a HTTP/1.1", b"Host: gw", *(lines or (b"Content-Length: %d" % len(body),)), b"", b"")
    return b"\r\n".join(head) + body


def chunked(body: bytes) -> bytes:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    return post(b"", b"Transfer-Encoding: chunked") + chunks


def read_all(reader: RequestReader) -> list[bytes]:
    bodies = []
    while (request := reader.next_request(MAX_BODY)) is not None:
        bodies.append(request[1])
    return bodies


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=8)), max_size=4), st.data())
def test_requests_come_whole_and_in_order_however_they_are_cut(
    requests: list[tuple[bool, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(chunked(body) if coded else post(body) for coded, body in requests)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader, bodies = RequestReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.add(stream[start:end])
        bodies += read_all(reader)
    assert bodies == [body for _, body in requests]
    assert not reader.has_begun


def test_an_empty_line_before_a_request_is_no_part_of_one() -> None:
    reader = RequestReader()
    reader.add(b"\r\n")
    assert reader.next_request(MAX_BODY) is None
    assert not reader.has_begun
    reader.add(post(b"x"))
    assert read_all(reader) == [b"x"]


def test_a_client_that_waits_for_100_continue_is_noticed() -> None:
    reader = RequestReader()
    reader.add(post(b"", b"Content-Length: 1", b"Expect: 100-continue"))
    assert reader.next_request(MAX_BODY) is None
    assert reader.continue_due
    reader.add(b"x")
    assert read_all(reader) == [b"x"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (post(b"x" * (MAX_BODY + 1)), 413),
        (b"\x16\x03\x01", 400),
        (b"GET / HTTP/1.1\nHost: gw\n\n", 400),
        (b"POST /a HTTP/1.1\r\nX: " + b"y" * MAX_HEAD, 431),
    ],
)
def test_what_is_no_request_is_refused(data: bytes, status: int) -> None:
    reader = RequestReader()
    reader.add(data)
    with pytest.raises(BadRequest) as caught:
        reader.next_request(MAX_BODY)
    assert caught.value.status == status


def test_a_head_stays_until_its_body_has_come_and_can_be_dropped() -> None:
    reader = RequestReader()
    reader.add(post(b"", b"Content-Length: 5") + b"abc")
    assert reader.next_request(MAX_BODY) is None
    assert reader.head is not None
    reader.clear()
    assert not reader.has_begun


@pytest.mark.parametrize(
    ("data", "is_whole"),
    [
        (post(b"body"), True),
        (post(b""), True),
        (post(b"body")[:-1], False),
        (post(b"body") + b"\r\n", False),
        (post(b"a") + post(b"b"), False),
        (chunked(b"body"), False),
        (post(b"x" * (MAX_BODY + 1)), False),
        (b"no request\r\n\r\n", False),
        (b"", False),
    ],
)
def test_only_one_whole_request_is_taken_at_once(data: bytes, is_whole: bool) -> None:
    request: Request | None = whole_request(data, MAX_BODY)
    assert (request is not None) is is_whole
    if request is not None:
        reader = RequestReader()
        reader.add(data)
        assert reader.next_request(MAX_BODY) == request, "both readers understand it alike"
