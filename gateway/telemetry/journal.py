"""The journal: the last decisions of one process, failures kept longer than successes, bounded in number and bytes.

A hook costs one reference. What an operator sees of it (a DecisionView) is made on request, with the same fields and
masks as its log line; never a body, never a secret.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice, takewhile
from typing import Final

import msgspec

from gateway.model.decision import Decision, is_failure
from gateway.model.hooks import AppKey, Hook, field_text
from gateway.model.text import timestamp
from gateway.model.verdicts import Verdict
from gateway.policy.shadow import ShadowResult
from gateway.telemetry.decision_view import (
    MAX_FIELD,
    MAX_NUMBER,
    DecisionFilter,
    DecisionFormatter,
    DecisionView,
    Position,
    position,
)
from gateway.telemetry.shadow_results import DIFFERING, ShadowResults

MAX_BYTES: Final = 8 * 1024 * 1024
"""Bytes that a journal keeps in memory, its own share of each decision included."""
_OVERHEAD: Final = 1024
"""Bytes that a decision takes besides the bodies, roughly."""
_LARGE: Final = 16 * 1024
"""Bytes of bodies from which on only the fields shown are kept, as copies."""
_BATCH: Final = 32
"""Decisions searched before hooks get their turn again."""

Cursor = tuple[int, int]
"""Successes and failures recorded so far: how far a follower has read."""


class SearchResult(msgspec.Struct, frozen=True):
    """The result of a search."""

    decisions: list[DecisionView]
    """Newest first, as many as the limit allows."""
    positions: list[Position]
    """Of each of them."""
    matched: int
    """How many matched in all."""
    held: int
    """How many the journal holds."""
    oldest: str | None
    """When the oldest one in the journal began."""


class JournalUpdate(msgspec.Struct, frozen=True):
    """What was recorded since a follower's last request."""

    cursor: Cursor
    """For the next request."""
    decisions: list[DecisionView]
    """In the order in which they were recorded; if there are too many, failures are preferred."""
    skipped: int


class _RecentDecisions:
    """The newest decisions of one kind."""

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
        """Those still held that came after the first *recorded*, newest first."""
        return islice(reversed(self.held), max(0, self.recorded - recorded))


class Journal:
    """The last *recent* successes and *failures* of a process, and never more than *max_bytes* of both."""

    def __init__(
        self, recent: int = 1000, failures: int = 1000, max_bytes: int = MAX_BYTES, differing: int = 200
    ) -> None:
        self._successes = _RecentDecisions(recent)
        self._failures = _RecentDecisions(failures)
        self._differing = _RecentDecisions(differing)
        """Decisions whose shadow differs, once more: they are kept longest."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._shadows = ShadowResults()

    def __repr__(self) -> str:
        return f"<Journal {len(self._successes.held)} + {len(self._failures.held)} failures, {self._bytes} bytes>"

    def __len__(self) -> int:
        return len(self._successes.held) + len(self._failures.held)

    @property
    def bytes(self) -> int:
        """Bytes that it keeps in memory, roughly."""
        return self._bytes + self._shadows.bytes

    def cursor_at(self, time: float) -> Cursor:
        """The cursor of a follower that wants everything since this Unix time."""
        return self._successes.recorded_before(time), self._failures.recorded_before(time)

    def record(self, decision: Decision) -> None:
        """Keep a decision."""
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
        """Keep the result of a hook's shadow copy.

        *decision*: the hook's, if the caller has it; else it is searched for if needed.
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
        """All decisions held, newest first."""
        held = [*self._successes.held, *self._failures.held]
        if self._differing.held:
            known = {(decision.request_id, decision.time) for decision in held}
            held += [each for each in self._differing.held if (each.request_id, each.time) not in known]
        return sorted(held, key=position, reverse=True)

    async def search(self, wanted: DecisionFilter, formatter: DecisionFormatter) -> SearchResult:
        """The decisions that match; hooks are handled meanwhile."""
        held = self.newest()
        calls: list[DecisionView] = []
        positions: list[Position] = []
        matched = 0
        for number, decision in enumerate(held, 1):
            shadow = self._shadows.find(decision.request_id)
            if formatter.matches(decision, wanted, shadow):
                matched += 1
                if matched <= wanted.limit:
                    calls.append(formatter.format(decision, shadow))
                    positions.append(position(decision))
            if not number % _BATCH:
                await asyncio.sleep(0)
        return SearchResult(calls, positions, matched, len(held), timestamp(held[-1].time) if held else None)

    def updates(self, cursor: Cursor, most: int, formatter: DecisionFormatter) -> JournalUpdate:
        """What was recorded since *cursor*, at most *most* decisions: the newest, failures first."""
        failures = list(islice(self._failures.since(cursor[1]), most))
        successes = list(islice(self._successes.since(cursor[0]), most - len(failures)))
        now = (self._successes.recorded, self._failures.recorded)
        new = max(0, now[0] - cursor[0]) + max(0, now[1] - cursor[1])
        chosen = sorted([*failures, *successes], key=lambda decision: decision.time + decision.duration)
        return JournalUpdate(now, [formatter.format(decision) for decision in chosen], new - len(chosen))

    def _make_room(self) -> None:
        """Drop the oldest, successes first."""
        for ring in (self._successes, self._differing, self._failures):
            while self._bytes > self._max_bytes and ring.held:
                self._bytes -= ring.held.popleft().size + _OVERHEAD
                ring.dropped += 1


def _without_bodies(decision: Decision) -> Decision:
    """The decision without bodies: the hook's fields that are shown are copied, as short as they are shown."""
    hook = decision.hook
    size = 0
    if hook is not None:
        fields = [
            _shorten_field(raw, limit)
            for raw, limit in (
                (hook.node_id, MAX_FIELD), (hook.session_id, MAX_FIELD), (hook.call_id, MAX_FIELD),
                (hook.caller, MAX_NUMBER), (hook.callee, MAX_NUMBER),
            )
        ]  # fmt: skip
        hook = Hook(AppKey(hook.app_key[:MAX_FIELD]), *fields)
        size = sum(map(len, map(bytes, fields)))
    return msgspec.structs.replace(decision, ruling=decision.ruling.with_body(b""), hook=hook, size=size, body=b"")


def _shorten_field(raw: msgspec.Raw, limit: int) -> msgspec.Raw:
    text = field_text(raw, limit)
    return msgspec.Raw() if text is None else msgspec.Raw(msgspec.json.encode(text))
