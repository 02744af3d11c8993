"""The chunked coding of request bodies: any valid one yields its body, and none is read in two ways."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.http.server.chunked import ChunkedBody
from gateway.http.server.head import BadRequest

MAX_BODY = 1000
LONGEST_LINE = 256
MOST_TRAILERS = 8


def fed(*pieces: bytes, max_body: int = MAX_BODY) -> tuple[bytes | None, bytes]:
    """The body after the last piece, and what is left of the buffer."""
    coded, buffer = ChunkedBody(max_body), bytearray()
    body = None
    for piece in pieces:
        assert body is None, "whole before the last piece"
        buffer += piece
        body = coded.feed(buffer)
    return body, bytes(buffer)


def refused(data: bytes, status: int = 400, max_body: int = MAX_BODY) -> None:
    with pytest.raises(BadRequest) as caught:
        fed(data, max_body=max_body)
    assert caught.value.status == status


# --- valid ones ---

extensions = st.lists(
    st.sampled_from([b";a", b";a=b", b' ;a="b c"', b"\t; a = b", b';a="\\"\xc3\xa9"', b";"]), max_size=2
).map(b"".join)
chunks = st.lists(
    st.tuples(st.binary(min_size=1, max_size=40), extensions, st.booleans(), st.integers(0, 3)), max_size=8
)
trailers = st.lists(
    st.tuples(st.sampled_from([b"X-Sum", b"Baz", b"expires"]), st.sampled_from([b"", b" 1", b"\ta:b\xff"])), max_size=3
)


@st.composite
def codings(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A body, and one way to code it."""
    coded, body = b"", b""
    for data, extension, upper, zeros in draw(chunks):
        size = (b"%X" if upper else b"%x") % len(data)
        coded += b"0" * zeros + size + extension + b"\r\n" + data + b"\r\n"
        body += data
    coded += b"0" * draw(st.integers(1, 8)) + draw(extensions) + b"\r\n"
    coded += b"".join(name + b":" + value + b"\r\n" for name, value in draw(trailers))
    return body, coded + b"\r\n"


@given(codings(), st.data())
def test_any_cut_of_any_valid_coding_yields_the_body(coding: tuple[bytes, bytes], data: st.DataObject) -> None:
    body, coded = coding
    cuts = sorted(data.draw(st.sets(st.integers(1, len(coded) - 1), max_size=10)))
    pieces = [coded[start:end] for start, end in zip([0, *cuts], [*cuts, len(coded)], strict=True)]
    assert fed(*pieces) == (body, b"")


@given(codings(), st.binary(max_size=20))
def test_what_follows_a_body_is_left_to_the_next_request(coding: tuple[bytes, bytes], after: bytes) -> None:
    body, coded = coding
    assert fed(coded + after) == (body, after)


@given(codings(), st.data())
def test_a_coding_that_was_cut_short_is_no_body_yet(coding: tuple[bytes, bytes], data: st.DataObject) -> None:
    _, coded = coding
    body, _ = fed(coded[: data.draw(st.integers(0, len(coded) - 1))])
    assert body is None


@pytest.mark.parametrize("size", [1, 2, 9, 10, 15, 16, 255, 256, 999])
def test_byte_by_byte_a_body_is_the_same(size: int) -> None:
    coded = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size)
    assert fed(*(bytes([byte]) for byte in coded)) == (b"x" * size, b"")


# --- everything else ---


def outcome(coded: ChunkedBody, buffer: bytearray) -> bytes | int | None:
    """The body, or the status of the refusal."""
    try:
        return coded.feed(buffer)
    except BadRequest as exc:
        return exc.status


@given(st.lists(st.binary(max_size=40), max_size=8))
@example([b"-1\r\n"])
@example([b"\r\n", b"\r\n"])
def test_arbitrary_bytes_are_a_body_or_none_yet_or_a_bad_request(pieces: list[bytes]) -> None:
    coded, buffer = ChunkedBody(MAX_BODY), bytearray()
    for piece in pieces:
        buffer += piece
        read = outcome(coded, buffer)
        if isinstance(read, int):
            assert read in (400, 413)
            return
        if read is not None:
            assert len(read) <= MAX_BODY
            return
        assert len(buffer) <= MAX_BODY + 2 * LONGEST_LINE


@given(codings(), st.data())
def test_a_mutated_coding_is_a_body_or_none_yet_or_a_bad_request(
    coding: tuple[bytes, bytes], data: st.DataObject
) -> None:
    _, coded = coding
    at = data.draw(st.integers(0, len(coded)))
    removed, put = (
        data.draw(st.integers(0, 3)),
        data.draw(st.binary(max_size=3) | st.sampled_from([b"\r\n", b"\n", b"0"])),
    )
    read = outcome(ChunkedBody(MAX_BODY), bytearray(coded[:at] + put + coded[at + removed :]))
    assert read is None or (read in (400, 413) if isinstance(read, int) else len(read) <= MAX_BODY)


@pytest.mark.parametrize(
    "line",
    [
        b"", b" ", b"g", b"0x5", b"+5", b"-5", b"-0", b" 5", b"5 ", b"5\t", b"5 5", b"5,5", b"5.", b"5_0", b"\xb2",
        b"5h", b"5:a", b"5 a", b"5\x00", b"5;\x00", b"5;a\x01b", b"5;a\x7f", b"5;a\rb", b"5;a\nb", b"5\n", b"5\r",
        b"\n5", b'"5"', b"123456789", b"000000005", b"ffffffffffffffff5", b"5\x0b;a", b"5\xa0",
    ],
)  # fmt: skip
def test_a_size_is_up_to_eight_hexadecimal_digits_and_perhaps_an_extension(line: bytes) -> None:
    refused(line + b"\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize("after", [b"", b"x\r\n", b"\n", b"\r", b"\n\r", b" \r\n", b"\x00\x00"])
def test_a_chunk_ends_where_its_size_says(after: bytes) -> None:
    refused(b"5\r\nhello" + after + b"0\r\n\r\n")


def test_a_chunk_that_is_shorter_than_its_size_swallows_no_framing() -> None:
    refused(b"6\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize("ending", [b"\n", b"\r"])
def test_a_size_line_ends_with_cr_lf_and_nothing_else(ending: bytes) -> None:
    refused(b"5" + ending + b"hello" + ending + b"0" + ending + ending + b"\r\n")


# --- trailers: RFC 9110, section 6.5 ---


@pytest.mark.parametrize(
    "name",
    [b"Content-Length", b"Transfer-Encoding", b"Host", b"Authorization", b"Trailer", b"content-length", b"HOST"],
)
def test_a_trailer_that_names_what_no_trailer_may_is_refused(name: bytes) -> None:
    refused(b"0\r\n" + name + b": 1\r\n\r\n")
    refused(b"0\r\nX-Fine: 1\r\n" + name + b":\r\n\r\n")


@pytest.mark.parametrize(
    "trailer",
    [b"x", b": 1", b" x: 1", b"x : 1", b"x\t: 1", b"x: \x00", b"x: a\rb", b"x: a\nb", b"x[]: 1", b"\xff: 1", b" "],
)
def test_a_malformed_trailer_is_refused(trailer: bytes) -> None:
    refused(b"0\r\n" + trailer + b"\r\n\r\n")


# --- bounds ---


def test_a_body_may_have_its_limit_and_one_byte_more_is_a_413() -> None:
    assert fed(b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n") == (b"x" * 1000, b"")
    refused(b"3e9\r\n", 413)  # as soon as the size is known
    refused(b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\n", 413)
    refused(b"ffffffff\r\n", 413)


def test_as_many_trailers_as_allowed_are_passed_over_and_one_more_is_refused() -> None:
    trailers = b"x: 1\r\n" * MOST_TRAILERS
    assert fed(b"0\r\n" + trailers + b"\r\n") == (b"", b"")
    refused(b"0\r\n" + trailers + b"x: 1\r\n")


@pytest.mark.parametrize("start", [b"5;", b"0\r\nx:"])
def test_a_line_may_have_its_limit_and_one_byte_more_is_refused(start: bytes) -> None:
    line = start[start.rfind(b"\n") + 1 :]
    longest = start + b"e" * (LONGEST_LINE - len(line))
    rest = b"\r\nhello\r\n0\r\n\r\n" if start == b"5;" else b"\r\n\r\n"
    expected = (b"hello" if start == b"5;" else b"", b"")
    assert fed(longest + rest) == expected
    assert fed(longest, rest) == expected
    assert fed(longest + rest[:1], rest[1:]) == expected
    refused(longest + b"e" + rest)


def test_an_endless_extension_or_trailer_is_refused_before_it_ends() -> None:
    refused(b"5;" + b"e" * 300)
    refused(b"0\r\nx: " + b"e" * 300)
    refused(b"0" * 300)


def test_a_body_in_very_many_chunks_is_refused() -> None:
    # Each costs far more than its one byte.
    refused(b"1\r\nx\r\n" * MAX_BODY + b"0\r\n\r\n")
    some = b"1\r\nx\r\n" * 16
    assert fed(some + b"0\r\n\r\n") == (b"x" * 16, b"")
