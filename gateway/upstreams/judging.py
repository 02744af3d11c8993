"""What an answer means: a verdict, or the cause why it is none."""

from __future__ import annotations

from typing import Final

from gateway.hooks import is_json_object
from gateway.transport import Answer
from gateway.verdicts import (
    ALLOW_STATUS,
    REJECT_STATUS,
    Cause,
    Failure,
    ProxyError,
    Ruling,
    allowed_by_backend,
    denied_by_backend,
)

DENIED: Final = denied_by_backend()


def judge(answer: Answer, sent: bytes = b"") -> Ruling | Failure:
    """Turn a whole answer to the hook *sent* into a verdict or the cause why it is none."""
    status = answer.status
    if status == ALLOW_STATUS:
        if answer.body == sent and sent:
            return allowed_by_backend(sent)  # the same again is the usual yes, and known to be JSON
        if is_json_object(answer.body):
            return allowed_by_backend(answer.body)
        return _not_an_object(answer)
    if status == REJECT_STATUS:
        return DENIED
    return Failure(Cause.ERROR_STATUS, ProxyError.HTTP_PROTOCOL_ERROR, f"status {status}", status)


def judge_failure(failure: Failure) -> Ruling | Failure:
    """An answer that broke off after its head: where the status is no 200, it has said enough.

    Above all a 403 is the backend's refusal, and stays one though its page was cut short.
    """
    if failure.received_status in (None, ALLOW_STATUS):
        return failure
    return judge(Answer(failure.received_status, (), b""))


def _not_an_object(answer: Answer) -> Failure:
    """Say what a 200 brought in place of a JSON object; its kind, never its text."""
    error = ProxyError.HTTP_PROTOCOL_ERROR
    body = answer.body
    coded = any(name.lower() == b"content-encoding" and value != b"identity" for name, value in answer.headers)
    start = body.lstrip()[:64].lower()
    if not start:
        what = "an empty body"
    elif coded:
        what, error = "a compressed body, unasked", ProxyError.HTTP_RESPONSE_CONTENT_CODING
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
