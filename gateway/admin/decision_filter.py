"""The query parameters of ``GET /api/decisions``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from gateway.admin.decision_search import read_cursor
from gateway.model.text import shorten
from gateway.model.units import SECONDS
from gateway.model.verdicts import Reason, Source, Verdict
from gateway.policy.comparison import Finding
from gateway.store.numbers import normalize_number
from gateway.telemetry.decision_view import MAX_LIMIT, DecisionFilter
from gateway.telemetry.shadow_results import DIFFERS

_TEXTS: Final = (
    "app", "method", "verdict", "source", "reason", "call_id", "session_id", "request_id", "upstream", "target", "q",
    "rule", "shadow", "caller", "callee",
)  # fmt: skip
_FLAGS: Final = ("failures", "ineffective", "repaired")
_NAMES: Final = (*_TEXTS, *_FLAGS, "since", "until", "limit", "cursor")
_WORDS: Final = {"verdict": Verdict, "source": Source, "reason": Reason, "shadow": (DIFFERS, *Finding)}
_MAX_TEXT: Final = 512
_is_duration = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)").fullmatch
_is_number = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?").fullmatch
_MILLISECOND: Final = 0.001


def parse_filter(parameters: Iterable[tuple[str, str]], now: float) -> DecisionFilter:
    """The filter that a query describes; *now* is the Unix time, for relative times.

    Raises ValueError with a message for the author of the query.
    """
    values: dict[str, str] = {}
    for name, value in parameters:
        if name not in _NAMES:
            raise ValueError(f"unknown parameter {_quoted(name)}; known parameters: {', '.join(_NAMES)}")
        if name in values:
            raise ValueError(f"duplicate parameter {name}")
        if len(value) > _MAX_TEXT:
            raise ValueError(f"{name} is longer than {_MAX_TEXT} characters")
        values[name] = value
    values = {name: value for name, value in values.items() if value}  # an empty field of a form filters nothing
    texts = {name: values[name] for name in _TEXTS if name in values}
    for name, words in _WORDS.items():
        if name in texts and texts[name] not in set(words):
            raise ValueError(f"{name} must be one of {', '.join(words)}, not {_quoted(texts[name])}")
    for name in ("caller", "callee"):
        if name in texts and not normalize_number(texts[name]):
            raise ValueError(f"{name} must be a whole number such as +4930123456, not {_quoted(texts[name])}")
    since, until = (_time(name, values[name], now) if name in values else None for name in ("since", "until"))
    flags = {name: _flag(name, values.get(name, "0")) for name in _FLAGS}
    return DecisionFilter(
        **texts,  # type: ignore[arg-type]
        since=since,
        # Times are shown in milliseconds: a time copied from a decision must include that decision.
        until=None if until is None else until + _MILLISECOND,
        **flags,  # type: ignore[arg-type]
        before=read_cursor(values["cursor"]) if "cursor" in values else None,
        limit=_limit(values.get("limit", "100")),
    )


def _time(name: str, text: str, now: float) -> float:
    if ago := _is_duration(text):
        return now - float(ago[1]) * SECONDS[ago[2]]
    if _is_number(text):
        return float(text)
    try:
        # The + of an offset arrives as a space if the query was not encoded.
        moment = datetime.fromisoformat(re.sub(r" (?=[0-9]{2}:?[0-9]{2}$)", "+", text) if "T" in text else text)
        seconds = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(
            f"{name} must be a time such as 2026-01-31T02:41:00Z, Unix seconds, or an age such as 90s, 5m, 2h; "
            f"not {_quoted(text)}"
        )
    return seconds


def _flag(name: str, text: str) -> bool:
    if text not in ("0", "1", "false", "true"):
        raise ValueError(f"{name} must be 1 or 0, not {_quoted(text)}")
    return text in ("1", "true")


def _limit(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) or not 1 <= int(text) <= MAX_LIMIT:
        raise ValueError(f"limit must be a whole number from 1 to {MAX_LIMIT}, not {_quoted(text)}")
    return int(text)


def _quoted(text: str) -> str:
    return repr(shorten(text, 80))
