"""Decisions that tests of the history keep: a few plain ones, and any that there can be."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
from hypothesis import strategies as st

from gateway.model.decision import AttemptRecord, Decision
from gateway.model.hooks import Hook, parse_hook
from gateway.model.verdicts import (
    Annotations,
    Cause,
    Failure,
    Fallback,
    ProxyError,
    Reason,
    Ruling,
    Source,
    Verdict,
    backend_allow,
    fallback_ruling,
)

NOW: Final = 1_700_000_000.0
ALLOWED: Final = backend_allow(b'{"appKey":"a"}')
TIMED_OUT: Final = fallback_ruling(
    Failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "no answer within 1.5 s"), Fallback(), b""
)


def decided(
    number: int = 0, ruling: Ruling = ALLOWED, fields: dict[str, Any] | None = None, **changes: Any
) -> Decision:
    """The decision of hook *number*, a second after the one before; *fields*: those of its body."""
    body = json.dumps({"appKey": "a", **(fields or {})}).encode()
    made = Decision(
        ruling=ruling,
        time=NOW + number,
        request_id=f"request-{number}",
        app="a",
        method="OnCallEvent",
        budget=1.5,
        duration=0.02,
        upstream="php",
        target="192.0.2.1:80",
        attempts=1,
        upstream_duration=0.01,
        hook=parse_hook(body),
        asked_after=0.0001,
        size=len(body),
        body=body,
        method_name="OnCallEvent",
    )
    return msgspec.structs.replace(made, **changes)


# --- any decision ---

_texts = st.text(max_size=12) | st.text(alphabet='a"\\…é\U0001f600', max_size=300)
_labels = st.text(max_size=8)
_numbers = st.sampled_from(
    ["+493012345", "030 1", "", "1234", "sip:anna@h", '"A" <sip:0049301@h>', "\u0661\u0662\u0663", "x" * 300]
)
_values = st.one_of(
    _texts, _numbers, st.none(), st.integers(-(2**53), 2**53), st.booleans(), st.just({"a": [1]}), st.just("null")
)
_seconds = st.floats(0, 1000, allow_nan=False)
_names = ("nodeId", "sessionId", "callId", "caller", "callee")


@st.composite
def hooks(draw: st.DrawFn) -> tuple[Hook, bytes]:
    """What was read of a hook, and its body; numbers written with escapes or without."""
    fields = draw(st.fixed_dictionaries({}, optional=dict.fromkeys(_names, _values)))
    body = json.dumps({"appKey": "a", **fields}, ensure_ascii=draw(st.booleans())).encode()
    return parse_hook(body), body


_annotations = st.builds(
    Annotations,
    rule=st.none() | _labels,
    repaired=st.none() | st.just("bom+after"),
    cut=_texts,
    client_config=st.none() | st.just("missing"),
    ineffective=st.booleans(),
    failed_over_from=st.none() | _labels,
    failover_cause=st.none() | st.just("timeout"),
    changed_fields=st.none() | st.just("callee"),
    ignored_fields=st.none() | st.just("callee"),
    excluded=st.lists(_labels, max_size=2).map(tuple),
    substituted=st.none() | _texts,
)
rulings = st.builds(
    Ruling,
    verdict=st.sampled_from(Verdict),
    source=st.sampled_from(Source),
    reason=st.sampled_from(Reason),
    status=st.sampled_from([200, 400, 403]),
    body=st.sampled_from([b"", b"{}", b'{"caller":"+493012345"}', b"\xff"]),
    content_type=st.none() | st.just(b"application/json"),
    error=st.just("") | _texts,
    annotations=st.none() | _annotations,
)
_attempts = st.builds(
    AttemptRecord,
    upstream=_labels,
    target=_labels,
    began=_seconds,
    duration=_seconds,
    queued=_seconds,
    outcome=st.sampled_from(["ok", "denied", "timeout"]),
    error=_texts,
)


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    """Any decision."""
    hook, body = draw(hooks() | st.just((None, b"")))
    ruling = draw(rulings)
    return Decision(
        ruling=ruling,
        time=draw(st.floats(NOW - 1e6, NOW + 1e6)),
        request_id=draw(st.text(alphabet="abc-1", min_size=1, max_size=8)),
        app=draw(st.sampled_from(["a", "b", "_unknown"])),
        method=draw(st.sampled_from(["OnCallEvent", "connect", "CallStatusEvent", "_other"])),
        budget=draw(st.none() | _seconds),
        duration=draw(_seconds),
        upstream=draw(st.none() | _labels),
        target=draw(st.none() | _labels),
        attempts=draw(st.integers(0, 3)),
        upstream_duration=draw(_seconds),
        hook=hook,
        asked_after=draw(_seconds),
        story=tuple(draw(st.lists(_attempts, max_size=2))),
        size=len(body) + len(ruling.body),
        body=body,
        method_name="OnCallEvent",
    )
