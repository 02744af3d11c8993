"""What the fuzzers check of the answers that the gateway changes: those to connect, and those that PHP polluted.

An input is text in which the bytes from 0x80 on stand for whole words, so that JSON with the names that matter, and
messages in PHP's words, are a few bytes from everywhere.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn
from urllib.parse import unquote

from gateway.http.client import Answer
from gateway.model.hooks import is_json_object
from gateway.model.verdicts import Failure
from gateway.policy.repair import MAX_CUT, Repaired, RepairFailure, ResponseCheck
from gateway.policy.repair import repair as repair_answer
from gateway.policy.rest_client_config import ClientConfig, Mode, examine
from gateway.upstreams import Judge

_FIRST_WORD: Final = 0x80
_DEEP: Final = 200
"""Brackets from which on Python's own reader of JSON may give up."""


def spelt_out(data: bytes, words: tuple[bytes, ...]) -> bytes:
    """The input with its words written out; the bytes that stand for none stay."""
    return b"".join(
        words[byte - _FIRST_WORD] if 0 <= byte - _FIRST_WORD < len(words) else data[at : at + 1]
        for at, byte in enumerate(data)
    )


class _Object(list[tuple[str, Any]]):
    """A JSON object with every member that stands in it, doubles included."""

    def last(self, name: str) -> Any:
        """The value that counts; None where there is none."""
        return next((value for key, value in reversed(self) if key == name), None)

    def without_last(self, name: str) -> _Object:
        place = max((place for place, (key, _) in enumerate(self) if key == name), default=-1)
        return _Object(member for at, member in enumerate(self) if at != place)


class _Number(str):
    """As it is spelt: 1.0 is not 1.00."""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _read(body: bytes) -> _Object | None:
    """The object by Python's own reader; None where it is none."""
    try:
        found = json.loads(
            body.decode("utf-8"), object_pairs_hook=_Object, parse_int=_Number, parse_float=_Number,
            parse_constant=_refuse,
        )  # fmt: skip
        json.dumps(found, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, _Object) else None


# --- an answer to connect ---

_SECTION: Final = "restClientConfig"
_CONNECT_WORDS: Final = (
    *(b'"restClientConfig":', b'"OnCallEvent":', b'"call":', b'"restOnError":', b'"restPolicy":', b'"restOverwrite":'),
    *(b'"FAIL"', b'"LOG"', b'"NOTIFY"', b'"OVERWRITE"', b'"callee"', b'"caller, callee"', b'""', b"null", b"{}", b"[]"),
    *(b'{"restClientConfig":', b'{"OnCallEvent":', b'{"restOnError":"LOG"', b'"\\u0072estOnError":', b'"F\\u0041IL"'),
    *(b'"rest\\u0043lientConfig":', b'"a":', b'{"a":[', b'"\\\\"', b'"\\""', b'"}"', b'"{"', b'"\\ud83d\\ude00"'),
    *(b'"\\ud800"', b"1e400", b"-0", b"\r\n\t ", b"}}}", b'"\xc3\xa9"', b"\xff", b"[" * 400, b"]" * 400),
)
_NAMES: Final = (
    (b'"restClientConfig"', b'"rest\\u0043lientConfig"', b'"a"'),
    (b'"OnCallEvent"', b'"\\u004fnCallEvent" ', b'"call"', b'"a"'),
    (b'"restOnError"', b' "restOn\\u0045rror"', b'"restPolicy"', b'"restOverwrite"', b'"a"'),
)
"""Of the members of the answer, of its section, and of what is deeper."""
_OPEN, _CLOSE = 8, 12
"""Bytes whose tens are below the first open an object, those below the second close one."""
_VALUES: Final = (
    *(b'"FAIL"', b'"LOG"', b'"NOTIFY"', b'"OVERWRITE"', b'"callee"', b'"caller, callee"', b'""', b"null", b" { } "),
    *(b"[]", b'"F\\u0041IL"', b"1.50", b'[{"}":"]"}]', b'" "'),
)


def _built(program: bytes) -> bytes:
    """An answer in which each byte adds a member, its name by the byte's ones, its value by what is above them."""
    text, depth, is_first = bytearray(b"{"), 1, True
    for byte in program:
        place, ones = divmod(byte, 10)
        if _OPEN <= place < _CLOSE:
            if depth > 1:
                text += b"}"
                depth, is_first = depth - 1, False
            continue
        names = _NAMES[min(depth, len(_NAMES)) - 1]
        text += (b"" if is_first else b",") + names[ones % len(names)] + b":"
        is_first = place < _OPEN
        depth += is_first
        text += b"{" if is_first else _VALUES[place - _CLOSE]
    return bytes(text + b"}" * depth)


_WANTED: Final[tuple[Mapping[str, Mapping[str, str]], ...]] = (
    {"OnCallEvent": {"restOnError": "FAIL"}},
    {"OnCallEvent": {"restOnError": "FAIL"}, "call": {"restPolicy": "OVERWRITE", "restOverwrite": "caller,sdp"}},
    {"call": {"restPolicy": "NOTIFY", "restOverwrite": "callee"}, "a": {"restOnError": "FAIL", "restPolicy": "NOTIFY"}},
    {"call": {"restPolicy": "NOTIFY", "restOnError": "LOG"}},
    {},
)
_BY_ITSELF: Final = {"restOnError": "LOG", "restPolicy": "NOTIFY", "restOverwrite": ""}
"""What the media server takes a field for that is not there."""


def connect(data: bytes) -> None:
    """What goes out means what came but for the fields wanted, which are as wanted; a second look changes nothing."""
    wanted = _WANTED[data[0] % len(_WANTED)] if data else {}
    body = _built(data[1:]) if data and data[0] >= _FIRST_WORD else spelt_out(data[1:], _CONNECT_WORDS)
    told = examine(body, ClientConfig(Mode.WARN, wanted))
    got = examine(body, ClientConfig(Mode.ENFORCE, wanted))
    assert told.body == body, body
    before = _read(body)
    if before is None:
        assert told.outcome == got.outcome == "unreadable" or body.count(b"[") + body.count(b"{") > _DEEP, (got, body)
        assert got.body == body or got.outcome == "enforced", body
        return
    assert is_json_object(body), body
    assert told.failing == _failing(before), (told, body)
    assert (told.outcome, got.outcome) in {("ok", "ok"), ("missing", "enforced")}, (told, got, body)
    assert (got.outcome == "ok") is (got.body == body), (got, body)
    after = _read(got.body)
    assert after is not None, (got, body)
    assert _rest(after, wanted) == _rest(before, wanted), (got, body)
    assert told.failing <= got.failing == _failing(after), (got, body)
    for method, fields in wanted.items():
        for field, value in fields.items():
            _is_as_wanted(_setting(before, method, field), _setting(after, method, field), field, value)
    again = examine(got.body, ClientConfig(Mode.ENFORCE, wanted))
    assert again == got._replace(outcome="ok"), (again, got, body)
    if before.last(_SECTION) is None and not any(key == _SECTION for key, _ in before):
        _is_inserted(body, got.body)


def _failing(answer: _Object) -> frozenset[str]:
    section = answer.last(_SECTION)
    if not isinstance(section, _Object):
        return frozenset()
    settings = {method: section.last(method) for method, _ in section}
    return frozenset(m for m, it in settings.items() if isinstance(it, _Object) and it.last("restOnError") == "FAIL")


def _setting(answer: _Object, method: str, field: str) -> Any:
    section = answer.last(_SECTION)
    settings = section.last(method) if isinstance(section, _Object) else None
    if isinstance(settings, _Object) and any(key == field for key, _ in settings):
        return settings.last(field)
    return _BY_ITSELF[field]


def _is_as_wanted(before: Any, after: Any, field: str, value: str) -> None:
    if field == "restOverwrite":
        present = _names(before)
        assert _names(after) == [*present, *(name for name in _names(value) if name not in present)], (before, after)
    elif field == "restOnError" and value == "LOG":
        assert after == before, (before, after)
    else:
        assert after == value, (before, after)
        assert not isinstance(after, _Number), after


def _names(value: Any) -> list[str]:
    text = value if isinstance(value, str) and not isinstance(value, _Number) else ""
    return [name.strip() for name in text.split(",") if name.strip()]


def _rest(answer: _Object, wanted: Mapping[str, Mapping[str, str]]) -> _Object:
    """All but the fields wanted, and what holds nothing else."""
    section = answer.last(_SECTION)
    if not isinstance(section, _Object):
        return answer.without_last(_SECTION) if wanted else answer
    for method, fields in wanted.items():
        settings = section.last(method)
        kept = settings if isinstance(settings, _Object) else _Object()
        for field in fields:
            kept = kept.without_last(field)
        section = section.without_last(method)
        if kept:
            section.append((method, kept))
    rest = answer.without_last(_SECTION)
    if section:
        rest.append((_SECTION, section))
    return rest


def _is_inserted(before: bytes, after: bytes) -> None:
    """Every byte that came goes out, with one piece between two of them."""
    same = next((at for at, byte in enumerate(before) if after[at] != byte), len(before))
    assert any(after.endswith(before[at:]) for at in range(same, -1, -1)), (before, after)


# --- an answer that PHP polluted ---

_IDENTIFIERS: Final = {
    "nodeId": "n@192.0.2.1", "appKey": "a", "sessionId": "/203.0.113.7:4/192.0.2.101:8", "callId": "c",
}  # fmt: skip
_FAKE: Final = json.dumps({**_IDENTIFIERS, "restPolicy": "OVERWRITE"}).encode()
_CALL_WORDS: Final = (
    *(_FAKE, b"{", b"}", b"{}", b'"', b"\\", b"\n", b"\r\n", b"\xef\xbb\xbf", b"x in /a.php on line 1\n"),
    *(b"x in <b>/a.php</b> on line <b>1</b><br />\n", b" in /a.php", b" on line 1", b" on line", b"on", b" "),
    *(b"line 1", b"\nNotice: y", b"<br />\n<b>Notice</b>:  y", b"%7B", b"%257d", b"&#123;", b"&rcub;", b"\\u007b"),
    *(b"\\x7d", b"%6Fn", b"&#x06e;", b"\\u0020", b"&#32;", b"%20", b"%0A", b"&#10;", b"\\n", b"&amp;", b"%25"),
    *(b"\xef\xbd\x9b", b"\xe2\x80\xa8", b"\x00", b"&lt;", b"&gt;", b"<br />", b"<b>", b"</b>", b"\\u006c", b"%6"),
)
_FORMS: Final = ("", "", "%{:02X}", "%25{:02x}", "&#{};", "&#x{:04x};", "\\u{:04x}", "%26%23{};")
"""How a caller may write each letter of what only the backend makes plain; the empty one is as it is."""
_PAGES: Final = (
    ("\nNotice: ", " in /a.php on line 12\n"),
    ("<br />\n<b>Warning</b>:  ", " in <b>/a.php</b> on line <b>12</b><br />\n"),
    ("PHP Deprecated:  ", " in /a.php on line 12\n"),
    ("[23-Nov-2026 10:11:47 UTC] PHP Notice:  ", " in /a.php on line 12\n"),
    ("\nFatal error: ", " in /a.php:3\nStack trace:\n#0 {main}\n  thrown in /a.php on line 3\n"),
    ("No such number: ", "\n"),
)
_KEPT: Final = (
    b'\nNotice: x in /a.php on line 1\n{"restPolicy":"OVERWRITE"}\nNotice: y in /a.php on line 2\n',
    b"\nNotice: } in /a.php on line 1\n",
    b"\nNotice: { in /a.php on line 1\n",
)
"""What a backend may quote that is not this hook's."""
_WITH_HOOK: Final = 0x90
"""Bytes from here on are messages that quote the whole hook too, between the two fields."""
_SILENT: Final = 4
"""Pages from here on are none after which PHP goes on."""


def _unescaped(text: str) -> str:
    """Read once more as the inside of a JSON string."""
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text


_QUOTINGS: Final[tuple[Callable[[str], str], ...]] = (
    str, html.escape, html.unescape, unquote, lambda text: unquote(unquote(text)), str.strip, str.lower,
    lambda text: json.dumps(text)[1:-1], lambda text: f"\n{text}\n", lambda text: text[:24],
    lambda text: html.unescape(unquote(text)), _unescaped, lambda text: text * 2,
)  # fmt: skip
"""What a backend may do to a field before it prints it."""


def repair(data: bytes) -> None:
    """Any part of the hook may be quoted: only the backend's own object comes out, and it does where nothing is wrong.

    Up to 0xFF the input is the callee, up to another the caller, each after a byte for how it is written; and each byte
    of the rest is a part of the answer.
    """
    callee, caller, program = [*data.split(b"\xff", 2), b"", b""][:3]
    fields = [_written(callee), _written(caller)]
    hook = json.dumps({**_IDENTIFIERS, "caller": fields[1], "callee": fields[0]}).encode()
    own = json.dumps({**json.loads(hook), "by": "the backend"}).encode()
    parts = [_part(byte, own, hook, fields) for byte in program[:12]]
    body = b"".join(parts)
    found = repair_answer(body, hook)
    if isinstance(found, Repaired):
        assert parts.count(own) == 1, (found, body)
        assert found.body == own, (found, body)
        _is_what_was_around(found, body)
    elif parts.count(own) == 1 and all(field.isalnum() and field.isascii() for field in fields):
        assert is_json_object(body) or not all(_is_clean(byte) for byte in program[:12]), body
    ruling = Judge().judge(Answer(200, (), body), hook, ResponseCheck.REPAIR)
    assert isinstance(ruling, Failure) is (isinstance(found, RepairFailure) and not is_json_object(body)), (
        ruling,
        body,
    )


def _written(data: bytes) -> str:
    """A field of the hook, as its first byte has its text written."""
    text = spelt_out(data[1:], _CALL_WORDS).decode("utf-8", "replace")
    form = _FORMS[data[0] % len(_FORMS)] if data else ""
    return "".join(form.format(ord(letter)) if letter.isascii() else letter for letter in text) if form else text


def _part(byte: int, own: bytes, hook: bytes, fields: list[str]) -> bytes:
    if byte < len(_KEPT) + 4:
        return (own, b"\xef\xbb\xbf", b"\n", b" \t", *_KEPT)[byte]
    quoting = _QUOTINGS[byte // 4 % len(_QUOTINGS)]
    before, after = _PAGES[byte % len(_PAGES)]
    first = byte // 64 % 2
    said = quoting(fields[first])
    if byte >= _WITH_HOOK:
        between = "\n" if byte % 2 else ""
        said = f"{said}{between}{hook.decode()}{between}{quoting(fields[1 - first])}"
    return f"{before}{said}{after}".encode("utf-8", "replace")


def _is_clean(byte: int) -> bool:
    """Whether the part is one that repair promises to cut away, for fields of letters and digits."""
    quoting = byte // 4 % len(_QUOTINGS)
    return byte < 3 or (len(_KEPT) + 4 <= byte < _WITH_HOOK and byte % len(_PAGES) < _SILENT and quoting != 8)


def _is_what_was_around(found: Repaired, body: bytes) -> None:
    before, _, after = body.partition(found.body)
    around = before + b"\n" + after
    assert not set(b"{}") & set(around), (found, body)
    assert found.kinds, found
    assert len(found.cut) <= MAX_CUT
    for line in around.replace(b"\xef\xbb\xbf", b"").split(b"\n"):
        assert line.strip() in (b"", b"<br />") or b" on line " in line, (line, body)


ANSWER_TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {"connect": connect, "repair": repair}
