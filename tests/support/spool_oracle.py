"""Judges what became of events: lost, doubled, out of order, damaged, invented.

It knows what the media server sent and what it was answered (``Sent``, from ``spool_load``), and what the backend got
and answered (``Received``, from ``spool_backend``). Times are those of ``time.monotonic()``, the same in all processes.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

CRASH_GRACE: Final = 2.0
"""Seconds before a crash in which a delivery may not yet have been written down as done."""


class Sent(NamedTuple):
    """An event as the media server knows it."""

    id: str
    """Unique; in its body."""
    key: str
    """Events with the same key are to stay in order."""
    digest: str
    """Of its body."""
    begun: float
    ended: float
    status: int
    """0 where no answer came."""


class Received(NamedTuple):
    """One attempt as the backend knows it."""

    id: str
    digest: str
    asked: float
    redelivery: str | None = None
    """The header fields of the gateway."""
    event_time: str | None = None
    idempotency_key: str | None = None
    answered: float | None = None
    """None where it gave no answer."""
    status: int = 0
    read: bool = False
    """Whether the gateway had the answer: its connection was open, and was not reset afterwards."""

    @property
    def is_delivery(self) -> bool:
        """Whether the gateway has read that the backend took the event, or rejected it for good."""
        return self.read and (200 <= self.status < 300 or self.status == 403)


class Crash(NamedTuple):
    """When a process was killed: somewhere between these two."""

    begun: float
    ended: float

    @classmethod
    def by(cls, kill: Callable[[], object]) -> Crash:
        """Kill it so. The caller may be kept off the processor in the midst of that."""
        begun = time.monotonic()
        kill()
        return cls(begun, time.monotonic())

    def excuses(self, first: Received, second: Received) -> bool:
        """Whether it may have come between a delivery and what would have been written down of it."""
        read = _read_at(first)
        return read - 0.001 <= self.ended and self.begun <= second.asked and self.begun - read <= CRASH_GRACE


@dataclass
class Findings:
    """What was found; each list has the ids of the events."""

    sent: int = 0
    promised: int = 0
    """Answered 200."""
    delivered: int = 0
    """Events that the backend took, once or more often."""
    redelivered: int = 0
    """Those of them that came from the spool."""
    lost: list[str] = field(default_factory=list)
    """Answered 200, and neither delivered nor accounted for."""
    doubled: list[str] = field(default_factory=list)
    """Two answers were read that said that the event was taken."""
    doubled_by_crash: list[str] = field(default_factory=list)
    """The same where a process was killed between the two, and the first one had just been read."""
    out_of_order: list[str] = field(default_factory=list)
    """They came to the backend before an earlier event of the same key was delivered."""
    damaged: list[str] = field(default_factory=list)
    """Other bytes than were sent."""
    invented: list[str] = field(default_factory=list)
    """Nobody sent them."""
    rekeyed: list[str] = field(default_factory=list)
    """Attempts of one event with different idempotency keys, or one without."""

    @property
    def violations(self) -> dict[str, list[str]]:
        """What must not be, by kind; a few examples each."""
        kinds = ("lost", "doubled", "out_of_order", "damaged", "invented", "rekeyed")
        return {kind: found[:5] for kind in kinds if (found := getattr(self, kind))}

    def __str__(self) -> str:
        return (
            f"{self.sent} sent, {self.promised} answered 200, {self.delivered} delivered ({self.redelivered} later), "
            f"{len(self.lost)} lost, {len(self.doubled)} doubled (+{len(self.doubled_by_crash)} by a crash), "
            f"{len(self.out_of_order)} out of order"
        )


def judge(
    sent: Sequence[Sent],
    received: Iterable[Received],
    *,
    crashes: Sequence[Crash] = (),
    gap: float = 0.0,
    accounted: Collection[str] = (),
) -> Findings:
    """Compare both sides.

    *crashes*: when processes were killed; *gap*: seconds after an answer from which order must hold; *accounted*: ids
    of the events that are dead letters, or were dropped by a bound.
    """
    attempts: dict[str, list[Received]] = defaultdict(list)
    for attempt in received:
        attempts[attempt.id].append(attempt)
    found = Findings(sent=len(sent), promised=sum(one.status == 200 for one in sent))
    known = {one.id: one for one in sent}
    found.invented = [event for event in attempts if event not in known]
    for event in sent:
        _judge_event(event, attempts.get(event.id, []), found, crashes, event.id in accounted)
    keys: dict[str, list[Sent]] = defaultdict(list)
    for event in sent:
        keys[event.key].append(event)
    left_out = {*accounted, *found.lost}
    for events in keys.values():
        found.out_of_order += _out_of_order(events, attempts, gap, left_out)
    return found


def _judge_event(
    event: Sent, attempts: list[Received], found: Findings, crashes: Sequence[Crash], accounted: bool
) -> None:
    deliveries = [attempt for attempt in attempts if attempt.is_delivery]
    found.delivered += bool(deliveries)
    found.redelivered += bool(deliveries) and deliveries[0].redelivery is not None
    if not deliveries and event.status == 200 and not accounted:
        found.lost.append(event.id)
    for first, second in itertools.pairwise(deliveries):
        excused = any(crash.excuses(first, second) for crash in crashes)
        (found.doubled_by_crash if excused else found.doubled).append(event.id)
    if any(attempt.digest != event.digest for attempt in attempts):
        found.damaged.append(event.id)
    if len({attempt.idempotency_key for attempt in attempts} | {None}) > 2 or any(
        attempt.idempotency_key is None for attempt in attempts
    ):
        found.rekeyed.append(event.id)


def _out_of_order(
    events: list[Sent], attempts: dict[str, list[Received]], gap: float, left_out: Collection[str]
) -> Iterator[str]:
    """Those that came to the backend before one that had been answered when they were sent was delivered."""
    answered = sorted(
        (one for one in events if one.status == 200 and one.id not in left_out), key=lambda one: one.ended
    )
    done, latest = 0, -math.inf
    for event in sorted(events, key=lambda one: one.begun):
        while done < len(answered) and answered[done].ended + gap <= event.begun:
            first = min(map(_read_at, (each for each in attempts[answered[done].id] if each.is_delivery)))
            latest = max(latest, first)
            done += 1
        if any(attempt.asked < latest for attempt in attempts.get(event.id, ())):
            yield event.id


def _read_at(delivery: Received) -> float:
    assert delivery.answered is not None
    return delivery.answered
