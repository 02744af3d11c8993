"""What a backend's answer to connect sets for its session, and the few fields that make a rejection stop a call.

By the REST hooks chapters of the Flashphoner WCS documentation: the answer's top-level ``restClientConfig`` object
says per method what the media server does when a hook of it is rejected (``restOnError``: ``LOG``, the default, or
``FAIL``), what it does with an answer's fields (``restPolicy``; with ``OVERWRITE`` it takes those that
``restOverwrite`` lists), and what it leaves out of the hook (``restExclude``) and of what the client gets
(``clientExclude``). Pure: bytes in, bytes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from gateway.model.hooks import PLAY_HLS, MethodType
from gateway.model.json_edit import BRACE, Edit, Members, apply_edits, encode, string_at


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
    """What answers to connect should set, by method."""

    mode: Mode = Mode.WARN
    methods: Mapping[str, Mapping[str, str]] = DEFAULT_METHODS

    @property
    def failing(self) -> frozenset[str]:
        """The methods whose rejections should stop something."""
        return frozenset(method for method, fields in self.methods.items() if fields.get(_ON_ERROR) == "FAIL")

    def stops(self, method: str) -> bool | None:
        """Whether a rejection of this method always stops something; None = that depends on the backend's answer."""
        return True if self.mode is Mode.ENFORCE and method in self.failing else None


class Examined(NamedTuple):
    """What an answer to connect turned out to be."""

    outcome: str
    """``ok``, ``missing``, ``enforced`` or ``unreadable``: one of OUTCOMES."""
    body: bytes
    """The answer for the media server: as it came, or amended."""
    failing: frozenset[str]
    """The methods whose rejections stop something, by this body."""


class MethodSettings(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What an answer to connect set for one method of its session; what it does not set has the default."""

    fails: bool = False
    """Whether a rejection stops something: ``restOnError: FAIL``."""
    policy: str = "NOTIFY"
    """``NOTIFY``, ``OVERWRITE`` or ``DISABLE``."""
    overwrite: tuple[str, ...] = ()
    """``restOverwrite``: the fields that an answer may change, where the policy is ``OVERWRITE``."""
    exclude: tuple[str, ...] = ()
    """``restExclude``: the fields that the hooks lack."""
    client_exclude: tuple[str, ...] = ()
    """``clientExclude``: the fields that the client does not get."""

    def overwrites(self, field: str) -> bool:
        """Whether the media server takes this field from an answer."""
        return self.policy == "OVERWRITE" and field in self.overwrite and field not in FIXED


SessionSettings = Mapping[str, MethodSettings]
"""By method; a method that is not there has every default."""
FIXED: Final = frozenset({"nodeId", "sessionId", "appKey"})
"""Fields that the media server never takes from an answer."""
OUTCOMES: Final = ("ok", "missing", "enforced", "unreadable")
_SECTION: Final = "restClientConfig"
_ON_ERROR: Final = "restOnError"
_DEFAULTS: Final[Mapping[str, str]] = {_ON_ERROR: "LOG", "restPolicy": "NOTIFY"}
"""What the media server takes a field for that is not there; of all others, the empty string."""
_LISTS: Final = frozenset({"restExclude", "clientExclude", "restOverwrite"})
"""Fields that hold names, separated by commas."""


def examine(body: bytes, wanted: ClientConfig) -> Examined:
    """What the answer sets, and under ``enforce`` the answer with the wanted fields added or raised.

    Every byte that need not change stays. Of a doubled name in an object the last one counts, as it does for the media
    server's Java, and the last one is amended. A value that should be an object but is none (``null``, or
    the ``[]`` that PHP makes of an empty array) sets nothing, and is replaced. ``FAIL`` is never lowered to ``LOG``;
    names are added to a list, none taken from it. What is not one JSON object goes out as it came.
    """
    try:
        section = _find_section(body)
        failing = _failing(section)
        if wanted.mode is Mode.OFF:
            return Examined("ok", body, failing)
        if not (edits := _edits(section, wanted.methods)):
            return Examined("ok", body, failing)
        if wanted.mode is Mode.WARN:
            return Examined("missing", body, failing)
        amended = apply_edits(body, _place_edits(body, section, edits))
    except (IndexError, ValueError, msgspec.MsgspecError):
        return Examined("unreadable", body, frozenset())
    return Examined("enforced", amended, failing | wanted.failing)


def session_settings(body: bytes) -> SessionSettings:
    """All that an answer to connect sets for its session's methods; nothing where it cannot be read."""
    try:
        return _settings(_find_section(body))
    except (IndexError, ValueError, msgspec.MsgspecError):
        return {}


def pack_settings(settings: SessionSettings) -> bytes:
    """The settings as text: the same for the same settings, however the answers spelt them."""
    return encode({method: settings[method] for method in sorted(settings)})


def unpack_settings(text: bytes) -> SessionSettings:
    """What ``packed`` made a text of. Raises MsgspecError."""
    return _decode_settings(text)


def excluded_fields(
    settings: SessionSettings, reads: Callable[[str, str], bool], label: Callable[[str], str]
) -> tuple[str, ...]:
    """Fields that the hooks lack but the gateway needs, as ``METHOD.FIELD``, or ``METHOD.*`` if no hooks will come.

    It needs the ids of session and app, and what the app's rules read: *reads* says so by field and method. *label*
    gives a method's name as it may be shown.
    """
    found: dict[str, None] = {}
    for method, each in settings.items():
        if each.policy == "DISABLE" and any(reads(field, method) for field in _READ):
            found[f"{label(method)}.*"] = None
        for field in each.exclude:
            if field in FIXED or (field in _READ and reads(field, method)):
                found[f"{label(method)}.{field}"] = None
    return tuple(found)


def ignored_fields(kind: MethodType, settings: MethodSettings | None, changed: Iterable[str]) -> tuple[str, ...]:
    """Of the fields that an answer changes, those that the media server is known not to take.

    *settings* are the session's for the method; None = not known. The answer to an event is only a receipt, and that
    to connect comes before the session has settings.
    """
    if settings is None or kind not in _STOPPABLE:
        return ()
    return tuple(field for field in changed if not settings.overwrites(field))


def ineffective(kind: MethodType, stops: bool | None, method: str = "") -> bool:
    """Whether a rejection is known to stop nothing that it should stop.

    *stops* is whether the session's connect answer set FAIL for the method; None = not known. A refused connect is
    always declined, as playHLS is, which comes without one; and an event was never to be stopped.
    """
    return stops is False and kind in _STOPPABLE and method != PLAY_HLS


_READ: Final = frozenset({"caller", "callee"})
"""The fields that rules read."""
_STOPPABLE: Final = frozenset({MethodType.DIRECT, MethodType.INCOMING})


# --- what is wanted, held against what is there ---


def _edits(section: bytes, methods: _Wanted) -> list[Edit]:
    """What has to change in the text of the ``restClientConfig`` object; it is empty where there is none."""
    edits: list[Edit] = []
    if section[:1] == b"{":
        _edit_methods(section, Members.parse_at(section, 0), methods, edits)
    elif missing := _missing_methods(methods):
        edits.append(Edit(0, len(section), encode(missing)))
    return edits


def _place_edits(body: bytes, section: bytes, edits: list[Edit]) -> list[Edit]:
    """The edits of the ``restClientConfig`` object as edits of the body."""
    if not section:  # behind all else, so that nothing need be gone through
        brace = body.rindex(b"}")
        before = body[:brace].rstrip()
        text = b'"%b":%b' % (_SECTION.encode(), edits[0].text)
        return [Edit(len(before), len(before), text if before.lstrip() == b"{" else b"," + text)]
    top = Members.parse(body)
    offset = top.spans[_SECTION].start
    return [Edit(offset + edit.start, offset + edit.end, edit.text) for edit in edits]


def _edit_methods(text: bytes, section: Members, methods: _Wanted, edits: list[Edit]) -> None:
    missing: dict[str, Mapping[str, str]] = {}
    for method, fields in methods.items():
        span = section.spans.get(method)
        if span is not None and text[span.start] == BRACE:
            _edit_fields(text, Members.parse_at(text, span.start), fields, edits)
        elif needed := _non_default(fields):
            if span is None:
                missing[method] = needed
            else:
                edits.append(Edit(*span, encode(needed)))
    if missing:
        edits.append(section.insertion(encode(missing)[1:-1]))


def _edit_fields(text: bytes, settings: Members, fields: Mapping[str, str], edits: list[Edit]) -> None:
    missing: dict[str, str] = {}
    for field, value in fields.items():
        span = settings.spans.get(field)
        if span is None:
            missing |= _non_default({field: value})
        elif (better := _improved_value(field, string_at(text, span), value)) is not None:
            edits.append(Edit(*span, encode(better)))
    if missing:
        edits.append(settings.insertion(encode(missing)[1:-1]))


def _improved_value(field: str, present: str | None, wanted: str) -> str | None:
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


def _non_default(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields that must be said, for without them the media server takes another value."""
    return {field: value for field, value in fields.items() if value != _DEFAULTS.get(field, "")}


def _missing_methods(methods: _Wanted) -> dict[str, dict[str, str]]:
    return {method: needed for method, fields in methods.items() if (needed := _non_default(fields))}


def _failing(section: bytes) -> frozenset[str]:
    return frozenset(method for method, settings in _settings(section).items() if settings.fails)


def _settings(section: bytes) -> SessionSettings:
    """What a ``restClientConfig`` sets; an app's sessions mostly have the same one, so that is read once."""
    return _read_cached(section) if len(section) <= _SHORT else _read(section)


def _read(section: bytes) -> SessionSettings:
    found: dict[str, MethodSettings] = {}
    if section[:1] == b"{":
        for method, span in Members.parse_at(section, 0).spans.items():
            if section[span.start] == BRACE and (settings := _settings_at(section, span.start)) != _UNSET:
                found[method] = settings
    return found


def _settings_at(text: bytes, start: int) -> MethodSettings:
    spans = Members.parse_at(text, start).spans
    fields = {name: string_at(text, spans[name]) or "" for name in _FIELDS if name in spans}
    policy = fields.get("restPolicy", "")
    return MethodSettings(
        fails=fields.get(_ON_ERROR) == "FAIL",
        policy=policy if policy in _POLICIES else "NOTIFY",
        overwrite=_names_in(fields, "restOverwrite"),
        exclude=_names_in(fields, "restExclude"),
        client_exclude=_names_in(fields, "clientExclude"),
    )


def _names_in(fields: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(sorted(set(_names(fields.get(name, "")))))


# --- its text ---


def _find_section(body: bytes) -> bytes:
    """The text of the ``restClientConfig`` that counts; empty where there is none.

    Raises ValueError or MsgspecError for what is not one JSON object. One whose nesting is too deep for the decoder
    counts as one: it has been read as an answer before, and a client must not bypass this with a field that is
    nested just deeply enough.
    """
    if not body.isascii():
        body.decode("utf-8")
    try:
        return bytes(_decode_answer(body).section)
    except RecursionError:
        span = Members.parse(body).spans.get(_SECTION)
        return b"" if span is None else body[span.start : span.end]


_Wanted = Mapping[str, Mapping[str, str]]


class _Answer(msgspec.Struct):
    """Any JSON object: checked to its end, and of the one member the last kept."""

    section: msgspec.Raw = msgspec.field(name=_SECTION, default=msgspec.Raw())


_FIELDS: Final = (_ON_ERROR, "restPolicy", *sorted(_LISTS))
_SHORT: Final = 8192
"""Bytes of the longest section that is remembered."""
_read_cached = lru_cache(64)(_read)
_UNSET: Final = MethodSettings()
_POLICIES: Final = frozenset({"OVERWRITE", "DISABLE"})
_decode_settings = msgspec.json.Decoder(dict[str, MethodSettings]).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
