"""Two answers to one hook, compared: first the verdicts, then, if wanted, their bodies field by field.

Bodies are compared as the JSON values that they are: white space, the order of keys and the spelling of strings and
numbers say nothing (``1``, ``1.0`` and ``1e0`` are one number, to the last digit; ``"1"`` and ``true`` are others), an
array is compared index by index, and of a doubled key the last one counts, as in the media server.

Differences are reported for people and for the journal: limited in number and size, without the values of fields that
look secret, and with phone numbers masked if that is wanted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import islice
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from gateway.model.secret_names import is_secret_name
from gateway.model.text import mask_number, shorten
from gateway.model.verdicts import Verdict

MAX_DIFFERENCES: Final = 20
MAX_SHOWN: Final = 200
"""Characters of a value."""
MAX_PATH: Final = 256
"""Characters of a path."""
MAX_DEPTH: Final = 12
"""Levels that are compared field by field; a difference further down is reported as one."""
MAX_BODY: Final = 64 * 1024
"""Bytes of a body beyond which it is compared byte by byte and not by fields."""

_MAX_KEY: Final = 64
_HIDDEN: Final = "***"
_AROUND: Final = 24
"""Characters that are shown before the place where two long texts begin to differ."""
_MIN_NUMBER: Final = 4
"""Characters of the shortest phone number that is masked in any text; shorter ones would mask half of the text."""

Path = tuple[str | int, ...]


class Compare(StrEnum):
    """How far two answers are compared."""

    VERDICT = "verdict"
    """Yes or no only."""
    BODY = "body"
    """And of two yeses the values of their bodies."""


class Finding(StrEnum):
    """The outcome of a comparison."""

    MATCH = "match"
    VERDICT_DIFFERS = "verdict_differs"
    BODY_DIFFERS = "body_differs"
    CANDIDATE_FAILED = "candidate_failed"
    """Their answer is no verdict."""


class ComparedAnswer(NamedTuple):
    """A backend's answer to a hook, or why there is none."""

    verdict: Verdict | None
    """None if the backend gave none."""
    status: int
    """0 if there was no answer."""
    body: bytes
    error: str
    """Why there is no verdict, for people."""


class Difference(msgspec.Struct, frozen=True, gc=False):
    """One place where two answers differ."""

    path: str
    """``verdict``; or where in the body, as ``restClientConfig.OnCallEvent.restOnError``; the body itself is ``$``."""
    ours: str | None
    """The value as JSON, bounded; None where there is none."""
    theirs: str | None


class Comparison(msgspec.Struct, frozen=True, gc=False):
    """The outcome, and where the answers differ."""

    outcome: Finding
    differences: tuple[Difference, ...] = ()
    more: bool = False
    """Whether there are more differences than are reported."""


_MATCH: Final = Comparison(Finding.MATCH)
_FAILED: Final = Comparison(Finding.CANDIDATE_FAILED)


def compare(
    ours: ComparedAnswer,
    theirs: ComparedAnswer,
    how: Compare,
    ignore: frozenset[str] = frozenset(),
    mask: frozenset[str] = frozenset(),
) -> Comparison:
    """Compare the candidate's answer with ours. Never raises for what an answer holds.

    *ignore*: fields that may differ, by name at any depth or by dotted path without indexes (``calls.id`` is ``id`` in
    each entry of ``calls``). *mask*: fields whose values are phone numbers, hidden but for their last two characters
    in any text. If ours is no verdict, any verdict of theirs differs from it.
    """
    if theirs.verdict is None:
        return _FAILED
    if ours.verdict is not theirs.verdict:
        return Comparison(Finding.VERDICT_DIFFERS, (Difference("verdict", ours.verdict, theirs.verdict),))
    if how is Compare.VERDICT or ours.verdict is not Verdict.ALLOW or ours.body == theirs.body:
        return _MATCH
    try:
        return _compare_bodies(ours.body, theirs.body, ignore, mask)
    except RecursionError:
        return _not_by_fields(_Unread.TOO_DEEP, ours.body, _Unread.TOO_DEEP, theirs.body)


def _compare_bodies(ours: bytes, theirs: bytes, ignore: frozenset[str], mask: frozenset[str]) -> Comparison:
    mine, other = _read(ours), _read(theirs)
    if isinstance(mine, _Unread) or isinstance(other, _Unread):
        return _not_by_fields(mine, ours, other, theirs)
    places = list(islice(_find_differences(mine, other, (), ignore), MAX_DIFFERENCES + 1))
    if not places:
        return _MATCH
    show = _Renderer(mask, mine, other)
    shown = tuple(show.difference(*place) for place in places[:MAX_DIFFERENCES])
    return Comparison(Finding.BODY_DIFFERS, shown, len(places) > MAX_DIFFERENCES)


def _not_by_fields(mine: object, ours: bytes, other: object, theirs: bytes) -> Comparison:
    return Comparison(Finding.BODY_DIFFERS, (Difference("$", _describe(mine, ours), _describe(other, theirs)),))


# --- reading ---


class _Unread(StrEnum):
    """Why a body has no fields to compare."""

    NOT_JSON = "not JSON"
    TOO_LARGE = "too large to be compared by fields"
    TOO_DEEP = "nested too deeply to be compared by fields"


class _Number(tuple[str]):
    """A JSON number: equal, at C's speed, to every other spelling of itself, and to nothing else."""

    __slots__ = ()

    def __new__(cls, text: str) -> _Number:
        plain = len(text) <= _PLAIN and text.isdigit()
        return super().__new__(cls, (text if plain else _normalize(text),))

    @property
    def text(self) -> str:
        """Its one spelling."""
        return self[0]


_parts_of = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?").fullmatch
_PLAIN: Final = 30
"""Digits of a number that is spelt without an exponent."""
_MAX_EXPONENT: Final = 18
"""Digits of an exponent beyond which a number is only equal to its own spelling."""


def _normalize(text: str) -> str:
    """The one spelling that all spellings of a number have in common."""
    parts = _parts_of(text)
    if parts is None:
        return text
    sign, whole, fraction, exponent = parts.groups("")
    if len(exponent) > _MAX_EXPONENT:
        return text
    digits = (whole + fraction).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return "0"
    power = int(exponent or 0) - len(fraction) + len(digits) - len(significant)
    if 0 <= power <= _PLAIN - len(significant):
        return sign + significant + "0" * power
    if 0 < -power <= _PLAIN and len(significant) <= _PLAIN:
        significant = significant.rjust(1 - power, "0")
        return f"{sign}{significant[:power]}.{significant[power:]}"
    return f"{sign}{significant}e{power}"


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_decode: Final = json.JSONDecoder(parse_int=_Number, parse_float=_Number, parse_constant=_reject_constant).decode


def _read(body: bytes) -> Any:
    if len(body) > MAX_BODY:
        return _Unread.TOO_LARGE
    try:
        return _decode(body.decode("utf-8"))
    except ValueError:
        return _Unread.NOT_JSON
    except RecursionError:
        return _Unread.TOO_DEEP


def _describe(read: object, body: bytes) -> str:
    """A body that was not compared by fields, in words: its text may hold anything, secrets too."""
    what = read.value if isinstance(read, _Unread) else "JSON"
    return f"{len(body)} bytes, {what}"


# --- comparing ---


class _Absent:
    """The type of the mark for an absent value; null is a value."""


_ABSENT: Final = _Absent()


def _find_differences(ours: Any, theirs: Any, path: Path, ignore: frozenset[str]) -> Iterator[tuple[Path, Any, Any]]:
    """The places that differ, in an order that does not depend on which side is which."""
    if ours == theirs:  # at C's speed: what is equal is not gone into
        return
    if len(path) < MAX_DEPTH:
        if isinstance(ours, dict) and isinstance(theirs, dict):
            for key in sorted(ours.keys() | theirs.keys()):
                where = (*path, key)
                if not _is_ignored(where, ignore):
                    yield from _find_differences(ours.get(key, _ABSENT), theirs.get(key, _ABSENT), where, ignore)
            return
        if isinstance(ours, list) and isinstance(theirs, list):
            for index in range(max(len(ours), len(theirs))):
                yield from _find_differences(_at(ours, index), _at(theirs, index), (*path, index), ignore)
            return
    yield path, ours, theirs


def _at(values: Sequence[Any], index: int) -> Any:
    return values[index] if index < len(values) else _ABSENT


def _is_ignored(path: Path, ignore: frozenset[str]) -> bool:
    if not ignore:
        return False
    return path[-1] in ignore or ".".join(part for part in path if isinstance(part, str)) in ignore


# --- telling ---


class _Renderer:
    """Renders values as text: shortened, without secrets, with masked numbers."""

    def __init__(self, mask: frozenset[str], *bodies: object) -> None:
        self._mask = frozenset(name.casefold() for name in mask)
        values = [
            _as_text(value)
            for body in bodies
            if self._mask and isinstance(body, dict)
            for key, value in body.items()
            if key.casefold() in self._mask
        ]
        numbers = {value for value in values if len(value) >= _MIN_NUMBER}
        # One after another, the longest first: a pattern of them all takes the square of the time where a caller has
        # made them long and alike, and nothing else runs meanwhile.
        self._numbers = sorted(numbers, key=lambda number: (-len(number), number))

    def difference(self, path: Path, ours: Any, theirs: Any) -> Difference:
        names = [part for part in path if isinstance(part, str)]
        if any(map(_is_hidden, names)):
            mine, other = _hide(ours), _hide(theirs)
        elif not self._mask.isdisjoint(name.casefold() for name in names):
            mine, other = _mask(ours), _mask(theirs)
        elif isinstance(ours, str) and isinstance(theirs, str):
            mine, other = _windows(self._clean(ours), self._clean(theirs))
        else:
            mine, other = self._json(ours), self._json(theirs)
        return Difference(self._path(path), mine, other)

    def _path(self, path: Path) -> str:
        text = ""
        for part in path:
            if isinstance(part, int):
                text += f"[{part}]"
            else:
                name = shorten(self._clean(part), _MAX_KEY) or '""'
                text += f".{name}" if text else name
        return _without_surrogates(shorten(text, MAX_PATH)) or "$"

    def _json(self, value: Any) -> str | None:
        """A value as JSON; no more of it is looked at than is shown."""
        if value is _ABSENT:
            return None
        text = ""
        for piece in self._pieces(value, MAX_DEPTH):
            text += piece
            if len(text) > MAX_SHOWN:
                break
        return _without_surrogates(shorten(text, MAX_SHOWN))

    def _pieces(self, value: Any, depth: int) -> Iterator[str]:
        if isinstance(value, dict):
            yield "{"
            for number, (key, inner) in enumerate(value.items()):
                yield f"{',' if number else ''}{_quote(self._clean(key))}:"
                if not depth or _is_hidden(key):
                    yield _HIDDEN
                elif key.casefold() in self._mask:
                    yield _mask(inner) or ""
                else:
                    yield from self._pieces(inner, depth - 1)
            yield "}"
        elif isinstance(value, list):
            yield "["
            for index, inner in enumerate(value):
                yield "," if index else ""
                yield from self._pieces(inner, depth - 1) if depth else (_HIDDEN,)
            yield "]"
        elif isinstance(value, _Number):
            yield self._clean(value.text)
        elif isinstance(value, str):
            yield _quote(self._clean(value))
        else:
            yield _CONSTANTS[value]

    def _clean(self, text: str) -> str:
        """The same without the phone numbers that the bodies say they are about."""
        for number in self._numbers:
            if number in text:
                text = text.replace(number, mask_number(number))
        return text


_CONSTANTS: Final = {None: "null", True: "true", False: "false"}


def _as_text(value: object) -> str:
    if isinstance(value, _Number):
        return value.text
    return value if isinstance(value, str) else ""


def _is_hidden(name: str) -> bool:
    """Whether a field's value is never shown; an SDP contains the keys of the call's media."""
    lower = name.lower()
    return is_secret_name(name) or lower.startswith("sdp") or lower.endswith("sdp")


def _hide(value: object) -> str | None:
    return None if value is _ABSENT else _HIDDEN


def _mask(value: object) -> str | None:
    """What a field holds whose value is a phone number: its last two characters."""
    if value is None:
        return "null"
    text = _as_text(value)
    return _without_surrogates(_windows(mask_number(text), "")[0]) if text else _hide(value)


def _windows(ours: str, theirs: str) -> tuple[str, str]:
    """Two texts as JSON: whole, or that part of them where they begin to differ."""
    whole = max(len(ours), len(theirs)) <= MAX_SHOWN - 2
    begin = 0 if whole else max(0, _common_prefix(ours, theirs) - _AROUND)
    return _window(ours, begin), _window(theirs, begin)


def _window(text: str, begin: int) -> str:
    end = begin + MAX_SHOWN // 2
    shown = text if not begin and len(text) <= MAX_SHOWN - 2 else text[begin:end]
    before, after = "…" if begin else "", "…" if len(text) > begin + len(shown) else ""
    return _without_surrogates(shorten(_quote(f"{before}{shown}{after}"), MAX_SHOWN))


def _common_prefix(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _quote(text: str) -> str:
    return json.dumps(text[: MAX_SHOWN + 1], ensure_ascii=False)


def _without_surrogates(text: str) -> str:
    """Without halves of surrogate pairs, which no UTF-8 can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")
