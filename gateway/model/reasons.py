"""What each reason of a decision means, in words for people: the one home of these texts.

The console cannot import Python: its ``words.js`` repeats labels and short texts, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from gateway.model.verdicts import Cause, Reason


class ReasonText(NamedTuple):
    """What one reason means."""

    label: str
    """A word or two, for lists."""
    short: str
    """A line, for tables and tooltips."""
    detail: str
    """A clause with everything that can lead to it, in Markdown, for the reference."""


REASON_TEXTS: Final[Mapping[Reason, ReasonText]] = {
    Reason.OK: ReasonText(
        "allowed",
        "",
        "the backend, a rule, an app with `static: allow`, or the original of a duplicate allowed it",
    ),
    Reason.DENIED: ReasonText(
        "denied",
        "",
        "the backend, a rule, an app with `static: reject`, or the original of a duplicate rejected it",
    ),
    Reason.TIMEOUT: ReasonText(
        "timeout",
        "no complete answer within the budget",
        "the backend gave no complete answer within the budget",
    ),
    Reason.UNREACHABLE: ReasonText(
        "unreachable",
        "connection refused or reset, DNS or TLS failed, or every target is ejected",
        "the backend refused, reset or closed the connection without an answer; its name was not resolved; TLS failed; "
        "or every target is ejected (those of each `failover` too)",
    ),
    Reason.OVERLOAD: ReasonText(
        "overload",
        "a limit of the gateway was reached",
        "the backend was not contacted, because `max_in_flight` or `rate_limit` was reached, or `max_connections` was "
        "reached and the queue is too long",
    ),
    Reason.BAD_ANSWER: ReasonText(
        "bad answer",
        "a 200 that is not one JSON object, is cut short or is too large",
        "the backend answered `200` with anything but one JSON object (a PHP notice before it, a byte-order mark, "
        "HTML, nothing) that `response_check: repair` could not repair; or its answer was cut short, malformed or too "
        "large; or it answered an event with any `2xx` and PHP's report of a fatal error",
    ),
    Reason.ERROR_STATUS: ReasonText(
        "error status",
        "the backend answered neither 200 nor 403",
        "the backend answered with any other status: redirects, `204`, `500` …",
    ),
    Reason.BACKLOG: ReasonText(
        "backlog",
        "an earlier event of the same call is kept; this one is delivered after it",
        "earlier events of the same call (or stream, or session) wait in the spool: this one was not tried, but kept, "
        "and is delivered after them",
    ),
    Reason.UNKNOWN_APP: ReasonText(
        "unknown app", "no app of this name is configured", "no app in the configuration serves the hook's `appKey`"
    ),
    Reason.BAD_REQUEST: ReasonText("bad request", "the request is not a valid hook", "the request is not a valid hook"),
    Reason.UNAUTHORIZED: ReasonText(
        "unauthorized",
        "wrong credentials or signature",
        "the sender's address is not allowed, or its credentials or signature are missing or wrong",
    ),
    Reason.INTERNAL: ReasonText(
        "internal error", "a bug in the gateway", "a defect in the gateway; its log has the traceback"
    ),
}
"""``ok`` and ``denied`` have no short text: the source says who decided."""

FAILURE_CLAUSES: Final[Mapping[Cause, str]] = {
    Cause.UNREACHABLE: "{} is unreachable",
    Cause.TIMEOUT: "times out",
    Cause.ERROR_STATUS: "answers with an error status",
    Cause.BAD_ANSWER: "gives a bad answer",
}
"""What an upstream does, to be joined to a sentence; the first names it."""


def cause_detail(cause: Cause) -> str:
    """What the backend did, as a clause without its subject."""
    return REASON_TEXTS[Reason(cause.value)].detail.removeprefix("the backend ")
