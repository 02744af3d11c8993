"""Interim answers, every status that is no verdict, and 403, which is one in every form."""

from __future__ import annotations

from tests.support.faulty.answers import BLOCK, add_answer, bind, chunked, chunks, endless, head, reply, surplus
from tests.support.faulty.cases import (
    BAD_ANSWER,
    BASE_PATH,
    DENIED,
    ERROR_STATUS,
    OK,
    TIMEOUT,
    UNREACHABLE,
    WRONG_ANSWER,
    End,
    Pause,
    add_case,
)

# fmt: off
# Tables: a case is its name, a sentence, what is expected, and what is sent.


def statuses() -> None:
    """Interim answers and every status that is no verdict."""
    interim = head(start=b"HTTP/1.1 100 Continue")
    hints = head(b"Link: </a>; rel=preload", start=b"HTTP/1.1 103 Early Hints")
    add_case("interim_one", "100 Continue, then the right answer.", OK, 1, lambda t: [interim + reply(t.right)])
    add_case("interim_apart", "103 Early Hints, and the right answer 50 ms later.", OK, 1,
             lambda t: [hints, Pause(0.05), reply(t.right)])
    add_case("interim_five", "Five interim answers, then the right one.", OK, 1,
             lambda t: [interim * 4 + hints + reply(t.right)])
    add_case("interim_thousand", "A thousand interim answers, then the right one.", BAD_ANSWER, 0,
             lambda t: [interim * 1000 + reply(t.right)])
    add_case("interim_silence", "100 Continue, then silence.", TIMEOUT, 0, lambda t: [interim, End.SILENCE])
    add_case("interim_close", "100 Continue, then a close.", UNREACHABLE, 0, lambda t: [interim, End.CLOSE],
             also=(BAD_ANSWER,))
    add_case("status_101", "101 Switching Protocols that nobody asked for.", ERROR_STATUS, 0,
             lambda t: [head(b"Upgrade: websocket", b"Connection: Upgrade", start=b"HTTP/1.1 101 Switching Protocols"),
                        End.SILENCE],
             also=(BAD_ANSWER,))
    for status in (204, 304):
        start = b"HTTP/1.1 %d Nothing" % status
        add_case(f"status_{status}", f"{status} without a body.", ERROR_STATUS, 1,
                 bind(start, lambda start, t: [head(start=start)]))
        add_case(f"status_{status}_body", f"{status}, and a body that must not be there.", ERROR_STATUS, 0,
                 bind(start, lambda start, t: [surplus(reply(t.right, start=start)), End.SILENCE]),
                 also=(BAD_ANSWER,))
    add_case("status_204_late_body", "204, and 50 ms later another hook's 200.", ERROR_STATUS, 0,
             lambda t: [head(start=b"HTTP/1.1 204 No Content"), Pause(0.05), reply(WRONG_ANSWER), End.SILENCE])
    add_case("status_304_length", "304 with the Content-Length of the body that it does not carry.",
             ERROR_STATUS, 1, lambda t: [head(b"Content-Length: 45", start=b"HTTP/1.1 304 Not Modified")])
    _status(205)
    for status in (201, 202, 203, 206, 300):
        add_case(f"status_{status}", f"{status} with JSON that says yes.", ERROR_STATUS, 1,
                 bind(status, lambda status, t: [reply(t.right, start=b"HTTP/1.1 %d Nearly" % status)]))
    target = f"Location: {BASE_PATH}/redirect_target/OnCallEvent".encode("ascii")
    for status in (301, 302, 303, 307, 308):
        start = b"HTTP/1.1 %d Elsewhere" % status
        add_case(f"redirect_{status}", f"{status} to redirect_target, which is never asked.", ERROR_STATUS, 1,
                 bind(start, lambda start, t: [reply(b"", target, start=start)]))
    add_case("redirect_target", "Where the redirects lead.", OK, 1, lambda t: [reply(t.right)])
    client_errors = (400, 401, 402, 404, 405, 406, 408, 409, 413, 418, 422, 429, 431, 451)
    for status in (*client_errors, 500, 501, 502, 503, 504, 505, 599):
        _status(status)
    add_case("status_500_close", "500 with an HTML page and a close, as old PHP does.", ERROR_STATUS, 0,
             lambda t: [head(b"Content-Type: text/html", start=b"HTTP/1.0 500 Internal Server Error")
                        + b"<html>secret stack trace</html>", End.CLOSE])
    add_case("status_500_half_close", "500, half its body, then a close.", ERROR_STATUS, 0,
             lambda t: [reply(t.right, start=b"HTTP/1.1 500 Oops")[:-10], End.CLOSE],
             also=(BAD_ANSWER, UNREACHABLE))
    add_case("status_500_half_silence", "500, half its body, then silence.", ERROR_STATUS, 0,
             lambda t: [reply(t.right, start=b"HTTP/1.1 500 Oops")[:-10], End.SILENCE], also=(TIMEOUT,))
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
        add_answer(f"status_{name}", f"The status {code.decode('ascii')}.", BAD_ANSWER, 0,
                   bind(code, lambda code, right: reply(right, start=b"HTTP/1.1 " + code + b" OK")))
    for code in (b"000", b"099", b"600", b"999"):
        add_answer(f"status_{code.decode('ascii')}", "Three digits that are no status.", BAD_ANSWER, 0,
                   bind(code, lambda code, right: reply(right, start=b"HTTP/1.1 " + code + b" OK")))


def _status(status: int) -> None:
    start = b"HTTP/1.1 %d Status" % status
    more = {
        401: (b'WWW-Authenticate: Basic realm="backend"',),
        503: (b"Retry-After: 1",),
        429: (b"Retry-After: 1",),
    }
    lines = more.get(status, ())
    add_case(f"status_{status}", f"{status} without content.", ERROR_STATUS, 1,
             lambda t: [reply(b"", *lines, start=start)])
    add_case(f"status_{status}_yes", f"{status} with JSON that says yes.", ERROR_STATUS, 1,
             lambda t: [reply(t.right, *lines, start=start)])


def denials() -> None:
    """403 is a verdict in every form."""
    start = b"HTTP/1.1 403 Forbidden"
    add_case("denied", "403 without content.", DENIED, 1, lambda t: [reply(b"", start=start)])
    add_case("denied_yes", "403 with JSON that says yes.", DENIED, 1, lambda t: [reply(t.right, start=start)])
    add_case("denied_html", "403 with an HTML page.", DENIED, 1, lambda t: [reply(b"<html>no</html>", start=start)])
    add_case("denied_chunked", "403 in chunks.", DENIED, 1, lambda t: [chunked(chunks(t.right), start=start)])
    add_case("denied_close", "403 with Connection: close.", DENIED, 0,
             lambda t: [reply(b"", b"Connection: close", start=start), End.CLOSE])
    add_case("denied_http10", "403 in HTTP/1.0, its body ended by the connection.", DENIED, 0,
             lambda t: [head(start=b"HTTP/1.0 403 Forbidden") + b"no", End.CLOSE])
    add_case("denied_surplus", "403 with another hook's 200 right behind.", DENIED, 0,
             lambda t: [surplus(reply(b"", start=start)), End.SILENCE], also=(BAD_ANSWER,))
    add_case("denied_half_close", "403, half its body, then a close.", DENIED, 0,
             lambda t: [reply(t.right, start=start)[:-10], End.CLOSE], also=(BAD_ANSWER, UNREACHABLE))
    add_case("denied_half_silence", "403, half its body, then silence.", DENIED, 0,
             lambda t: [reply(t.right, start=start)[:-10], End.SILENCE], also=(TIMEOUT,))
    add_case("denied_endless", "403 with a body without end.", DENIED, 0,
             lambda t: endless(head(start=start), b"x" * BLOCK), also=(BAD_ANSWER,))
