"""How long a target usually takes: a running estimate in constant memory."""

from __future__ import annotations

from typing import Final

_MEAN_GAIN: Final = 1 / 8
_DEVIATION_GAIN: Final = 1 / 4
_DEVIATIONS: Final = 2.0


class Usual:
    """A target's usual answer time: the smoothed mean and twice the smoothed deviation, as TCP estimates its
    round trip (RFC 6298, section 2), though less cautious than its four deviations.

    Feed it the answers, verdicts and error statuses alike. A time-out tells only a lower bound; it may be fed as such.
    """

    __slots__ = ("_deviation", "_mean")

    def __init__(self) -> None:
        self._mean = -1.0  # nothing observed
        self._deviation = 0.0

    def __repr__(self) -> str:
        return f"<Usual {self.estimate() * 1000:.1f} ms>"

    def observe(self, seconds: float) -> None:
        """Take in one answer's time, not negative."""
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
