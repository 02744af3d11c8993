"""The current activity: rates and quantiles per app, from the metrics of the last seconds.

Hooks do no extra work for it: the metrics are read once a second, in a thread, and only while somebody asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import operator
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.admin import insights
from gateway.admin.insights import Insights, Special
from gateway.model.decision import UNKNOWN_APP
from gateway.model.text import timestamp
from gateway.model.verdicts import Reason, Source, Verdict
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.metrics.catalogue import DURATION_BUCKETS
from gateway.telemetry.metrics.shared import WorkerMetrics

logger = logging.getLogger(__name__)

WINDOW: Final = 10
"""Seconds, and number of readings, that rates cover."""
READ_EVERY: Final = 1.0
"""Seconds between two readings."""
KEEP_READING: Final = 15.0
"""Seconds that readings continue after the last request."""
MOST_APPS: Final = 1000
"""The most apps in one answer."""
_FIRST_READ_AFTER: Final = 0.25
"""Seconds between the first two readings; the first request waits for both."""
_READING_TIMEOUT: Final = 3.0
"""Seconds that a request waits for them."""
_REST_FACTOR: Final = 25
"""The pause after a reading, as a multiple of its duration: with very many apps, readings become rarer."""
_DECIDED: Final = frozenset((Reason.OK, Reason.DENIED))

Counts = Mapping[tuple[str, ...], float]
"""A counter's or gauge's series by label values."""
Histograms = Mapping[tuple[str, ...], Sequence[float]]
"""A histogram's series by label values: observations per bucket, then their sum."""


class Reading(NamedTuple):
    """The counters of all processes at one time."""

    time: float
    """Seconds of the monotonic clock."""
    hooks: Counts
    """By app, method, verdict, source, reason."""
    durations: Histograms
    """In seconds, by app (empty where histograms carry none) and method."""
    in_flight: Counts
    """By app; every configured app has a series."""
    special: Special = MappingProxyType({})
    """The counters of the insights."""


def read(metrics: Metrics, others: Collection[WorkerMetrics] = ()) -> Reading:
    """The current counters, including those of the *others*."""
    for other in others:
        other.refresh()
    return Reading(
        time.monotonic(),
        metrics.totals(metrics.hooks, others),
        metrics.merged_values(metrics.duration, others),
        metrics.totals(metrics.in_flight, others),
        insights.read(metrics, others),
    )


class Step(NamedTuple):
    """The counts between two readings, without series that did not change."""

    seconds: float
    hooks: Counts
    durations: Histograms
    special: Special = MappingProxyType({})


def step(earlier: Reading, later: Reading) -> Step:
    """The difference of two readings. All of a series counts if it is new or was reset."""
    hooks = {}
    for labels, total in later.hooks.items():
        before = earlier.hooks.get(labels, 0.0)
        if total != before:
            hooks[labels] = total - before if total > before else total
    durations = {}
    for labels, buckets in later.durations.items():
        known = earlier.durations.get(labels)
        if known is None or any(map(operator.lt, buckets, known)):
            durations[labels] = buckets
        elif known != buckets:
            durations[labels] = list(map(operator.sub, buckets, known))
    return Step(later.time - earlier.time, hooks, durations, insights.difference(earlier.special, later.special))


def quantile(share: float, buckets: Sequence[float], bounds: Sequence[float] = DURATION_BUCKETS) -> float | None:
    """The value that a *share* of the observations does not exceed; None without observations.

    *buckets*: observations per bucket; the last one has those above all bounds. Interpolates linearly within a bucket,
    as Prometheus's histogram_quantile does, so the error is less than the bucket's width. Above the last bound, the
    result is that bound.
    """
    total = sum(buckets)
    if not total:
        return None
    rank, below, lower = share * total, 0.0, 0.0
    for bound, count in zip(bounds, buckets, strict=False):
        if count and below + count >= rank:
            return lower + (bound - lower) * max(0.0, rank - below) / count
        below += count
        lower = bound
    return bounds[-1]


class _Tally:
    """Counts of one app, or of all, within the window."""

    __slots__ = ("allowed_by_fallback", "buckets", "reasons", "rejected_by_fallback", "spooled", "verdicts")

    def __init__(self) -> None:
        self.verdicts = dict.fromkeys((Verdict.ALLOW.value, Verdict.REJECT.value, Verdict.ERROR.value), 0.0)
        self.reasons: dict[str, float] = {}
        self.allowed_by_fallback = 0.0
        self.rejected_by_fallback = 0.0
        self.spooled = 0.0
        self.buckets = [0.0] * (len(DURATION_BUCKETS) + 1)

    def count(self, verdict: str, source: str, reason: str, hooks: float) -> None:
        self.verdicts[verdict] += hooks
        if reason not in _DECIDED:
            self.reasons[reason] = self.reasons.get(reason, 0.0) + hooks
        if source == Source.FALLBACK:
            if verdict == Verdict.ALLOW:
                self.allowed_by_fallback += hooks
            else:
                self.rejected_by_fallback += hooks
        elif source == Source.SPOOL:
            self.spooled += hooks

    def add_durations(self, values: Sequence[float]) -> None:
        self.buckets = [mine + more for mine, more in zip(self.buckets, values[:-1], strict=True)]

    @property
    def hooks(self) -> float:
        return sum(self.verdicts.values())

    @property
    def trouble(self) -> float:
        return sum(self.reasons.values())

    def as_json(self, seconds: float) -> dict[str, Any]:
        """Rates per second, most frequent reasons first, and quantiles in milliseconds."""
        reasons = sorted(self.reasons.items(), key=lambda item: -item[1])
        return {
            "per_second": _rate(self.hooks, seconds),
            **{verdict: _rate(hooks, seconds) for verdict, hooks in self.verdicts.items()},
            "reasons": {reason: _rate(hooks, seconds) for reason, hooks in reasons},
            "allowed_by_fallback": _rate(self.allowed_by_fallback, seconds),
            "rejected_by_fallback": _rate(self.rejected_by_fallback, seconds),
            "spooled": _rate(self.spooled, seconds),
            "p50_ms": _milliseconds(quantile(0.5, self.buckets)),
            "p99_ms": _milliseconds(quantile(0.99, self.buckets)),
        }


class Activity:
    """The activity within a window."""

    def __init__(self, steps: Iterable[Step], in_flight: Counts, special: Special = MappingProxyType({})) -> None:
        steps = tuple(steps)
        self.seconds = 0.0
        self.time = time.time()
        self._total = _Tally()
        self._in_flight = {labels[0]: hooks for labels, hooks in in_flight.items()}
        tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
        for taken in steps:
            self.seconds += taken.seconds
            for (app, _, verdict, source, reason), hooks in taken.hooks.items():
                tallies[app].count(verdict, source, reason, hooks)
                self._total.count(verdict, source, reason, hooks)
            for (app, _), values in taken.durations.items():
                if app:
                    tallies[app].add_durations(values)
                self._total.add_durations(values)
        self._tallies = tallies
        self.insights = Insights(special, (taken.special for taken in steps), self.seconds)
        busy = (app for app in tallies if tallies[app].hooks)
        self._busy = sorted(busy, key=lambda app: (-tallies[app].trouble, -tallies[app].hooks, app))

    @property
    def in_flight(self) -> int:
        """The number of hooks in flight."""
        return round(sum(self._in_flight.values()))

    def as_json(self, most: int) -> dict[str, Any]:
        """The answer of ``GET /api/activity``; *most* apps: most failures first, then most hooks, then the rest."""
        return {
            "time": timestamp(self.time),
            "window_seconds": round(self.seconds, 3),
            "in_flight": self.in_flight,
            "total": self._total.as_json(self.seconds),
            "apps": [self._app(app) for app in self._first(most)],
            "app_count": len(self._in_flight.keys() - {UNKNOWN_APP}),
        }

    def hooks_as_json(self) -> dict[str, Any]:
        """The ``hooks`` of ``GET /api/status``; rates are null before there are two readings."""
        total, seconds = self._total, self.seconds
        return {
            "in_flight": self.in_flight,
            "per_second": _rate(total.hooks, seconds),
            "rejected_per_second": _rate(total.verdicts[Verdict.REJECT], seconds),
            "allowed_by_fallback_per_second": _rate(total.allowed_by_fallback, seconds),
            "rejected_by_fallback_per_second": _rate(total.rejected_by_fallback, seconds),
        }

    def _first(self, most: int) -> list[str]:
        first = self._busy[:most]
        known = set(self._busy)
        quiet = (app for app in self._in_flight if app not in known and app != UNKNOWN_APP)
        return [*first, *islice(quiet, most - len(first))]

    def _app(self, app: str) -> dict[str, Any]:
        tally = self._tallies.get(app) or _Tally()
        return {"app": app, "in_flight": round(self._in_flight.get(app, 0.0)), **tally.as_json(self.seconds)}


def _rate(hooks: float, seconds: float) -> float | None:
    return round(hooks / seconds, 3) if seconds else None


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


class Sampler:
    """Takes readings while somebody asks, and keeps the differences within the window."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read
        self._last: Reading | None = None
        self._steps: deque[Step] = deque(maxlen=WINDOW)
        self._activity = Activity((), {})
        self._until = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._new = asyncio.Event()
        """Set, and replaced, with each reading."""
        self._closed = False

    def __repr__(self) -> str:
        return f"<Sampler {'reading' if self._is_reading else 'paused'}, {len(self._steps)} steps>"

    @property
    def _is_reading(self) -> bool:
        return self._reading is not None and not self._reading.done()

    def ask(self) -> Activity | None:
        """The current activity; None after a pause, in which case readings start now."""
        self._until = time.monotonic() + KEEP_READING
        if not self._is_reading and not self._closed:
            self._last = None  # rates must not cover the pause
            self._steps.clear()
            self._reading = asyncio.create_task(self._keep_reading())
        return self._activity if self._steps else None

    async def activity(self) -> Activity:
        """The current activity; after a pause, waits for the first two readings."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READING_TIMEOUT):
                while (activity := self.ask()) is None and not self._closed:
                    await self._new.wait()
        return activity or self._activity

    async def aclose(self) -> None:
        """Stop reading."""
        self._closed = True
        self._notify()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _keep_reading(self) -> None:
        while time.monotonic() < self._until:
            began = time.monotonic()
            try:
                await asyncio.to_thread(self._take)
            except Exception:
                logger.exception("the activity could not be read")
            self._notify()
            took = time.monotonic() - began
            every = READ_EVERY if self._steps else _FIRST_READ_AFTER
            await asyncio.sleep(max(every - took, took * _REST_FACTOR if self._steps else 0.0))
        self._last = None  # it is large with very many apps

    def _take(self) -> None:
        """Take one reading; runs in a thread."""
        reading = self._read()
        if self._last is not None:
            self._steps.append(step(self._last, reading))
            self._activity = Activity(self._steps, reading.in_flight, reading.special)
        self._last = reading

    def _notify(self) -> None:
        previous, self._new = self._new, asyncio.Event()
        previous.set()
