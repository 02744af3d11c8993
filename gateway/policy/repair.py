"""Repairs answers: cuts a 200 that PHP polluted down to the one JSON object that the backend itself wrote.

PHP's messages quote what a caller sent, raw and with its line ends, so the answer alone does not show which object is
the backend's and which is quoted in a message: a caller may give as callee ``x in /a.php on line 1``, an object
and ``Notice: y``. Hence three proofs, all of which must hold:

- *Form*: the whole answer is byte-order marks and whole messages, each on its line, around one object, and there is no
  brace outside that object. So there is never a choice between two.
- *Identity*: the object carries every identifier that the hook carries, with the same value.
- *Origin*: no string in the hook holds a brace or the words in which a message ends, plain, encoded (in a URL, HTML,
  source code or JSON, up to four times over) or with tags or unprintable characters among them. Identifiers are no
  secret (a session's is made of its two addresses, a call's may be chosen by the caller's own telephone), but text
  without these can neither begin an object nor end the message in which it is quoted.

What remains is text that a backend kept from an earlier hook, puts together or decodes in a way of its own, and quotes
in a message of a script that then ends without a word or an answer, for a hook whose identifiers were foreseen.
Time is linear in the bytes of answer and hook.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from gateway.model.hooks import is_json_object

_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = b" \t\r"
_MAX_LINES: Final = 4096
"""Lines before or after the object; an answer with more has worse troubles."""
MAX_CUT: Final = 4096
"""Characters of the text that was cut away that are kept."""

_LABEL: Final = rb"(?:Notice|Warning|Deprecated|Strict Standards)"
"""Messages after which PHP goes on; after any other, an object is not known to be the answer that was meant."""
_TEXT_HEAD: Final = re.compile(
    rb"(?:(?:\[[0-9]{2}-[A-Z][a-z]{2}-[0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} [A-Za-z0-9_/+:-]{1,40}\] )?PHP )?"
    + _LABEL
    + rb": "
)
_HTML_HEAD: Final = re.compile(rb"<b>" + _LABEL + rb"</b>: ")
_BREAK: Final = b"<br />"

_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_TELLING: Final = re.compile(r"[{}]|on[^a-z]{1,8}line")
_MARKS: Final = ("{", "}", "%", "&", "\\", "<", "line")
"""Each text that could pass for a frame has one of them, plain or encoded."""
_ENCODED: Final = re.compile(
    r"%(?:25)*+(?P<url>[0-9a-f]{2})"  # each once or several times over
    r"|&(?:amp;)*+#0*+(?P<decimal>[0-9]{1,6})(?![0-9]);?|&(?:amp;)*+#x0*+(?P<hex>[0-9a-f]{1,5})(?![0-9a-f]);?"
    r"|&(?:amp;)*+(?P<name>lcub|lbrace|rcub|rbrace|lt|gt)(?![a-z]);?"
    r"|(?<!\\)\\++(?:u(?P<json>[0-9a-f]{4})|x(?P<source>[0-9a-f]{2})|(?P<octal>[01][0-7]{2}))"
)
_NAMED: Final = {"lcub": "{", "lbrace": "{", "rcub": "}", "rbrace": "}", "lt": "<", "gt": ">"}
_LAYERS: Final = 4
"""Encodings of encodings that are looked through; no honest hook has more."""
_LOOKALIKES: Final[dict[int, int | str]] = {
    **{0xFF01 + at: 0x21 + at for at in range(94)}, 0x3000: " ", 0xFE5B: "{", 0xFE5C: "}", 0xFE37: "{", 0xFE38: "}",
}  # fmt: skip
"""What becomes one of ASCII where text is made plain: fullwidth, small and vertical forms."""
_NOISE: Final = re.compile(r"[^\n\x20-\x7e]+")
"""What a backend may drop where it wants plain text."""
_TAG: Final = re.compile(r"<[^<>]*+>")


class ResponseCheck(StrEnum):
    """How exactly a 200 must be one JSON object to count as a verdict."""

    STRICT = "strict"
    """Exactly one JSON object, or it is a bad answer."""
    REPAIR = "repair"
    """Byte-order marks and PHP's messages around the backend's own object are cut away first."""
    OFF = "off"
    """Any 200 is an *allow*, with the body as it came."""


class Repaired(NamedTuple):
    """An answer cut down to the backend's object."""

    body: bytes
    """A contiguous part of the answer: one JSON object."""
    kinds: tuple[str, ...]
    """What was cut away: ``bom``, ``before``, ``after``, in this order."""
    cut: str
    """The messages that were cut away, as PHP wrote them: bounded, but neither masked nor escaped."""


class RepairFailure(StrEnum):
    """Why an answer is not repaired: the first proof that failed, in words."""

    FORM = "it is more than whole PHP messages around one object"
    IDENTITY = "its object has not the hook's own identifiers"
    ORIGIN = "a text of the hook itself could have made it"


class _Identifiers(msgspec.Struct, rename="camel"):
    """What says to which hook an answer belongs."""

    node_id: Any = None
    app_key: Any = None
    session_id: Any = None
    call_id: Any = None


_decode_identifiers = msgspec.json.Decoder(_Identifiers).decode
_decode_strings = msgspec.json.Decoder(list[str]).decode


def repair(body: bytes, hook_body: bytes) -> Repaired | RepairFailure:
    """The backend's own object out of a polluted answer to a hook, or why it is not certain which that is."""
    start, end = body.find(b"{"), body.rfind(b"}") + 1
    if not 0 <= start < end:
        return RepairFailure.FORM
    before, own, after = body[:start], body[start:end], body[end:]
    if b"}" in before or b"{" in after:
        return RepairFailure.FORM
    found_before, found_after = _read(before, to_line_start=True), _read(after, to_line_start=False)
    if found_before is None or found_after is None:
        return RepairFailure.FORM
    kinds = _kinds(found_before, found_after)
    if not kinds or not is_json_object(own):
        return RepairFailure.FORM
    if not _has_identifiers(own, hook_body):
        return RepairFailure.IDENTITY
    if not _is_free_of_frames(hook_body):
        return RepairFailure.ORIGIN
    return Repaired(own, kinds, _cut(before, after))


# --- form ---


class _Surroundings(NamedTuple):
    """What was found on one side of the object."""

    bom: bool
    messages: bool


def _read(part: bytes, *, to_line_start: bool) -> _Surroundings | None:
    """Byte-order marks, blank lines and whole messages; None if there is anything else.

    With *to_line_start*, the part must end at the start of a line.
    """
    if part.count(b"\n") > _MAX_LINES:
        return None
    bom = messages = False
    broken = False  # the line before was <br />, with which a message in HTML begins
    line = b""
    for raw in part.split(b"\n"):
        line = raw.lstrip(_BOM + _BLANK)
        margin = raw[: len(raw) - len(line)]
        if margin.replace(_BOM, b"").strip(_BLANK):
            return None  # bytes of a byte-order mark, but no whole one
        bom = bom or _BOM in margin
        line = line.rstrip(_BLANK)
        if broken:
            if not _is_html_message(line):
                return None
            messages, broken = True, False
        elif line == _BREAK:
            broken = True
        elif line:
            if not _is_text_message(line):
                return None
            messages = True
    if broken or (to_line_start and line):
        return None
    return _Surroundings(bom, messages)


def _is_text_message(line: bytes) -> bool:
    head = _TEXT_HEAD.match(line)
    if head is None:
        return False
    place, _, number = line[head.end() - 1 :].rpartition(b" on line ")
    return _is_line_number(number) and _names_file(place, b" in ")


def _is_html_message(line: bytes) -> bool:
    head = _HTML_HEAD.match(line)
    end = b"</b>" + _BREAK
    if head is None or not line.endswith(end):
        return False
    place, _, number = line[head.end() - 1 : -len(end)].rpartition(b"</b> on line <b>")
    return _is_line_number(number) and _names_file(place, b" in <b>")


def _is_line_number(text: bytes) -> bool:
    return len(text) <= 10 and text.isdigit()


def _names_file(place: bytes, introduced: bytes) -> bool:
    _, found, file = place.rpartition(introduced)
    return bool(found and file.strip())


def _kinds(before: _Surroundings, after: _Surroundings) -> tuple[str, ...]:
    present = {"bom": before.bom or after.bom, "before": before.messages, "after": after.messages}
    return tuple(kind for kind, is_there in present.items() if is_there)


# --- identity and origin ---


def _has_identifiers(own: bytes, hook_body: bytes) -> bool:
    """Whether the object carries every identifier that the hook does, a session's or a call's among them."""
    try:
        theirs, wanted = _decode_identifiers(own), _decode_identifiers(hook_body)
    except (msgspec.MsgspecError, RecursionError):
        return False
    for name in wanted.__struct_fields__:
        value, answered = getattr(wanted, name), getattr(theirs, name)
        if value is not None and (type(value) is not type(answered) or value != answered):
            return False
    return any(isinstance(value, str) and value for value in (wanted.session_id, wanted.call_id))


def _is_free_of_frames(hook_body: bytes) -> bool:
    """Whether nothing in the hook's strings and field names could pass for the frame of an answer."""
    try:
        strings = _decode_strings(b"[%b]" % b",".join(_STRING.findall(hook_body)))
    except msgspec.MsgspecError:
        return False
    text = "\n".join(strings).lower().translate(_LOOKALIKES)
    plain = _NOISE.sub("", text)
    if not any(mark in plain for mark in _MARKS):
        return True
    if plain != text:
        text = f"{text}\n{plain}"
    for _ in range(_LAYERS):
        plain = _NOISE.sub("", text)
        if any(map(_TELLING.search, (text, plain, _TAG.sub("", plain)))):
            return False
        encoded, text = text, _ENCODED.sub(_decode_match, text).translate(_LOOKALIKES)
        if text == encoded:
            return True
    return False


def _decode_match(found: re.Match[str]) -> str:
    kind, digits = str(found.lastgroup), found[str(found.lastgroup)]
    if kind == "name":
        return _NAMED[digits]
    return chr(int(digits, {"decimal": 10, "octal": 8}.get(kind, 16))).lower()


# --- what was cut away ---


def _cut(before: bytes, after: bytes) -> str:
    parts = (part[: 4 * MAX_CUT].replace(_BOM, b"").strip() for part in (before, after))
    return b"\n".join(part for part in parts if part).decode("utf-8", "replace")[:MAX_CUT]
