"""A 200 whose body is not one JSON object in UTF-8 (RFC 8259)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.support.faulty.answers import add_body
from tests.support.faulty.cases import BAD_ANSWER, CALLER_INPUT, OK, WRONG_ANSWER

# fmt: off
# Tables: a case is its name, a sentence, what is expected, and what is sent.


_NOTICE: Final = (
    b"<br />\n<b>Notice</b>:  Undefined index: callee in <b>api.php</b> on line <b>12</b><br />\n"
)
_QUOTING: Final = b"<br />\n<b>Warning</b>:  bad value " + CALLER_INPUT + b" in <b>api.php</b><br />\n"


def bodies() -> None:
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
        add_body(f"body_{name}", f"200 with this body: {doc}", BAD_ANSWER, make)
    add_body("body_surrogate_escape",
             "200 with a lone surrogate as an escape, which RFC 8259's grammar lets through.", BAD_ANSWER,
             lambda _: b'{"caller":"\\ud800"}', also=(OK,))
    add_body("body_nested", "200 with JSON nested 100,000 deep.", BAD_ANSWER,
             lambda _: b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", also=(OK,))
