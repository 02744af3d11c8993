"""Answers whose length is too large, a lie, or told in chunks, fair and foul (RFC 9112, sections 6 and 7)."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Callable

from tests.support.faulty.answers import (
    BLOCK,
    add_answer,
    add_body,
    bind,
    chunked,
    chunks,
    endless,
    head,
    padded,
    reply,
    surplus,
)
from tests.support.faulty.cases import BAD_ANSWER, MAX_ANSWER, OK, TIMEOUT, WRONG_ANSWER, End, Expected, add_case

# fmt: off
# Tables: a case is its name, a sentence, what is expected, and what is sent.


def sizes() -> None:
    """Answers without end, or too large."""
    add_case("endless_head", "Header lines without end.", BAD_ANSWER, 0,
             lambda t: endless(b"HTTP/1.1 200 OK\r\n", b"X-Filler: 0123456789\r\n" * 1000))
    add_case("endless_header", "One header value without end.", BAD_ANSWER, 0,
             lambda t: endless(b"HTTP/1.1 200 OK\r\nX-Filler: ", b"x" * BLOCK))
    add_case("endless_reason", "A reason phrase without end.", BAD_ANSWER, 0,
             lambda t: endless(b"HTTP/1.1 200 ", b"x" * BLOCK))
    add_case("endless_body", "A body without length or end.", BAD_ANSWER, 0,
             lambda t: endless(head(), b"x" * BLOCK))
    add_case("endless_declared", "A Content-Length of 1 TB, and a body on its way to it.", BAD_ANSWER, 0,
             lambda t: endless(head(b"Content-Length: 1000000000000"), b"x" * BLOCK))
    add_case("endless_chunks", "Chunks without end.", BAD_ANSWER, 0,
             lambda t: endless(chunked(b""), b"a\r\n0123456789\r\n" * 4000))
    add_case("endless_chunk", "One chunk of 1 TB.", BAD_ANSWER, 0,
             lambda t: endless(chunked(b"e8d4a51000\r\n"), b"x" * BLOCK))
    add_case("endless_chunk_extension", "A chunk extension without end.", BAD_ANSWER, 0,
             lambda t: endless(chunked(b"5;"), b"x" * BLOCK))
    add_case("endless_trailers", "A whole chunked body, then trailers without end.", BAD_ANSWER, 0,
             lambda t: endless(chunked(chunks(t.right, last=b"0\r\n")), b"X-Filler: 0123456789\r\n" * 1000))
    add_body("body_over_limit", "A declared body one byte over the limit.", BAD_ANSWER,
             functools.partial(padded, size=MAX_ANSWER + 1))
    add_case("body_over_limit_chunked", "A chunked body one byte over the limit.", BAD_ANSWER, 0,
             lambda t: [chunked(chunks(padded(t.right, MAX_ANSWER + 1), size=BLOCK))])
    add_case("body_over_limit_until_eof", "A body without length one byte over the limit.", BAD_ANSWER, 0,
             lambda t: [head() + padded(t.right, MAX_ANSWER + 1), End.CLOSE])
    add_answer("headers_1000", "1,000 header lines.", BAD_ANSWER, 0,
               lambda right: reply(right, *(b"X-Filler-%d: 0123456789" % n for n in range(1000))))
    add_answer("header_100_kb", "One header of 100 kB.", BAD_ANSWER, 0,
               lambda right: reply(right, b"X-Filler: " + b"x" * 100_000))


def lengths() -> None:
    """Content-Length that lies, or is none (RFC 9112, section 6.3)."""
    add_case("length_cuts_json", "Content-Length ends amid the JSON; the rest, and an answer, lie behind.",
             BAD_ANSWER, 0,
             lambda t: [head(b"Content-Length: %d" % (len(t.right) - 10)) + surplus(t.right), End.SILENCE])
    add_case("length_too_small", "The right answer, and behind its Content-Length another hook's 200.", OK, 0,
             lambda t: [surplus(reply(t.right)), End.SILENCE], also=(BAD_ANSWER,))
    add_case("length_zero", "Content-Length: 0 before a body.", BAD_ANSWER, 0,
             lambda t: [head(b"Content-Length: 0") + surplus(t.right), End.SILENCE])
    add_case("length_too_large_close", "Content-Length is 10 too large, then a close.", BAD_ANSWER, 0,
             lambda t: [head(b"Content-Length: %d" % (len(t.right) + 10)) + t.right, End.CLOSE])
    add_case("length_too_large_silence", "Content-Length is 10 too large, then silence.", TIMEOUT, 0,
             lambda t: [head(b"Content-Length: %d" % (len(t.right) + 10)) + t.right, End.SILENCE])
    malformed = {
        "negative": b"-%d", "plus": b"+%d", "hex": b"0x%x", "words": b"%d bytes", "decimal": b"%d.0",
        "space_inside": b"%d 0", "quoted": b'"%d"',
    }  # fmt: skip
    for name, value in malformed.items():
        shown = (value % 45).decode("ascii")
        _length(f"length_{name}", f"Content-Length: {shown}.", bind(value, lambda value, n: (value % n,)))
    _length("length_overflow", "Content-Length: the true one and 2^64.", lambda n: (b"%d" % (2**64 + n),))
    _length("length_empty", "An empty Content-Length.", lambda _: (b"",))
    _length("length_doubled_same", "Content-Length twice, the same.", lambda n: (b"%d" % n, b"%d" % n), also=(OK,))
    _length("length_doubled_different", "Content-Length twice, different.", lambda n: (b"%d" % n, b"%d" % (n - 5)))
    _length("length_list_same", "Content-Length: n, n.", lambda n: (b"%d, %d" % (n, n),), also=(OK,))
    _length("length_list_different", "Content-Length: n, m.", lambda n: (b"%d, %d" % (n, n - 5),))
    add_answer("length_beside_chunked", "Content-Length beside Transfer-Encoding: chunked.", BAD_ANSWER, 0,
               lambda right: chunked(chunks(right), b"Content-Length: %d" % len(right)))
    add_answer("chunked_before_length", "Transfer-Encoding: chunked, and Content-Length after it.", BAD_ANSWER,
               0, lambda right: head(b"Transfer-Encoding: chunked", b"Content-Length: 5") + chunks(right))
    add_answer("length_space_around", "Optional white space around the Content-Length.", OK, 1,
               lambda right: head(b"Content-Length: \t%d \t" % len(right)) + right)


def _length(
    name: str, doc: str, values: Callable[[int], tuple[bytes, ...]], also: tuple[Expected, ...] = ()
) -> None:
    def whole(right: bytes) -> bytes:
        return head(*(b"Content-Length: " + value for value in values(len(right)))) + right

    add_answer(name, doc, BAD_ANSWER, 0, whole, also=also)


def codings() -> None:
    """Chunked bodies, fair and foul (RFC 9112, section 7.1)."""
    add_answer("chunked", "A right answer in chunks.", OK, 1, lambda right: chunked(chunks(right)))
    add_answer("chunked_bytes", "A right answer in chunks of one byte.", OK, 1,
               lambda right: chunked(chunks(right, 1)))
    add_answer("chunked_upper_case", "Transfer-Encoding: CHUNKED, sizes in upper case and with leading zeros.",
               OK, 1,
               lambda right: head(b"Transfer-Encoding: CHUNKED") + b"000%X\r\n%b\r\n0\r\n\r\n" % (len(right), right))
    add_answer("chunked_extensions", "Chunk extensions.", OK, 1,
               lambda right: chunked(chunks(right, extension=b';name=value;quoted="a;b"')))
    add_answer("chunked_trailers", "Trailers after the chunks.", OK, 1,
               lambda right: chunked(chunks(right, last=b"0\r\nX-Checksum: 1\r\n\r\n")))
    add_answer("chunked_trailer_length", "A trailer that names a framing header.", OK, 0,
               lambda right: chunked(chunks(right, last=b"0\r\nContent-Length: 5\r\n\r\n")), also=(BAD_ANSWER,))
    add_answer("chunked_surplus", "A right answer in chunks, another hook's 200 right behind.", OK, 0,
               lambda right: surplus(chunked(chunks(right))), also=(BAD_ANSWER,))
    sizes = {
        "word": b"zz", "negative": b"-5", "plus": b"+5", "prefix": b"0x5", "empty": b"", "space_before": b" 5",
        "underscore": b"1_0", "overflow": b"10000000000000005",
    }  # fmt: skip
    for name, size in sizes.items():
        doc = f"A chunk size of {size.decode('ascii')!r}."
        add_answer(f"chunk_size_{name}", doc, BAD_ANSWER, 0,
                   bind(size, lambda size, right: chunked(size + b"\r\n" + right + b"\r\n0\r\n\r\n")))
    add_answer("chunk_too_long", "A chunk with more data than its size says.", BAD_ANSWER, 0,
               lambda right: chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(right) - 3, right)))
    add_answer("chunk_no_line_end", "No line end between a chunk's data and the next size.", BAD_ANSWER, 0,
               lambda right: chunked(b"%x\r\n%b0\r\n\r\n" % (len(right), right)))
    add_answer("chunk_bare_lf", "Chunk lines that end with a bare LF.", BAD_ANSWER, 0,
               lambda right: chunked(chunks(right).replace(b"\r\n", b"\n")))
    add_case("chunk_last_missing_close", "No last chunk, then a close.", BAD_ANSWER, 0,
             lambda t: [chunked(chunks(t.right, last=b"")), End.CLOSE])
    add_case("chunk_last_missing_silence", "No last chunk, then silence.", TIMEOUT, 0,
             lambda t: [chunked(chunks(t.right, last=b"")), End.SILENCE])
    add_case("chunk_last_half_close", "The last chunk lacks its empty line, then a close.", BAD_ANSWER, 0,
             lambda t: [chunked(chunks(t.right, last=b"0\r\n")), End.CLOSE])
    add_case("chunk_half_close", "Half a chunk, then a close.", BAD_ANSWER, 0,
             lambda t: [chunked(chunks(t.right, size=40)[:-20]), End.CLOSE])
    codings = {
        "unknown": b"xchunked", "list": b"gzip, chunked", "twice": b"chunked, chunked",
        "not_last": b"chunked, gzip", "quoted": b'"chunked"', "identity_chunked": b"identity, chunked",
    }  # fmt: skip
    for name, value in codings.items():
        add_case(f"coding_{name}", f"Transfer-Encoding: {value.decode('ascii')}.", BAD_ANSWER, 0,
                 bind(value, lambda value, t: [head(b"Transfer-Encoding: " + value) + chunks(t.right), End.CLOSE]))
    add_answer("coding_in_http10", "Chunks in an HTTP/1.0 answer (RFC 9112, section 6.1: faulty framing).",
               BAD_ANSWER, 0, lambda right: chunked(chunks(right), start=b"HTTP/1.0 200 OK"), also=(OK,))
    packed = (b"Content-Encoding: gzip",)
    add_body("gzip_unasked", "A gzip body that nobody asked for.", BAD_ANSWER, gzip.compress, lines=packed)
    add_body("gzip_bomb", "8 MB of white space and a JSON object in 8 kB of gzip.", BAD_ANSWER,
             lambda _: _gzip_bomb(), lines=packed)


@functools.cache
def _gzip_bomb() -> bytes:
    return gzip.compress(b" " * 8_000_000 + WRONG_ANSWER)
