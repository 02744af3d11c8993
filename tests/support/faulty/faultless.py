"""Faultless answers in all the forms that real backends use."""

from __future__ import annotations

import functools

from tests.support.faulty.answers import add_answer, add_body, head, padded, pieces, reply
from tests.support.faulty.cases import MAX_ANSWER, OK, End, Pause, add_case

# fmt: off
# Tables: a case is its name, a sentence, what is expected, and what is sent.


def answers() -> None:
    """Faultless answers in all the forms that real backends use."""
    add_case("ok", "A right answer on a connection that stays open.", OK, 1, lambda t: [reply(t.right)])
    add_case("ok_close", "A right answer with Connection: close, then the close.", OK, 0,
             lambda t: [reply(t.right, b"Connection: close"), End.CLOSE])
    add_case("ok_close_unsaid", "A right answer, then a close that no header announced.", OK, 0,
             lambda t: [reply(t.right), End.CLOSE])
    add_case("ok_close_said_but_open",
             "A right answer with Connection: close on a connection that stays open.", OK, 0,
             lambda t: [reply(t.right, b"Connection: close"), End.SILENCE])
    add_case("ok_slow", "A right answer after 300 ms.", OK, 1, lambda t: [Pause(0.3), reply(t.right)])
    add_case("ok_in_pieces", "A right answer in segments of seven bytes.", OK, 1, lambda t: pieces(reply(t.right), 7))
    add_case("ok_http10", "An HTTP/1.0 answer without a length that ends with the connection.", OK, 0,
             lambda t: [head(start=b"HTTP/1.0 200 OK") + t.right, End.CLOSE])
    add_case("ok_http10_keep_alive", "An HTTP/1.0 answer with a length and Connection: keep-alive.", OK, 1,
             lambda t: [reply(t.right, b"Connection: keep-alive", start=b"HTTP/1.0 200 OK")])
    add_case("ok_http10_open",
             "An HTTP/1.0 answer with a length and no keep-alive on a connection that stays.", OK, 0,
             lambda t: [reply(t.right, start=b"HTTP/1.0 200 OK"), End.SILENCE])
    add_case("ok_until_eof", "An HTTP/1.1 answer without a length that ends with the connection.", OK, 0,
             lambda t: [head() + t.right, End.CLOSE])
    add_case("ok_keep_alive_timeout",
             "A right answer with Keep-Alive: timeout=1, and a close after that second.", OK, 1,
             lambda t: [reply(t.right, b"Keep-Alive: timeout=1", b"Connection: keep-alive"), Pause(1.0), End.CLOSE])
    add_answer("ok_upper_case", "Header names in upper case.", OK, 1,
               lambda right: head(b"CONTENT-LENGTH: %d" % len(right)) + right)
    add_answer("ok_lower_case", "Header names in lower case.", OK, 1,
               lambda right: head(b"content-length: %d" % len(right)) + right)
    add_answer("ok_no_reason", "A status line without a reason phrase.", OK, 1,
               lambda right: reply(right, start=b"HTTP/1.1 200 "))
    add_answer("ok_set_cookie", "A Set-Cookie beside a right answer: it is sent on neither way.", OK, 1,
               lambda right: reply(right, b"Set-Cookie: PHPSESSID=secret-of-the-backend; path=/"))
    add_answer("ok_html_type", "A right answer that calls itself text/html, as PHP does.", OK, 1,
               lambda right: head(b"Content-Type: text/html", b"Content-Length: %d" % len(right)) + right)
    add_body("ok_white_space", "White space around the JSON.", OK, lambda right: b"\r\n \t" + right + b"\n\n")
    add_body("ok_at_limit", "A body exactly at the limit.", OK, functools.partial(padded, size=MAX_ANSWER))
    add_body("ok_long_number", "A JSON number of 5,000 digits.", OK, lambda _: b'{"a":' + b"9" * 5000 + b"}")
