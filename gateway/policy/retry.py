"""Whether a hook that failed at one target is retried, and how much of its budget an attempt gets.

A hook may have acted already when it fails, so nothing is sent twice unless the operator said so, with one exception
that is safe by itself: a backend that cannot have seen the hook.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from gateway.model.verdicts import Cause, Failure

MIN_LEFT: Final = 0.010
"""Seconds of budget below which no further attempt is worth its while."""


class RetryOn(StrEnum):
    """What a failed attempt was, as ``retry.on`` names it."""

    CONNECT = "connect"
    """The backend cannot have acted: no connection was made, or a reused one had been closed, or a queue was full."""
    RESET = "reset"
    """The connection broke after the hook was sent: it may have been acted on."""
    TIMEOUT = "timeout"
    """No answer within the attempt's share of the budget: it may yet be acted on."""
    ERROR_STATUS = "error_status"
    """A status other than 200 and 403."""
    BAD_ANSWER = "bad_answer"
    """A 200 without a verdict in it."""


class Retry(NamedTuple):
    """An upstream's, app's or method's ``retry``."""

    attempts: int = 2
    """In all, the first one counted; at least 1."""
    on: frozenset[RetryOn] = frozenset({RetryOn.CONNECT})
    """Failures after which a hook may be tried again."""


_KINDS: Final = {
    Cause.UNREACHABLE: RetryOn.RESET,
    Cause.TIMEOUT: RetryOn.TIMEOUT,
    Cause.ERROR_STATUS: RetryOn.ERROR_STATUS,
    Cause.BAD_ANSWER: RetryOn.BAD_ANSWER,
}


def retry_kind(failure: Failure, *, retry_safe: bool) -> RetryOn | None:
    """What ``retry.on`` calls this failure; None for one that is never tried again.

    *retry_safe*: the backend cannot have acted on the hook, for any cause: one target's connect that took
    too long, or its full queue, need not be the next one's.
    """
    if retry_safe:
        return RetryOn.CONNECT
    return _KINDS.get(failure.cause)


def may_retry(retry: Retry, attempts_made: int, kind: RetryOn | None, left: float, usual: float) -> bool:
    """The whole policy: whether a hook that failed this way after *attempts_made* attempts is tried once more.

    *left* is what remains of its budget and *usual* the time that the next target usually takes, both in seconds:
    an attempt that cannot be expected to end in time would only load a backend that has trouble already.
    """
    if attempts_made >= retry.attempts:
        return False
    if kind is None or kind not in retry.on:
        return False
    return left >= MIN_LEFT and left >= usual


def attempt_budget(retry: Retry, attempts_made: int, left: float) -> float:
    """Seconds that the next attempt may take, of the *left* ones.

    All of them, unless the operator wants slow attempts tried again: then an even share, so that the attempts to come
    get theirs. What a fast attempt leaves over goes to the later ones.
    """
    if RetryOn.TIMEOUT not in retry.on:
        return left
    attempts_left = retry.attempts - attempts_made
    return left / attempts_left if attempts_left > 1 else left
