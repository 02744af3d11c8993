"""What is kept of a traced hook until its spans are made: little, and nothing that keeps its body in memory."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from gateway.model.decision import AttemptRecord, Decision
from gateway.model.hooks import field_text
from gateway.model.trace_context import Trace
from gateway.model.verdicts import Reason, Source


class Kind(NamedTuple):
    """What the spans of many hooks have in common."""

    app: str
    method: str
    verdict: str
    source: str
    reason: str
    status: int
    upstream: str | None
    budget: float | None
    """Seconds."""

    @property
    def failed(self) -> bool:
        """Whether nothing decided the hook as configured: a backend failed, or the gateway itself."""
        return self.source == Source.FALLBACK or self.reason == Reason.INTERNAL


class HookRecord(msgspec.Struct, frozen=True, gc=False):
    """A decision as its spans need it."""

    trace: Trace
    time: float
    """Unix time at which the hook began, in seconds."""
    duration: float
    """Seconds."""
    kind: Kind
    error: str
    request_id: str
    node_id: str | None
    session_id: str | None
    call_id: str | None
    asked_after: float
    """Seconds from the start of the hook to that of its first attempt."""
    attempts: tuple[AttemptRecord, ...]

    @property
    def failed(self) -> bool:
        """Whether nothing decided the hook as configured."""
        return self.kind.failed

    @property
    def spans(self) -> int:
        """How many spans it becomes."""
        return 1 + sum(2 if attempt.queued > 0.0 else 1 for attempt in self.attempts)


def make_record(decision: Decision, trace: Trace) -> HookRecord:
    """The record of a decision."""
    ruling, hook = decision.ruling, decision.hook
    return HookRecord(
        trace=trace,
        time=decision.time,
        duration=decision.duration,
        kind=Kind(
            app=decision.app,
            method=decision.method,
            verdict=ruling.verdict,
            source=ruling.source,
            reason=ruling.reason,
            status=ruling.status,
            upstream=decision.upstream,
            budget=decision.budget,
        ),
        error=ruling.error,
        request_id=decision.request_id,
        node_id=field_text(hook.node_id) if hook else None,
        session_id=field_text(hook.session_id) if hook else None,
        call_id=field_text(hook.call_id) if hook else None,
        asked_after=decision.asked_after,
        attempts=decision.story or _only_attempt(decision),
    )


def _only_attempt(decision: Decision) -> tuple[AttemptRecord, ...]:
    """The attempt of a hook whose first one brought the verdict; none where no backend was asked."""
    if decision.upstream is None or decision.target is None or decision.attempts == 0:
        return ()
    attempt = AttemptRecord(
        upstream=decision.upstream,
        target=decision.target,
        began=0.0,
        duration=decision.upstream_duration,
        queued=0.0,
        outcome=decision.ruling.reason,
        error="",
    )
    return (attempt,)
