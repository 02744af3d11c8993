"""What an answer means: a verdict, or the cause why it is none."""

from __future__ import annotations

import html
import re
from functools import lru_cache
from typing import Final
from urllib.parse import quote

import msgspec

from gateway.http.client import Answer
from gateway.model.hooks import BadHookError, field_text, is_json_object, parse_hook
from gateway.model.text import mask_number, printable
from gateway.model.verdicts import (
    ALLOW_STATUS,
    REJECT_STATUS,
    Annotations,
    Cause,
    Failure,
    ProxyError,
    Ruling,
    backend_allow,
    backend_reject,
)
from gateway.policy.event_answers import EventCheck, decompress, reports_fatal
from gateway.policy.repair import RepairFailure, ResponseCheck, repair

DENIED: Final = backend_reject()

_CODED: Final = "a compressed body, unasked"
_MAX_CUT: Final = 2000
"""Characters of what was cut from an answer that are kept for whoever mends the PHP."""
_MAX_NUMBER: Final = 256
"""Characters of a caller or callee that are looked for there."""
_MAX_RUNS: Final = 8
_MIN_DIGITS: Final = 5
"""Fewer digits in a row tell nobody's number."""
_OWN_DIGITS: Final = 7
"""Last digits in which two spellings of one number agree, whatever the prefixes before them."""
_DIGITS: Final = re.compile(r"[0-9]{5,}")
_GROUPED: Final = re.compile(r"[0-9](?:[ ()/.-]{0,2}[0-9]){4,}+")
"""Five digits and more, as people group them."""
_NO_DIGIT: Final = re.compile(r"[^0-9]+")
_SCHEME: Final = re.compile(r"^(?:sips?|tel):", re.IGNORECASE)


Check = ResponseCheck | EventCheck
"""What an answer must be; the second kind is for events that count as delivered with any answer."""


class Judge:
    """Turns answers into verdicts or failures. Remembers the last 200 in a backend's own words, since many backends
    answer every hook alike: it is not parsed again, and all who keep the ruling keep the same one."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = backend_allow(b"{}")

    def judge(self, answer: Answer, sent: bytes = b"", check: Check = ResponseCheck.STRICT) -> Ruling | Failure:
        """The verdict that a whole answer to the hook *sent* is, or the failure.

        *check* says what a 2xx must be; it matters only where that is not a 200 with one JSON object.
        """
        status, body = answer.status, answer.body
        if status == ALLOW_STATUS:
            if body == sent and sent:
                return backend_allow(sent)  # the usual allow echoes the hook, which is known to be JSON
            if body == self._last.body:
                return self._last
            if is_json_object(body):
                self._last = ruling = backend_allow(body)
                return ruling
            return _not_an_object(answer) if check is ResponseCheck.STRICT else _judge_leniently(answer, sent, check)
        if status == REJECT_STATUS:
            return DENIED
        if 200 < status < 300 and isinstance(check, EventCheck):
            return _judge_delivery(answer, sent)
        return Failure(Cause.ERROR_STATUS, ProxyError.HTTP_PROTOCOL_ERROR, f"status {status}", status)

    def judge_failure(self, failure: Failure, check: Check = ResponseCheck.STRICT) -> Ruling | Failure:
        """The verdict of an answer that broke off after its head: any status but 200 says enough.

        Above all a 403 is the backend's rejection, and stays one though its page was cut short. Where any 2xx would do,
        one that is cut short does not: what is missing may be the message that the script died with.
        """
        status = failure.received_status
        if status is None or status == ALLOW_STATUS or (status < 300 and isinstance(check, EventCheck)):
            return failure
        return self.judge(Answer(status, (), b""))


def _judge_leniently(answer: Answer, sent: bytes, check: Check) -> Ruling | Failure:
    """Judge a 200 that is not one JSON object where that may be well all the same."""
    if check is ResponseCheck.OFF:
        return _coded_failure() if _is_coded(answer) else backend_allow(answer.body)
    if check is EventCheck.ANY:
        return _judge_delivery(answer, sent)
    repaired = repair(answer.body, sent)
    if isinstance(repaired, RepairFailure):
        if check is EventCheck.REPAIR:
            return _judge_delivery(answer, sent)
        failure = _not_an_object(answer)
        return failure._replace(detail=f"{failure.detail}; not repaired: {repaired}")
    ruling = backend_allow(repaired.body)
    return ruling.annotate(repaired="+".join(repaired.kinds), cut=_readable_cut(repaired.cut, sent))


def _judge_delivery(answer: Answer, sent: bytes) -> Ruling | Failure:
    """A 2xx to an event: it was delivered, unless PHP says there that its script died.

    One JSON object goes out as it came, with any status; in place of anything else the hook's own body does.
    """
    status, body = answer.status, answer.body
    if is_json_object(body):
        return backend_allow(body)
    coding = next((value for name, value in answer.headers if name.lower() == b"content-encoding"), b"")
    if reports_fatal(decompress(body, coding) if coding else body):
        what = f"status {status} with PHP's report of a fatal error: the event may not have been recorded"
        return Failure(Cause.BAD_ANSWER, ProxyError.HTTP_PROTOCOL_ERROR, what, status)
    ruling = backend_allow(sent)
    return msgspec.structs.replace(ruling, annotations=_substitution(status, empty=not body.strip()))


@lru_cache(256)
def _substitution(status: int, *, empty: bool) -> Annotations:
    if status != ALLOW_STATUS:
        return Annotations(substituted=f"status {status}")
    return Annotations(substituted="an empty body" if empty else "a body that is not one JSON object")


def _readable_cut(cut: str, sent: bytes) -> str:
    """What was cut away, without the call's phone numbers and without what could play tricks on a terminal."""
    try:
        hook = parse_hook(sent)
    except BadHookError:
        return ""
    for raw in (hook.caller, hook.callee):
        number = (field_text(raw, _MAX_NUMBER) or "").removesuffix("…")
        user = _SCHEME.sub("", number).partition("@")[0]
        for form in (number, html.escape(number), *_DIGITS.findall(number)[:_MAX_RUNS]):
            cut = _mask_in(cut, form)
        cut = _mask_spellings(cut, _NO_DIGIT.sub("", user))
        for form in (quote(number, safe=""), user):
            cut = cut if len(form) < _MIN_DIGITS else _mask_in(cut, form)
    return printable(cut, keep="\n")[:_MAX_CUT]


def _mask_spellings(text: str, digits: str) -> str:
    """The text without a number of these digits, however it is grouped, and with whatever prefix or none."""

    def shown(found: re.Match[str]) -> str:
        there = _NO_DIGIT.sub("", found[0])
        last = min(len(there), len(digits), _OWN_DIGITS)
        return mask_number(found[0]) if there[-last:] == digits[-last:] else found[0]

    return text if len(digits) < _MIN_DIGITS else _GROUPED.sub(shown, text)


def _mask_in(text: str, number: str) -> str:
    """The text with a number masked as in the log; a short one only where it stands by itself."""
    if len(number) >= 5:
        return text.replace(number, mask_number(number))
    return re.sub(rf"(?<!\w){re.escape(number)}(?!\w)", mask_number(number), text) if number else text


def _is_coded(answer: Answer) -> bool:
    """Whether the body has a content coding, of which the media server would not hear (RFC 9110, section 8.4)."""
    return any(
        coding.strip().lower() not in (b"", b"identity")
        for name, value in answer.headers
        if name.lower() == b"content-encoding"
        for coding in value.split(b",")
    )


def _coded_failure() -> Failure:
    """Taken as it comes, it would reach the media server without its Content-Encoding: as noise."""
    detail = f"status 200 with {_CODED}: response_check: off passes no body that its receiver could not read"
    return Failure(Cause.BAD_ANSWER, ProxyError.HTTP_RESPONSE_CONTENT_CODING, detail, ALLOW_STATUS)


def _not_an_object(answer: Answer) -> Failure:
    """Say what a 200 brought in place of a JSON object; its kind, never its text."""
    error = ProxyError.HTTP_PROTOCOL_ERROR
    body = answer.body
    start = body.lstrip()[:64].lower()
    if not start:
        what = "an empty body"
    elif _is_coded(answer):
        what, error = _CODED, ProxyError.HTTP_RESPONSE_CONTENT_CODING
    elif body.startswith(b"\xef\xbb\xbf"):
        what = "a byte-order mark before the JSON"
    elif start.startswith((b"<!doctype", b"<html")):
        what = "an HTML page"
    elif b"<b>" in start or start.startswith((b"notice", b"warning", b"deprecated", b"fatal error", b"php ")):
        what = "a PHP message"
    elif start.startswith(b"{"):
        what = "JSON that is broken, or followed by something else"
    else:
        what = "something else"
    return Failure(Cause.BAD_ANSWER, error, f"status 200 with {what} in place of one JSON object", 200)
