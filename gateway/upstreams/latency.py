"""How long a target takes to answer: a running estimate, and the last minute's quantiles, in constant memory."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from typing import Final

_MEAN_GAIN: Final = 1 / 8
_DEVIATION_GAIN: Final = 1 / 4
_DEVIATIONS: Final = 2.0


class LatencyEstimator:
    """A target's usual answer time: the smoothed mean plus twice the smoothed deviation.

    TCP estimates its round trip like this (RFC 6298, section 2), though it adds four deviations.

    Feed it the times of all answers. A timeout gives only a lower bound; it may be fed as such.
    """

    __slots__ = ("_deviation", "_mean")

    def __init__(self) -> None:
        self._mean = -1.0  # nothing observed
        self._deviation = 0.0

    def __repr__(self) -> str:
        return f"<LatencyEstimator {self.estimate() * 1000:.1f} ms>"

    def observe(self, seconds: float) -> None:
        """Add one answer's time in seconds, not negative."""
        mean = self._mean
        if mean < 0.0:
            self._mean = seconds
            self._deviation = seconds / 2
            return
        difference = seconds - mean
        self._mean = mean + _MEAN_GAIN * difference
        self._deviation += _DEVIATION_GAIN * (abs(difference) - self._deviation)

    def estimate(self) -> float:
        """Seconds within which the target usually answers; 0.0 while nothing is known."""
        if self._mean < 0.0:
            return 0.0
        return self._mean + _DEVIATIONS * self._deviation


_SHORTEST: Final = 0.0001
_LONGEST: Final = 60.0
_GROWTH: Final = 1.1
"""From one bucket's bound to the next: a quantile is wrong by the square root of it at most, 5 %."""
_BOUNDS: Final = tuple(
    _SHORTEST * _GROWTH**power for power in range(math.ceil(math.log(_LONGEST / _SHORTEST, _GROWTH)) + 1)
)
_SLOT: Final = 10.0
_SLOTS: Final = 6

Times = Mapping[int, int]
"""Counts by bucket; those of several processes can be added."""


class LastMinute:
    """Answer times of about the last minute (60 to 70 s), counted in buckets. *now* is in seconds, of any one clock."""

    __slots__ = ("_counts", "_ends", "_past")

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS) + 1)
        self._ends = -math.inf
        self._past: deque[tuple[float, Times]] = deque(maxlen=_SLOTS)

    def observe(self, seconds: float, now: float) -> None:
        """Count one time."""
        if now >= self._ends:
            self._turn(now)
        self._counts[bisect_right(_BOUNDS, seconds)] += 1

    def times(self, now: float) -> Times:
        """The counts of the last minute."""
        total: dict[int, int] = {}
        for ends, counts in (*self._past, (self._ends, self._filled())):
            if ends > now - _SLOT * _SLOTS:
                for bucket, count in counts.items():
                    total[bucket] = total.get(bucket, 0) + count
        return total

    def _turn(self, now: float) -> None:
        """Start a new slot."""
        if filled := self._filled():
            self._past.append((self._ends, filled))
            self._counts = [0] * (len(_BOUNDS) + 1)
        self._ends = now + _SLOT

    def _filled(self) -> Times:
        return {bucket: count for bucket, count in enumerate(self._counts) if count}


def quantile(times: Times, part: float) -> float | None:
    """Seconds below which this *part* of the times is, within 5 % from 0.1 ms to 60 s; None if there are none."""
    rank = max(1, math.ceil(part * sum(times.values())))
    for bucket in sorted(times):
        rank -= times[bucket]
        if rank <= 0:
            break
    else:
        return None
    if bucket == 0:
        return _SHORTEST
    return _BOUNDS[bucket - 1] * math.sqrt(_GROWTH) if bucket < len(_BOUNDS) else _BOUNDS[-1]
