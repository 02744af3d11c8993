"""When an event counts as delivered: any 2xx, unless PHP reports in it that its script died.

A backend that only receives an event may answer anything (``event_answers: any``): nothing, ``OK``, 201 or 204. But a
script that ended in a fatal error has recorded nothing, with any status. PHP writes such
a message at the start of a line, as text, in HTML or as in its log; Xdebug makes a table of it; a script's own handler
prints the exception. After warnings, notices and deprecations PHP goes on: they are passed over, with what they quote.

Time is linear in the bytes of the answer.
"""

from __future__ import annotations

import re
import zlib
from enum import StrEnum
from typing import Any, Final

import msgspec


class EventAnswers(StrEnum):
    """Which answers to an event mean that it was delivered."""

    ANY = "any"
    """Any 2xx with any body."""
    STRICT = "strict"
    """What is an *allow* of any other method: 200 with one JSON object."""


class EventCheck(StrEnum):
    """What an answer to an event must be under ``any``, by what ``response_check`` says; no word is one of its own."""

    ANY = "event"
    """One JSON object is passed on with any 2xx; anything else is replaced by the hook's own body."""
    REPAIR = "event, repair"
    """The same, but of a 200 that PHP's notices polluted the object goes on."""


_MARKS: Final = (
    b"atal error", b"arse error", b"Uncaught", b"tack trace:", b"xdebug-error", b"SQLSTATE[", b"PDOException",
    b"mysqli_sql_exception", b"ERROR:  ", b"FATAL:  ", b"PANIC:  ",
)  # fmt: skip
"""One of them is in every report; to look for these first is many times quicker."""
_AT_LINE: Final = rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n>]|\bPHP )[ \t]*+(?:<b>)?"
"""What precedes a message's label: the start of a line, an HTML tag, or the prefix of PHP's log."""
_FATAL: Final = re.compile(
    _AT_LINE + rb"(?:Fatal|Parse|Catchable fatal|Recoverable fatal) error(?:</b>)?[ \t]*+:"
    rb"|xdebug-error xe-(?:fatal-error|parse-error|uncaught-exception)"
).search
_MILD_OR_END: Final = re.compile(
    _AT_LINE + rb"(?P<mild>Notice|Warning|Deprecated|Strict Standards)(?:</b>)?[ \t]*+:"
    rb"|(?P<end>\bon line (?:<[bi]>)?[0-9]++(?=\s*+(?:<|\Z)|[ \t]*+[\r\n]))"
)
_EXCEPTION: Final = re.compile(
    rb"\bUncaught (?:exception '|(?:PHP Exception )?[A-Za-z_\\][A-Za-z0-9_\\]*+(?::| in ))"
    rb"|\b(?:PDOException|mysqli_sql_exception)\b"
    rb"|\b[Ss]tack trace:\s*+(?:<br ?/?>\s*+)?#0 "
    rb"|\bSQLSTATE\[(?!0[0-2])"  # 00, 01 and 02 are no errors (ISO 9075)
    rb"|\b(?:ERROR|FATAL|PANIC):  \S"  # as PostgreSQL writes it
).search
_MESSAGE_REST: Final = re.compile(rb"<br ?/?>|</?[bi]>|(?m:^\[[0-9]{2}-[A-Z][a-z]{2}-[^\]\n]{1,60}\][ \t]*+$)")
"""What is left of messages that were cut out: tags around them, and the time of PHP's log."""
_MAX_PLAIN: Final = 256 * 1024
"""Bytes of a compressed answer that are looked at."""


def reports_fatal(body: bytes) -> bool:
    """Whether PHP, or a handler of the script's own, says in this text that the script died.

    A text that is JSON without the messages after which PHP went on is the script's own, even if it quotes such a
    message.
    """
    if not any(mark in body for mark in _MARKS) or _is_json(body):
        return False
    rest = _drop_mild(body)
    if len(rest) < len(body) and _is_json(_MESSAGE_REST.sub(b"", rest)):
        return False
    return _FATAL(body) is not None or _EXCEPTION(rest) is not None


def decompress(body: bytes, coding: bytes) -> bytes:
    """A body without its content coding, bounded, to be looked at; as it is where that cannot be undone."""
    if coding.strip().lower() not in (b"gzip", b"x-gzip", b"deflate"):
        return body
    for bits in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):  # with the head of gzip or zlib, or without any
        try:
            return zlib.decompressobj(bits).decompress(body, _MAX_PLAIN)
        except zlib.error:
            continue
    return body


def _is_json(body: bytes) -> bool:
    try:
        _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


_decode: Final = msgspec.json.Decoder(Any).decode


def _drop_mild(body: bytes) -> bytes:
    """The text without messages after which PHP went on, each up to the line number in which it ends."""
    kept: list[bytes] = []
    at, since = 0, -1
    for found in _MILD_OR_END.finditer(body):
        if found["mild"] is not None:
            if since < 0:
                since = found.start()
        elif since >= 0:
            kept.append(body[at:since])
            at, since = found.end(), -1
    if since >= 0:  # a warning of somebody else's: it ends with its line
        kept.append(body[at:since])
        at = body.find(b"\n", since + 1)
        at = len(body) if at < 0 else at
    kept.append(body[at:])
    return b"\n".join(kept)
