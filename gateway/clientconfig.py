"""What a backend's answer to connect sets for its session, and the few fields that make a refusal count.

By the REST hooks chapters of the Flashphoner WCS documentation: the answer's top-level ``restClientConfig`` object
says per method what the media server does when a hook of it is refused (``restOnError``: ``LOG``, the default, or
``FAIL``) and what it does with an answer's fields (``restPolicy``). Pure: bytes in, bytes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from gateway.hooks import PLAY_HLS, MethodType


class Mode(StrEnum):
    """What is done about an answer to connect that does not set what is wanted."""

    OFF = "off"
    """Nothing: it is not looked at."""
    WARN = "warn"
    """It is counted and logged."""
    ENFORCE = "enforce"
    """What is missing is added to it."""


DEFAULT_METHODS: Final[Mapping[str, Mapping[str, str]]] = {"OnCallEvent": {"restOnError": "FAIL"}}


class ClientConfig(NamedTuple):
    """What answers to connect are to set, by method."""

    mode: Mode = Mode.WARN
    methods: Mapping[str, Mapping[str, str]] = DEFAULT_METHODS

    @property
    def failing(self) -> frozenset[str]:
        """The methods whose refusals are to stop something."""
        return frozenset(method for method, fields in self.methods.items() if fields.get(_ON_ERROR) == "FAIL")

    def stops(self, method: str) -> bool | None:
        """Whether a refusal of this method stops something whatever the backend says; None = that is the backend's."""
        return True if self.mode is Mode.ENFORCE and method in self.failing else None


class Examined(NamedTuple):
    """What an answer to connect turned out to be."""

    outcome: str
    """``ok``, ``missing``, ``enforced`` or ``unreadable``: one of OUTCOMES."""
    body: bytes
    """The answer for the media server: as it came, or amended."""
    failing: frozenset[str]
    """The methods whose refusals stop something, by this body."""


OUTCOMES: Final = ("ok", "missing", "enforced", "unreadable")
_SECTION: Final = "restClientConfig"
_ON_ERROR: Final = "restOnError"
_DEFAULTS: Final[Mapping[str, str]] = {_ON_ERROR: "LOG", "restPolicy": "NOTIFY"}
"""What the media server takes a field for that is not there; of all others, the empty string."""
_LISTS: Final = frozenset({"restExclude", "clientExclude", "restOverwrite"})
"""Fields that hold names, separated by commas."""


def examined(body: bytes, wanted: ClientConfig) -> Examined:
    """What the answer sets, and under ``enforce`` the answer with the wanted fields added or raised.

    Every byte that need not change stays. Where a name stands twice in an object the last one counts, as it does for
    the media server's Java, and it is the last one that is amended. What is no object where one belongs (``null``, or
    the ``[]`` that PHP makes of an empty array) sets nothing, and is replaced. ``FAIL`` is never lowered to ``LOG``;
    names are added to a list, none taken from it. What is not one JSON object goes out as it came.
    """
    try:
        section = _section_of(body)
        failing = _failing(section)
        if wanted.mode is Mode.OFF:
            return Examined("ok", body, failing)
        if not (edits := _edits(section, wanted.methods)):
            return Examined("ok", body, failing)
        if wanted.mode is Mode.WARN:
            return Examined("missing", body, failing)
        amended = _with(body, _placed(body, section, edits))
    except (IndexError, ValueError, msgspec.MsgspecError):
        return Examined("unreadable", body, frozenset())
    return Examined("enforced", amended, failing | wanted.failing)


def ineffective(kind: MethodType, stops: bool | None, method: str = "") -> bool:
    """Whether a refusal is known to stop nothing that it is meant to stop.

    *stops* is whether the session's connect answer set FAIL for the method; None = not known. A refused connect is
    always declined, as playHLS is, which comes without one; and an event was never to be stopped.
    """
    return stops is False and kind in _STOPPABLE and method != PLAY_HLS


_STOPPABLE: Final = frozenset({MethodType.DIRECT, MethodType.INCOMING})


# --- what is wanted, held against what is there ---


class _Edit(NamedTuple):
    """The bytes from *start* to *end* make place for *text*."""

    start: int
    end: int
    text: bytes


def _edits(section: bytes, methods: _Wanted) -> list[_Edit]:
    """What has to change in the text of the ``restClientConfig`` object; it is empty where there is none."""
    edits: list[_Edit] = []
    if section[:1] == b"{":
        _in_methods(section, _Object.at(section, 0), methods, edits)
    elif missing := _missing(methods):
        edits.append(_Edit(0, len(section), _encode(missing)))
    return edits


def _placed(body: bytes, section: bytes, edits: list[_Edit]) -> list[_Edit]:
    """The edits of the ``restClientConfig`` object as edits of the body."""
    if not section:  # behind all else, so that nothing need be gone through
        brace = body.rindex(b"}")
        before = body[:brace].rstrip()
        text = b'"%b":%b' % (_SECTION.encode(), edits[0].text)
        return [_Edit(len(before), len(before), text if before.lstrip() == b"{" else b"," + text)]
    top = _Object.at(body, _matched(_SPACE, body, 0))
    offset = top.members[_SECTION].start
    return [_Edit(offset + edit.start, offset + edit.end, edit.text) for edit in edits]


def _in_methods(text: bytes, section: _Object, methods: _Wanted, edits: list[_Edit]) -> None:
    missing: dict[str, Mapping[str, str]] = {}
    for method, fields in methods.items():
        span = section.members.get(method)
        if span is not None and text[span.start] == _BRACE:
            _in_fields(text, _Object.at(text, span.start), fields, edits)
        elif needed := _needed(fields):
            if span is None:
                missing[method] = needed
            else:
                edits.append(_Edit(*span, _encode(needed)))
    if missing:
        edits.append(section.insertion(missing))


def _in_fields(text: bytes, settings: _Object, fields: Mapping[str, str], edits: list[_Edit]) -> None:
    missing: dict[str, str] = {}
    for field, value in fields.items():
        span = settings.members.get(field)
        if span is None:
            missing |= _needed({field: value})
        elif (better := _better(field, _text(text, span), value)) is not None:
            edits.append(_Edit(*span, _encode(better)))
    if missing:
        edits.append(settings.insertion(missing))


def _better(field: str, present: str | None, wanted: str) -> str | None:
    """What is to stand in place of the present value; None = it will do."""
    if field == _ON_ERROR:
        return wanted if wanted == "FAIL" and present != "FAIL" else None
    if field in _LISTS and present is not None:
        there = set(_names(present))
        lacking = [name for name in _names(wanted) if name not in there]
        return ",".join([present, *lacking] if there else lacking) if lacking else None
    return None if present == wanted else wanted


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _needed(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields that must be said, for without them the media server takes another value."""
    return {field: value for field, value in fields.items() if value != _DEFAULTS.get(field, "")}


def _missing(methods: _Wanted) -> dict[str, dict[str, str]]:
    return {method: needed for method, fields in methods.items() if (needed := _needed(fields))}


def _failing(section: bytes) -> frozenset[str]:
    failing = []
    if section[:1] == b"{":
        for method, settings in _Object.at(section, 0).members.items():
            if section[settings.start] == _BRACE:
                value = _Object.at(section, settings.start).members.get(_ON_ERROR)
                if value is not None and _text(section, value) == "FAIL":
                    failing.append(method)
    return frozenset(failing)


def _with(body: bytes, edits: list[_Edit]) -> bytes:
    pieces: list[bytes] = []
    at = 0
    for edit in sorted(edits):
        pieces += (body[at : edit.start], edit.text)
        at = edit.end
    pieces.append(body[at:])
    return b"".join(pieces)


# --- where things stand in a JSON text that has been checked ---


class _Span(NamedTuple):
    start: int
    end: int


class _Object(NamedTuple):
    """An object's members by name, of each the value that counts: the last."""

    members: Mapping[str, _Span]
    room: int
    """Where a further member can be put in."""
    empty: bool

    @classmethod
    def at(cls, text: bytes, start: int) -> _Object:
        """The object whose brace stands at *start*."""
        members: dict[str, _Span] = {}
        at = room = start + 1
        while (found := _NAME(text, at)) is not None:
            name = found[1]
            value = found.end()
            at = room = _end_of(text, value)
            members[_decode(name) if b"\\" in name else name[1:-1].decode()] = _Span(value, at)
        return cls(members, room, not members)

    def insertion(self, members: Mapping[str, Mapping[str, str] | Mapping[str, Mapping[str, str]] | str]) -> _Edit:
        """What adds these members behind all others."""
        added = _encode(members)[1:-1]
        return _Edit(self.room, self.room, added if self.empty else b"," + added)


def _section_of(body: bytes) -> bytes:
    """The text of the ``restClientConfig`` that counts; empty where there is none.

    Raises ValueError or MsgspecError for what is not one JSON object. One whose nesting is too deep for the decoder
    counts as one: whoever has taken it so far has read it, and a client must not be able to get past this with a field
    that is nested just deeply enough.
    """
    if not body.isascii():
        body.decode("utf-8")
    try:
        return bytes(_decode_answer(body).section)
    except RecursionError:
        span = _Object.at(body, _matched(_OPENING, body, 0) - 1).members.get(_SECTION)
        return b"" if span is None else body[span.start : span.end]


def _end_of(text: bytes, start: int) -> int:
    """Where the value that begins at *start* ends: without recursion, for nesting comes from outside."""
    first = text[start]
    if first == _QUOTE:
        return _matched(_STRING, text, start)
    if first not in _OPEN:
        return _matched(_SCALAR, text, start)
    depth, at = 1, start + 1
    while depth:
        at = _matched(_FLAT, text, at)
        depth += 1 if text[at] in _OPEN else -1
        at += 1
    return at


def _text(text: bytes, span: _Span) -> str | None:
    """A string's text; None for any other value."""
    return _decode(text[span.start : span.end]) if text[span.start] == _QUOTE else None


def _matched(pattern: _Matcher, text: bytes, at: int) -> int:
    found = pattern(text, at)
    if found is None:
        raise ValueError(f"byte {at} is not what belongs there")
    return found.end()


_Wanted = Mapping[str, Mapping[str, str]]
_Matcher = Callable[[bytes, int], re.Match[bytes] | None]


class _Answer(msgspec.Struct):
    """Any JSON object: checked to its end, and of the one member the last kept."""

    section: msgspec.Raw = msgspec.field(name=_SECTION, default=msgspec.Raw())


_BRACE: Final = ord("{")
_QUOTE: Final = ord('"')
_OPEN: Final = frozenset(b"{[")
# Each of these goes over the text once: possessive, so that no part of it is ever tried a second time.
_QUOTED: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_STRING: Final = re.compile(_QUOTED, re.DOTALL).match
_SCALAR: Final = re.compile(rb"[^\s,\]}]++").match
_PLAIN: Final = rb'(?:[^"\[\]{}]++|' + _QUOTED + rb")"
# Up to the next bracket, past those that hold none themselves.
_FLAT: Final = re.compile(rb"(?:" + _PLAIN + rb"|[\[{]" + _PLAIN + rb"*+[\]}])*+(?=[\[\]{}])", re.DOTALL).match
_NAME: Final = re.compile(rb"[ \t\r\n,]*+(" + _QUOTED + rb")[ \t\r\n]*+:[ \t\r\n]*+", re.DOTALL).match
_SPACE: Final = re.compile(rb"[ \t\r\n]*+").match
_OPENING: Final = re.compile(rb"[ \t\r\n]*+\{").match
_decode = msgspec.json.Decoder(str).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.Encoder().encode
