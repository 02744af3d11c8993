"""The one frozen record of what became of a hook: metrics, log, journal and tracing are made from it."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.model.hooks import Hook
from gateway.model.trace_context import Trace
from gateway.model.verdicts import Ruling, Verdict

OTHER_METHOD: Final = "_other"
"""The label of methods that neither the catalogue nor the configuration has."""
UNKNOWN_APP: Final = "_unknown"
"""The label of hooks that no app of the configuration serves."""


class AttemptRecord(msgspec.Struct, frozen=True, gc=False):
    """One request to a backend, as the hook's story tells it. Times in seconds."""

    upstream: str
    target: str
    began: float
    """Counted from when the upstream was first asked for this hook."""
    duration: float
    queued: float
    """The part of it in which a connection was waited for."""
    outcome: str
    """``ok``, ``denied`` or a cause, as the metrics count attempts."""
    error: str


class AppCache:
    """What listeners of decisions keep for each app, so that they need not look it up for each hook."""

    __slots__ = ("metrics_slot",)

    def __init__(self) -> None:
        self.metrics_slot: Any = None
        """The series that its hooks were counted in last; the metrics' own."""


class Decision(msgspec.Struct, frozen=True, gc=False):
    """One hook's fate: the frozen record that metrics, log and whoever else listens consume."""

    ruling: Ruling
    time: float
    """Unix time at which the hook began, in seconds."""
    request_id: str
    app: str
    """The configured app's name, or ``_unknown``: safe as a metric label."""
    method: str
    """A method of the catalogue or the configuration, or ``_other``: safe as a metric label."""
    budget: float | None
    """Seconds; None where no backend was to be asked."""
    duration: float
    """Seconds from the hook's head to its answer."""
    upstream: str | None = None
    target: str | None = None
    attempts: int = 0
    upstream_duration: float = 0.0
    """Seconds spent on backends, all attempts together."""
    hook: Hook | None = None
    """What was read of the hook, for the log: the call's identifiers. None where it could not be read."""
    asked_after: float = 0.0
    """Seconds from the hook's head to the beginning of its first attempt."""
    story: tuple[AttemptRecord, ...] = ()
    """Every attempt, where there is more to tell than one that brought a verdict without waiting in a queue."""
    size: int = 0
    """Bytes of the hook's and the answer's bodies, which whoever keeps this keeps too."""
    trace: Trace | None = None
    """Its place in a trace, where it is traced."""
    body: bytes = b""
    """The hook's own, as long as it is not too large to be kept."""
    method_name: str = ""
    """The method as the media server named it: no label."""
    split: bool = False
    """Whether its upstream was chosen by weight."""
    app_cache: AppCache | None = None
    """Its app's."""


def is_failure(decision: Decision) -> bool:
    """Whether an operator would look for this hook among the failures; see ``counts_as_failure``."""
    ruling, annotations = decision.ruling, decision.ruling.annotations
    if annotations is None:
        return counts_as_failure(ruling.verdict, ruling.error)
    return counts_as_failure(ruling.verdict, ruling.error, annotations.ineffective, annotations.repaired)


def counts_as_failure(verdict: str, error: str, ineffective: bool = False, repaired: str | None = None) -> bool:
    """Whether a decision is anything but a verdict as it was meant.

    A rejection that the media server ignores is a failure, and so is an answer that had to be repaired; what a rule
    rejected is none.
    """
    return bool(error) or verdict == Verdict.ERROR or ineffective or repaired is not None
