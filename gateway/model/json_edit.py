"""Changes a JSON text where it has to change, and keeps every other byte.

For texts that have been checked to be JSON: nothing is parsed but the names of one object, so numbers keep their
spelling, doubled names stay, and nesting needs no recursion. If a name is doubled, the last one counts,
as it does for the media server's Java. Pure: bytes in, bytes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec


class Span(NamedTuple):
    """The bytes of a value."""

    start: int
    end: int


class Edit(NamedTuple):
    """The bytes from *start* to *end* make place for *text*."""

    start: int
    end: int
    text: bytes


class Members(NamedTuple):
    """An object's members by name, of each the value that counts: the last."""

    spans: Mapping[str, Span]
    room: int
    """Where a further member can be put in."""

    @classmethod
    def parse_at(cls, text: bytes, start: int) -> Members:
        """Members of the object whose brace is at *start*. Raises ValueError for text that is no JSON."""
        spans: dict[str, Span] = {}
        at = room = start + 1
        while (found := _NAME(text, at)) is not None:
            name = found[1]
            value = found.end()
            at = room = _value_end(text, value)
            spans[_decode(name) if b"\\" in name else name[1:-1].decode()] = Span(value, at)
        return cls(spans, room)

    @classmethod
    def parse(cls, text: bytes) -> Members:
        """Members of a text that is one object. Raises ValueError."""
        return cls.parse_at(text, match_end(_OPENING, text, 0) - 1)

    def insertion(self, added: bytes) -> Edit:
        """The edit that adds these members, given without braces, behind all others."""
        return Edit(self.room, self.room, b"," + added if self.spans else added)


class Fields:
    """Fields to set in an object: names, and values as JSON."""

    __slots__ = ("_added", "_values", "names")

    def __init__(self, values: Mapping[str, str | bool | float]) -> None:
        self.names = tuple(values)
        self._values = {name: encode(value) for name, value in values.items()}
        self._added = {name: encode({name: value})[1:-1] for name, value in values.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self._values == other._values

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return f"Fields({', '.join(f'{name}={value}' for name, value in self.written().items())})"

    def written(self) -> dict[str, str]:
        """Each value as JSON text."""
        return {name: value.decode() for name, value in self._values.items()}

    def values(self) -> dict[str, str | bool | float]:
        """The values themselves."""
        return {name: msgspec.json.decode(value) for name, value in self._values.items()}

    def put_into(self, text: bytes) -> bytes:
        """The object with these fields: replaced if it has them, else added at its end."""
        members = Members.parse(text)
        spans = members.spans
        edits = [Edit(*spans[name], value) for name, value in self._values.items() if name in spans]
        if lacking := [added for name, added in self._added.items() if name not in spans]:
            edits.append(members.insertion(b",".join(lacking)))
        return apply_edits(text, edits)


def apply_edits(text: bytes, edits: Iterable[Edit]) -> bytes:
    """The text with all edits applied; they must not overlap."""
    pieces: list[bytes] = []
    at = 0
    for edit in sorted(edits):
        pieces += (text[at : edit.start], edit.text)
        at = edit.end
    pieces.append(text[at:])
    return b"".join(pieces)


def string_at(text: bytes, span: Span) -> str | None:
    """A string's text; None for any other value."""
    return _decode(text[span.start : span.end]) if text[span.start] == _QUOTE else None


def match_end(pattern: Matcher, text: bytes, at: int) -> int:
    """Where the match of a pattern that must match here ends. Raises ValueError."""
    found = pattern(text, at)
    if found is None:
        raise ValueError(f"byte {at} is not what belongs there")
    return found.end()


def _value_end(text: bytes, start: int) -> int:
    """Where the value that begins at *start* ends: without recursion, for nesting comes from outside."""
    first = text[start]
    if first == _QUOTE:
        return match_end(_STRING, text, start)
    if first not in _OPEN:
        return match_end(_SCALAR, text, start)
    depth, at = 1, start + 1
    while depth:
        at = match_end(_FLAT, text, at)
        depth += 1 if text[at] in _OPEN else -1
        at += 1
    return at


Matcher = Callable[[bytes, int], re.Match[bytes] | None]

BRACE: Final = ord("{")
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
_OPENING: Final = re.compile(rb"[ \t\r\n]*+\{").match
_decode = msgspec.json.Decoder(str).decode
encode: Final = msgspec.json.Encoder().encode
"""A value as JSON."""
