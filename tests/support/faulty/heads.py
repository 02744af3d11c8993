"""Heads that are not HTTP/1.1, in part or altogether (RFC 9112, sections 2, 4 and 5)."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.faulty.answers import add_answer, bind, head, reply
from tests.support.faulty.cases import BAD_ANSWER, OK, End, add_case

# fmt: off
# Tables: a case is its name, a sentence, what is expected, and what is sent.


def heads() -> None:
    """Heads that are not HTTP/1.1, in part or altogether (RFC 9112, sections 2, 4 and 5)."""

    def beside(*lines: bytes) -> Callable[[bytes], bytes]:
        return lambda right: reply(right, *lines)

    add_answer("header_folded", "A folded header.", BAD_ANSWER, 0, beside(b"X-Folded: a\r\n b"), also=(OK,))
    add_answer("header_folded_length", "Content-Length on a folded line.", BAD_ANSWER, 0,
               lambda right: head(b"Content-Length:\r\n %d" % len(right)) + right, also=(OK,))
    add_answer("header_no_colon", "A header line without a colon.", BAD_ANSWER, 0, beside(b"X-No-Colon"))
    add_answer("header_no_name", "A header line without a name.", BAD_ANSWER, 0, beside(b": value"))
    add_answer("header_space_before", "White space before the first header.", BAD_ANSWER, 0,
               lambda right: head(b" X-First: 1", b"Content-Length: %d" % len(right)) + right)
    add_answer("header_space_colon", "White space before a colon.", BAD_ANSWER, 0, beside(b"X-Space : 1"), also=(OK,))
    add_answer("header_space_colon_length", "White space before the colon of Content-Length.", BAD_ANSWER, 0,
               lambda right: head(b"Content-Length : %d" % len(right)) + right, also=(OK,))
    add_answer("header_nul", "A NUL in a header value.", BAD_ANSWER, 0, beside(b"X-Nul: a\x00b"))
    add_answer("header_nul_name", "A NUL in a header name.", BAD_ANSWER, 0, beside(b"X-N\x00ul: ab"))
    add_answer("header_bare_cr", "A bare CR in a header value.", BAD_ANSWER, 0, beside(b"X-Cr: a\rb"))
    add_answer("header_high_bytes", "Bytes over 127 in a header value (obs-text: allowed).", OK, 1,
               beside(b"X-Text: J\xfcrgen"))
    add_answer("header_bare_lf", "Bare LF as line ends throughout the head.", BAD_ANSWER, 0,
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
        add_answer(f"version_{name}", f"A status line of {version.decode('ascii')}.", BAD_ANSWER, 0,
                   bind(version, lambda version, right: reply(right, start=version + b" 200 OK")))
    add_answer("version_12", "HTTP/1.2, which RFC 9110, section 2.5, would have read as HTTP/1.1.", BAD_ANSWER,
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
        add_case(f"not_http_{name}", doc, BAD_ANSWER, 0, bind(sent, lambda sent, t: [sent or t.right, End.CLOSE]))
    add_case("not_http_tls_hello", "A TLS handshake record, then silence.", BAD_ANSWER, 0,
             lambda t: [bytes.fromhex("160303003a020000360303") + bytes(51), End.SILENCE])
