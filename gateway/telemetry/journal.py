"""The journal: the last decisions of one process, failures kept longer than successes, bounded in number and bytes.

A hook pays for one reference that is kept. What an operator sees of it (a DecisionView) is made when somebody asks,
from the same fields and with the same masks as its log line; never a body, never a secret.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, islice, takewhile
from typing import Final

import msgspec

from gateway.model import effects
from gateway.model.decision import AttemptRecord, Decision, is_failure
from gateway.model.hooks import AppKey, Hook, MethodType, field_text, method_type
from gateway.model.text import mask_number, shorten, timestamp
from gateway.model.verdicts import Annotations, Source, Verdict
from gateway.policy.shadow import ShadowResult
from gateway.telemetry.shadow_results import DIFFERING, ShadowResults, outcome_matches

MAX_BYTES: Final = 8 * 1024 * 1024
"""Bytes that a journal keeps alive, its own share of each decision included."""
MAX_LIMIT: Final = 1000
"""Calls in one answer."""
_OVERHEAD: Final = 1024
"""Bytes that a decision takes besides the bodies, about."""
_LARGE: Final = 16 * 1024
"""Bytes of bodies from which on the few fields are copied and the rest let go."""
_FIELD: Final = 256
"""Characters of a hook's field."""
_NUMBER: Final = 64
"""Characters of a phone number."""
_BATCH: Final = 32
"""Decisions looked at before hooks get their turn again."""
_WHOLE_NUMBER: Final = 6
"""Characters from which on a search word may be a whole phone number, which is then found though it is masked."""

_NO_ANNOTATIONS: Final = Annotations()

Cursor = tuple[int, int]
"""Successes and failures recorded so far: where a follower stands."""


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One request to a backend, as it is shown."""

    upstream: str
    target: str
    began_ms: float
    """Counted from the hook's head."""
    duration_ms: float
    queued_ms: float
    outcome: str
    error: str


class DecisionView(msgspec.Struct, frozen=True, gc=False):
    """A decision, as it is shown: CONTRACT names its fields."""

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
    """What was cut away from the backend's answer: any text, to be shown as text."""
    ineffective: bool = False
    client_config: str | None = None
    failed_over_from: str | None = None
    failover_cause: str | None = None
    changed_fields: str | None = None
    ignored_fields: str | None = None
    excluded: str | None = None
    """Of an answer to connect: what its restExclude leaves out though the gateway needs it."""
    shadow: ShadowResult | None = None
    substituted: str | None = None
    """What the backend answered to an event, where the hook's own body went out in its place."""


class DecisionFilter(msgspec.Struct, frozen=True):
    """Which calls are asked for; what is None does not matter. All that is set must hold."""

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
    """Stands in a text of the call, whatever its case; or is a phone number as a whole."""
    since: float | None = None
    """Unix time, the first one wanted."""
    until: float | None = None
    """Unix time, the first one not wanted any more."""
    rule: str | None = None
    """The name of a rule that met."""
    shadow: str | None = None
    """What came of the copy: an outcome, or ``differs``."""
    failures: bool = False
    """Whether only what a log of failures would hold is wanted."""
    ineffective: bool = False
    """Whether only refusals and changed answers that the media server ignores are wanted."""
    repaired: bool = False
    """Whether only answers that had to be repaired are wanted."""
    limit: int = 100


class SearchResult(msgspec.Struct, frozen=True):
    """What a search brought."""

    decisions: list[DecisionView]
    """Newest first, as many as the limit allows."""
    matched: int
    """How many there were."""
    held: int
    """How many the journal holds."""
    oldest: str | None
    """When the oldest of these began."""


class JournalUpdate(msgspec.Struct, frozen=True):
    """What was recorded since a follower asked last."""

    cursor: Cursor
    """What to ask with next time."""
    decisions: list[DecisionView]
    """In the order in which they were recorded, failures before successes where not all have room."""
    skipped: int


class DecisionFormatter:
    """Makes Calls of decisions; *mask* and *hook_types* are the configuration's, *worker* this process's id."""

    def __init__(
        self, worker: int, mask: Collection[str] = (), hook_types: Mapping[str, MethodType] | None = None
    ) -> None:
        self._worker = worker
        self._mask_caller = "caller" in mask
        self._mask_callee = "callee" in mask
        self._hook_types = hook_types

    def format(self, decision: Decision, shadow: ShadowResult | None = None) -> DecisionView:
        """What is shown of a decision, and of its copy."""
        ruling, hook = decision.ruling, decision.hook
        annotations = ruling.annotations or _NO_ANNOTATIONS
        return DecisionView(
            request_id=decision.request_id,
            time=timestamp(decision.time),
            app=decision.app,
            method=decision.method,
            node_id=field_text(hook.node_id, _FIELD) if hook else None,
            session_id=field_text(hook.session_id, _FIELD) if hook else None,
            call_id=field_text(hook.call_id, _FIELD) if hook else None,
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
        """Whether the decision is wanted; *shadow* is what came of its copy."""
        ruling = decision.ruling
        if (
            (wanted.since is not None and decision.time < wanted.since)
            or (wanted.until is not None and decision.time >= wanted.until)
            or (wanted.failures and not is_failure(decision))
        ):
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
        hook = decision.hook
        if wanted.call_id is not None and (hook is None or field_text(hook.call_id, _FIELD) != wanted.call_id):
            return False
        if wanted.session_id is not None and (hook is None or field_text(hook.session_id, _FIELD) != wanted.session_id):
            return False
        return wanted.q is None or self._mentions(decision, wanted.q)

    def _mentions(self, decision: Decision, word: str) -> bool:
        word = word.casefold()
        hook = decision.hook
        texts = [decision.request_id, shorten(decision.ruling.error)]
        if hook is not None:
            texts += [
                field_text(hook.call_id, _FIELD) or "",
                field_text(hook.session_id, _FIELD) or "",
                self._caller(hook) or "",
                self._callee(hook) or "",
            ]
        if any(word in text.casefold() for text in texts):
            return True
        # Only the whole number finds what is masked: by parts of it, one could find out the rest.
        if hook is None or len(word) < _WHOLE_NUMBER:
            return False
        return word in ((field_text(raw, _NUMBER) or "").casefold() for raw in (hook.caller, hook.callee))

    def _caller(self, hook: Hook) -> str | None:
        text = field_text(hook.caller, _NUMBER)
        return mask_number(text) if self._mask_caller and text is not None else text

    def _callee(self, hook: Hook) -> str | None:
        text = field_text(hook.callee, _NUMBER)
        return mask_number(text) if self._mask_callee and text is not None else text

    def _method_type(self, method: str) -> MethodType | None:
        return None if method.startswith("_") else method_type(method, self._hook_types)


class _RecentDecisions:
    """The last decisions of one kind."""

    __slots__ = ("dropped", "held", "most")

    def __init__(self, most: int) -> None:
        self.held: deque[Decision] = deque()
        self.most = most
        self.dropped = 0

    @property
    def recorded(self) -> int:
        """How many there have been."""
        return self.dropped + len(self.held)

    def recorded_before(self, time: float) -> int:
        """How many there had been by this Unix time."""
        later = sum(1 for _ in takewhile(lambda decision: decision.time >= time, reversed(self.held)))
        return self.recorded - later

    def since(self, recorded: int) -> Iterator[Decision]:
        """Those held that came after so many, the newest first."""
        return islice(reversed(self.held), max(0, self.recorded - recorded))


class Journal:
    """The last *recent* successes and *failures* of a process, and never more than *max_bytes* of both."""

    def __init__(
        self, recent: int = 1000, failures: int = 1000, max_bytes: int = MAX_BYTES, differing: int = 200
    ) -> None:
        self._successes = _RecentDecisions(recent)
        self._failures = _RecentDecisions(failures)
        self._differing = _RecentDecisions(differing)
        """Decisions that a candidate saw otherwise, once more: they outlast those that it saw alike."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._shadows = ShadowResults()

    def __repr__(self) -> str:
        return f"<Journal {len(self._successes.held)} + {len(self._failures.held)} failures, {self._bytes} bytes>"

    def __len__(self) -> int:
        return len(self._successes.held) + len(self._failures.held)

    @property
    def bytes(self) -> int:
        """What it keeps alive, about."""
        return self._bytes + self._shadows.bytes

    def cursor_at(self, time: float) -> Cursor:
        """Where a follower stands who is told what began since this Unix time."""
        return self._successes.recorded_before(time), self._failures.recorded_before(time)

    def record(self, decision: Decision) -> None:
        """Put a decision aside."""
        ruling = decision.ruling
        size = decision.size
        if size > _LARGE:
            decision = _without_bodies(decision)
            size = decision.size
        ring = self._failures if ruling.error or ruling.verdict is Verdict.ERROR else self._successes
        if ruling.annotations is not None:
            if is_failure(decision):
                ring = self._failures
            if ruling.annotations.cut:
                size += sys.getsizeof(ruling.annotations.cut)
                decision = msgspec.structs.replace(decision, size=size)
        self._append(ring, decision)

    def record_shadow(self, request_id: str, result: ShadowResult, decision: Decision | None = None) -> None:
        """Remember what came of a hook's copy.

        *decision*: the hook's, where it is at hand; else it is looked for where it matters.
        """
        self._shadows.record(request_id, result)
        if result.outcome in DIFFERING:
            decision = decision or self._find_held(request_id)
            if decision is not None:
                self._append(self._differing, _without_bodies(decision))

    def _find_held(self, request_id: str) -> Decision | None:
        newest_first = chain(reversed(self._successes.held), reversed(self._failures.held))
        return next((decision for decision in newest_first if decision.request_id == request_id), None)

    def _append(self, ring: _RecentDecisions, decision: Decision) -> None:
        size = decision.size
        held = ring.held
        held.append(decision)
        if len(held) > ring.most:
            size -= held.popleft().size
            ring.dropped += 1
        else:
            size += _OVERHEAD
        self._bytes += size
        if self._bytes > self._max_bytes:
            self._make_room()

    def newest(self) -> list[Decision]:
        """All that is held, newest first."""
        held = [*self._successes.held, *self._failures.held]
        if self._differing.held:
            known = {(decision.request_id, decision.time) for decision in held}
            held += [each for each in self._differing.held if (each.request_id, each.time) not in known]
        return sorted(held, key=lambda decision: -decision.time)

    async def search(self, wanted: DecisionFilter, teller: DecisionFormatter) -> SearchResult:
        """The calls that are wanted; hooks go on meanwhile."""
        held = self.newest()
        calls: list[DecisionView] = []
        matched = 0
        for number, decision in enumerate(held, 1):
            shadow = self._shadows.find(decision.request_id)
            if teller.matches(decision, wanted, shadow):
                matched += 1
                if matched <= wanted.limit:
                    calls.append(teller.format(decision, shadow))
            if not number % _BATCH:
                await asyncio.sleep(0)
        return SearchResult(calls, matched, len(held), timestamp(held[-1].time) if held else None)

    def updates(self, cursor: Cursor, most: int, teller: DecisionFormatter) -> JournalUpdate:
        """What was recorded since, *most* calls of it: the newest, failures before successes."""
        failures = list(islice(self._failures.since(cursor[1]), most))
        successes = list(islice(self._successes.since(cursor[0]), most - len(failures)))
        now = (self._successes.recorded, self._failures.recorded)
        new = max(0, now[0] - cursor[0]) + max(0, now[1] - cursor[1])
        told = sorted([*failures, *successes], key=lambda decision: decision.time + decision.duration)
        return JournalUpdate(now, [teller.format(decision) for decision in told], new - len(told))

    def _make_room(self) -> None:
        """Drop the oldest, successes first."""
        for ring in (self._successes, self._differing, self._failures):
            while self._bytes > self._max_bytes and ring.held:
                self._bytes -= ring.held.popleft().size + _OVERHEAD
                ring.dropped += 1


def _annotations_match(annotations: Annotations, wanted: DecisionFilter) -> bool:
    return (
        not _differs(wanted.rule, annotations.rule)
        and (not wanted.ineffective or annotations.ineffective or annotations.ignored_fields is not None)
        and (not wanted.repaired or annotations.repaired is not None)
    )


def _without_bodies(decision: Decision) -> Decision:
    """The same without the bodies: what is shown of the hook is copied, cut to what is shown of it."""
    hook = decision.hook
    size = 0
    if hook is not None:
        fields = [
            _shorten_field(raw, limit)
            for raw, limit in (
                (hook.node_id, _FIELD), (hook.session_id, _FIELD), (hook.call_id, _FIELD),
                (hook.caller, _NUMBER), (hook.callee, _NUMBER),
            )
        ]  # fmt: skip
        hook = Hook(AppKey(hook.app_key[:_FIELD]), *fields)
        size = sum(map(len, map(bytes, fields)))
    return msgspec.structs.replace(decision, ruling=decision.ruling.with_body(b""), hook=hook, size=size, body=b"")


def _shorten_field(raw: msgspec.Raw, limit: int) -> msgspec.Raw:
    text = field_text(raw, limit)
    return msgspec.Raw() if text is None else msgspec.Raw(msgspec.json.encode(text))


def _differs(wanted: str | None, actual: str | None) -> bool:
    return wanted is not None and wanted != actual


def _ms(seconds: float) -> float:
    return int(seconds * 1e6 + 0.5) / 1000


def _attempts(decision: Decision) -> Iterable[Attempt]:
    story = decision.story
    upstream, target = decision.upstream, decision.target
    is_usual = decision.attempts and decision.ruling.source is Source.BACKEND
    if not story and is_usual and upstream is not None and target is not None:
        # The usual case is not recorded: one attempt, which brought the verdict.
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
