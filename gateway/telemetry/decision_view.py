"""A decision as operators see it: its fields, the filters that choose decisions, and what makes both of a Decision.

The journal and the history show the same: the fields and masks of a log line; never a body, never a secret.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from gateway.model import effects
from gateway.model.decision import AttemptRecord, Decision, is_failure
from gateway.model.hooks import Hook, MethodType, field_text, method_type
from gateway.model.text import mask_number, shorten, timestamp
from gateway.model.verdicts import Annotations, Source, Verdict
from gateway.policy.shadow import ShadowResult
from gateway.store.numbers import normalize_number
from gateway.telemetry.shadow_results import outcome_matches

MAX_LIMIT: Final = 1000
"""Decisions in one answer."""
MAX_FIELD: Final = 256
"""Characters of a hook's field."""
MAX_NUMBER: Final = 64
"""Characters of a phone number."""
_WHOLE_NUMBER: Final = 6
"""Characters from which on a search word may be a whole phone number, which is found although it is masked."""

_NO_ANNOTATIONS: Final = Annotations()

Position = tuple[int, str]
"""When a hook began, in microseconds of Unix time, and its request id."""


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One request to a backend, as shown to operators."""

    upstream: str
    target: str
    began_ms: float
    """Counted from the hook's head."""
    duration_ms: float
    queued_ms: float
    outcome: str
    error: str


class DecisionView(msgspec.Struct, frozen=True, gc=False):
    """A decision, as shown to operators: the API's fields."""

    request_id: str
    time: str
    app: str
    method: str
    node_id: str | None
    session_id: str | None
    call_id: str | None
    caller: str | None
    callee: str | None
    verdict: str
    source: str
    reason: str
    status: int
    error: str
    upstream: str | None
    target: str | None
    budget_ms: float | None
    duration_ms: float
    upstream_ms: float
    attempts: tuple[Attempt, ...]
    worker: int
    means: str
    rule: str | None = None
    repaired: str | None = None
    cut: str = ""
    """What was cut away from the backend's answer: any text; never to be rendered as markup."""
    ineffective: bool = False
    client_config: str | None = None
    failed_over_from: str | None = None
    failover_cause: str | None = None
    changed_fields: str | None = None
    ignored_fields: str | None = None
    excluded: str | None = None
    """Of an answer to connect: fields that its restExclude leaves out although the gateway needs them."""
    shadow: ShadowResult | None = None
    substituted: str | None = None
    """The backend's answer to an event that was replaced by the hook's own body."""


class DecisionFilter(msgspec.Struct, frozen=True):
    """Which decisions are asked for. None matches anything; every other condition must hold."""

    app: str | None = None
    method: str | None = None
    verdict: str | None = None
    source: str | None = None
    reason: str | None = None
    call_id: str | None = None
    session_id: str | None = None
    request_id: str | None = None
    upstream: str | None = None
    target: str | None = None
    q: str | None = None
    """Is part of a text of the hook, ignoring case, or equals a whole phone number."""
    since: float | None = None
    """Unix time; inclusive."""
    until: float | None = None
    """Unix time; exclusive."""
    rule: str | None = None
    """The name of the rule that matched."""
    shadow: str | None = None
    """The outcome of the shadow copy, or ``differs``."""
    failures: bool = False
    """Whether only failures are wanted."""
    ineffective: bool = False
    """Whether only rejections and changed answers that the media server ignores are wanted."""
    repaired: bool = False
    """Whether only answers that had to be repaired are wanted."""
    caller: str | None = None
    """A whole number, however it is written."""
    callee: str | None = None
    before: Position | None = None
    """Only decisions that are older than this one, in the order of lists."""
    limit: int = 100


def position(decision: Decision) -> Position:
    """Where a decision stands in a list: those with a greater position come first."""
    return int(decision.time * 1e6), decision.request_id


class DecisionFormatter:
    """Makes DecisionViews; *mask* and *hook_types* are the configuration's, *worker* this process's id."""

    def __init__(
        self, worker: int, mask: Collection[str] = (), hook_types: Mapping[str, MethodType] | None = None
    ) -> None:
        self._worker = worker
        self._mask_caller = "caller" in mask
        self._mask_callee = "callee" in mask
        self._hook_types = hook_types

    def format(self, decision: Decision, shadow: ShadowResult | None = None) -> DecisionView:
        """A decision as shown to operators, with its shadow copy's result."""
        ruling, hook = decision.ruling, decision.hook
        annotations = ruling.annotations or _NO_ANNOTATIONS
        return DecisionView(
            request_id=decision.request_id,
            time=timestamp(decision.time),
            app=decision.app,
            method=decision.method,
            node_id=field_text(hook.node_id, MAX_FIELD) if hook else None,
            session_id=field_text(hook.session_id, MAX_FIELD) if hook else None,
            call_id=field_text(hook.call_id, MAX_FIELD) if hook else None,
            caller=self._caller(hook) if hook else None,
            callee=self._callee(hook) if hook else None,
            verdict=ruling.verdict,
            source=ruling.source,
            reason=ruling.reason,
            status=ruling.status,
            error=shorten(ruling.error),
            upstream=decision.upstream,
            target=decision.target,
            budget_ms=None if decision.budget is None else _ms(decision.budget),
            duration_ms=_ms(decision.duration),
            upstream_ms=_ms(decision.upstream_duration),
            attempts=tuple(_attempts(decision)),
            worker=self._worker,
            means=effects.answer_effect(
                ruling.status,
                self._method_type(decision.method),
                False if annotations.ineffective else None,
                decision.method,
            )
            + effects.changes_effect(annotations.changed_fields, annotations.ignored_fields),
            rule=annotations.rule,
            repaired=annotations.repaired,
            cut=annotations.cut,
            ineffective=annotations.ineffective,
            client_config=annotations.client_config,
            failed_over_from=annotations.failed_over_from,
            failover_cause=annotations.failover_cause,
            changed_fields=annotations.changed_fields,
            ignored_fields=annotations.ignored_fields,
            excluded=shorten(",".join(annotations.excluded)) if annotations.excluded else None,
            shadow=shadow,
            substituted=annotations.substituted,
        )

    def matches(self, decision: Decision, wanted: DecisionFilter, shadow: ShadowResult | None = None) -> bool:
        """Whether the decision is wanted; *shadow* is its copy's result."""
        ruling = decision.ruling
        if not _is_in_range(decision, wanted) or (wanted.failures and not is_failure(decision)):
            return False
        if (
            _differs(wanted.app, decision.app)
            or _differs(wanted.method, decision.method)
            or _differs(wanted.verdict, ruling.verdict)
            or _differs(wanted.source, ruling.source)
            or _differs(wanted.reason, ruling.reason)
            or _differs(wanted.request_id, decision.request_id)
            or _differs(wanted.upstream, decision.upstream)
            or _differs(wanted.target, decision.target)
        ):
            return False
        if not _annotations_match(ruling.annotations or _NO_ANNOTATIONS, wanted) or not outcome_matches(
            wanted.shadow, shadow
        ):
            return False
        return _hook_matches(decision.hook, wanted) and (wanted.q is None or self._mentions(decision, wanted.q))

    def _mentions(self, decision: Decision, word: str) -> bool:
        word = word.casefold()
        hook = decision.hook
        texts = [decision.request_id, shorten(decision.ruling.error)]
        if hook is not None:
            texts += [
                field_text(hook.call_id, MAX_FIELD) or "",
                field_text(hook.session_id, MAX_FIELD) or "",
                self._caller(hook) or "",
                self._callee(hook) or "",
            ]
        if any(word in text.casefold() for text in texts):
            return True
        # Only the whole number finds a masked one: by searching parts, one could find out the rest.
        if hook is None or len(word) < _WHOLE_NUMBER:
            return False
        return word in ((field_text(raw, MAX_NUMBER) or "").casefold() for raw in (hook.caller, hook.callee))

    def _caller(self, hook: Hook) -> str | None:
        text = field_text(hook.caller, MAX_NUMBER)
        return mask_number(text) if self._mask_caller and text is not None else text

    def _callee(self, hook: Hook) -> str | None:
        text = field_text(hook.callee, MAX_NUMBER)
        return mask_number(text) if self._mask_callee and text is not None else text

    def _method_type(self, method: str) -> MethodType | None:
        return None if method.startswith("_") else method_type(method, self._hook_types)


def _is_in_range(decision: Decision, wanted: DecisionFilter) -> bool:
    return (
        (wanted.since is None or decision.time >= wanted.since)
        and (wanted.until is None or decision.time < wanted.until)
        and (wanted.before is None or position(decision) < wanted.before)
    )


def _hook_matches(hook: Hook | None, wanted: DecisionFilter) -> bool:
    if wanted.call_id is wanted.session_id is wanted.caller is wanted.callee is None:
        return True
    return (
        hook is not None
        and (wanted.call_id is None or field_text(hook.call_id, MAX_FIELD) == wanted.call_id)
        and (wanted.session_id is None or field_text(hook.session_id, MAX_FIELD) == wanted.session_id)
        and (wanted.caller is None or _is_number(hook.caller, wanted.caller))
        and (wanted.callee is None or _is_number(hook.callee, wanted.callee))
    )


def _is_number(raw: msgspec.Raw, wanted: str) -> bool:
    text = field_text(raw, MAX_NUMBER)
    return text is not None and normalize_number(text) == normalize_number(wanted)


def _annotations_match(annotations: Annotations, wanted: DecisionFilter) -> bool:
    return (
        not _differs(wanted.rule, annotations.rule)
        and (not wanted.ineffective or annotations.ineffective or annotations.ignored_fields is not None)
        and (not wanted.repaired or annotations.repaired is not None)
    )


def _differs(wanted: str | None, actual: str | None) -> bool:
    return wanted is not None and wanted != actual


def _ms(seconds: float) -> float:
    return int(seconds * 1e6 + 0.5) / 1000


def _attempts(decision: Decision) -> Iterable[Attempt]:
    story = decision.story
    upstream, target = decision.upstream, decision.target
    is_usual = decision.attempts and decision.ruling.source is Source.BACKEND
    if not story and is_usual and upstream is not None and target is not None:
        # The usual case has no records: one attempt, which brought the verdict.
        outcome = "ok" if decision.ruling.verdict is Verdict.ALLOW else "denied"
        story = (
            AttemptRecord(
                upstream=upstream,
                target=target,
                began=0.0,
                duration=decision.upstream_duration,
                queued=0.0,
                outcome=outcome,
                error="",
            ),
        )
    return (
        Attempt(
            upstream=record.upstream,
            target=record.target,
            began_ms=_ms(decision.asked_after + record.began),
            duration_ms=_ms(record.duration),
            queued_ms=_ms(record.queued),
            outcome=record.outcome,
            error=shorten(record.error),
        )
        for record in story
    )
