"""The one frozen record of what became of a hook, and how it is built: metrics, log, journal and tracing read it."""

from __future__ import annotations

import time
from typing import Any, Final, Protocol

import msgspec

from gateway.model.hooks import Hook
from gateway.model.trace_context import Trace
from gateway.model.verdicts import Ruling, Verdict

OTHER_METHOD: Final = "_other"
"""The label of methods that neither the catalogue nor the configuration has."""
UNKNOWN_APP: Final = "_unknown"
"""The label of hooks that no app of the configuration serves."""


class AttemptRecord(msgspec.Struct, frozen=True, gc=False):
    """One attempt: a request to a target. Times in seconds."""

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
    """What became of one hook: the frozen record that metrics, log and other listeners read."""

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
    """Every attempt; empty if there was only one, which brought a verdict and did not wait in a queue."""
    size: int = 0
    """Bytes of the bodies of hook and answer, which stay in memory with this record."""
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
    client: tuple[str, int] | None = None
    """The address and port of its sender, a media server as a rule; None on a unix socket, or where it is not known."""


class UpstreamOutcome(Protocol):
    """What a decision says of the upstreams that its hook was sent to."""

    @property
    def target(self) -> str | None:
        """The last target that was tried."""

    @property
    def attempts(self) -> int:
        """How often the hook was sent."""

    @property
    def began(self) -> float:
        """When the first attempt began, by ``time.perf_counter``."""

    @property
    def duration(self) -> float:
        """Seconds, all attempts together."""

    @property
    def story(self) -> tuple[AttemptRecord, ...]:
        """As in Decision."""


class DecisionBuilder:
    """What is known of a hook so far, as far as its decision says it."""

    __slots__ = (
        "app",
        "app_cache",
        "began",
        "body",
        "budget",
        "client",
        "hook",
        "method",
        "method_name",
        "outcome",
        "request_id",
        "split",
        "upstream",
    )

    trace: Trace | None = None

    def __init__(self, request_id: str, client: tuple[str, int] | None = None) -> None:
        self.client = client
        self.began = time.perf_counter()
        self.request_id = request_id
        self.app = UNKNOWN_APP
        self.app_cache: AppCache | None = None
        self.method = OTHER_METHOD
        self.method_name = ""
        self.body = b""
        self.hook: Hook | None = None
        self.budget: float | None = None
        """Of its route; None before that is known."""
        self.upstream: str | None = None
        """The one that decides, or is to; None where none is asked."""
        self.split = False
        self.outcome: UpstreamOutcome | None = None

    def build(self, ruling: Ruling) -> Decision:
        """The decision, now that the answer has gone out."""
        outcome, body, upstream = self.outcome, self.body, self.upstream
        duration = time.perf_counter() - self.began
        answer_size = 0 if ruling.body is body else len(ruling.body)
        # In the order of Decision's fields: naming them would cost more than 3 % of a hook.
        return Decision(
            ruling,
            time.time() - duration,
            self.request_id,
            self.app,
            self.method,
            None if upstream is None else self.budget,
            duration,
            upstream,
            None if outcome is None else outcome.target,
            0 if outcome is None else outcome.attempts,
            0.0 if outcome is None else outcome.duration,
            self.hook,
            0.0 if outcome is None else outcome.began - self.began,
            () if outcome is None else outcome.story,
            len(body) + answer_size,
            self.trace,
            body,
            self.method_name,
            self.split,
            self.app_cache,
            self.client,
        )


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
