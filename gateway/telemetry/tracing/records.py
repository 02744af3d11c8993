"""What is kept of a traced hook until its spans are made: small, and nothing that holds its body in memory."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from gateway.model.decision import AttemptRecord, Decision
from gateway.model.hooks import field_text
from gateway.model.trace_context import Trace
from gateway.model.verdicts import Reason, Source


class Kind(NamedTuple):
    """What a hook's span has in common with many others'."""

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
        """Whether the hook's fate is nobody's decision: a backend failed it, or the gateway itself."""
        return self.source == Source.FALLBACK or self.reason == Reason.INTERNAL


class HookRecord(msgspec.Struct, frozen=True, gc=False):
    """A hook's fate, as its spans tell it."""

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
    """Seconds from the hook's beginning to its first attempt's."""
    attempts: tuple[AttemptRecord, ...]

    @property
    def failed(self) -> bool:
        """Whether the hook's fate is nobody's decision."""
        return self.kind.failed

    @property
    def spans(self) -> int:
        """How many spans tell of it."""
        return 1 + sum(2 if attempt.queued > 0.0 else 1 for attempt in self.attempts)


def make_record(decision: Decision, trace: Trace) -> HookRecord:
    """What is kept of a decision."""
    ruling, hook = decision.ruling, decision.hook
    return HookRecord(
        trace,
        decision.time,
        decision.duration,
        Kind(
            decision.app,
            decision.method,
            ruling.verdict,
            ruling.source,
            ruling.reason,
            ruling.status,
            decision.upstream,
            decision.budget,
        ),
        ruling.error,
        decision.request_id,
        field_text(hook.node_id) if hook else None,
        field_text(hook.session_id) if hook else None,
        field_text(hook.call_id) if hook else None,
        decision.asked_after,
        decision.story or _only_attempt(decision),
    )


def _only_attempt(decision: Decision) -> tuple[AttemptRecord, ...]:
    """The attempt of a hook without a story: it brought the verdict at once; none where no backend was asked."""
    if decision.upstream is None or decision.target is None or decision.attempts == 0:
        return ()
    duration, outcome = decision.upstream_duration, decision.ruling.reason
    return (AttemptRecord(decision.upstream, decision.target, 0.0, duration, 0.0, outcome, ""),)
