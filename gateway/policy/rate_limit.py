"""How many hooks per second an app may send: the settings, and the limiter that counts.

Not the ``limits`` library: of its strategies none has a burst, each reads the clock itself, and its memory storage
starts a thread. A take costs it 2.4 to 5.4 µs, this one 0.05 to 0.1 µs (version 5.8.0, one machine, one run).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from gateway.model.units import SECONDS

_match_rate = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)/([smh])(?: +burst +([0-9]{1,9}))?").fullmatch
MAX_PER_SECOND: Final = 1_000_000
MAX_BURST: Final = 10_000_000
PATTERN: Final = r"[0-9]{1,9}(?:\.[0-9]{1,6})?/[smh](?: +burst +[0-9]{1,9})?"
"""What a rate looks like, for a JSON Schema."""
ENOUGH: Final = 0.999
"""Of one hook's room: a clock in floats may have lost the rest. What is taken too much is filled in first."""
FORM: Final = "must be a rate such as 50/s, 300/m, or 50/s burst 100"


class Rate(NamedTuple):
    """Hooks per second in the long run, and the largest burst."""

    per_second: float
    burst: int

    def __str__(self) -> str:
        unit = next((unit for unit in ("s", "m", "h") if self.per_second * SECONDS[unit] >= 1), "h")
        number = f"{self.per_second * SECONDS[unit]:.6f}".rstrip("0").rstrip(".")
        return f"{number}/{unit} burst {self.burst}"

    def per_worker(self, workers: int) -> Rate:
        """One worker's share while it cannot count together with the others; its burst is at least 1."""
        return Rate(self.per_second / workers, max(1, self.burst // workers))

    def scaled(self, per_second: float) -> Rate:
        """The part of it that has this many hooks a second, and the same part of its burst, which is at least 1."""
        return Rate(per_second, max(1, int(self.burst * per_second / self.per_second + 1e-9)))


def parse_rate(text: str) -> Rate:
    """``50/s``, ``300/m``, ``50/s burst 100``; without a burst, one second's worth. Raises ValueError."""
    match = _match_rate(text)
    if match is None:
        raise ValueError(FORM)
    number, unit, burst = match.groups()
    per_second = float(number) / SECONDS[unit]
    if not 0 < per_second <= MAX_PER_SECOND:
        raise ValueError(f"must be more than 0 and at most {MAX_PER_SECOND}/s")
    if burst is None:
        return Rate(per_second, max(1, int(per_second)))
    if not 1 <= int(burst) <= MAX_BURST:
        raise ValueError(f"must have a burst from 1 to {MAX_BURST}")
    return Rate(per_second, int(burst))


class Limiter:
    """A token bucket: it holds up to *burst* hooks and is filled up at the rate.

    The clock is the caller's, in seconds, and may stand still: hooks of the same instant share what there is. Where it
    goes back, the bucket stays as it is and fills from the new time on.
    """

    __slots__ = ("_burst", "_filled_at", "_left", "_per_second")

    def __init__(self, rate: Rate, now: float) -> None:
        self._per_second = rate.per_second
        self._burst = self._left = float(rate.burst)
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Whether one more hook may come now; if so, it is counted."""
        left = self._left
        if now != self._filled_at:
            if now > self._filled_at:
                left += (now - self._filled_at) * self._per_second
                if left > self._burst:
                    left = self._burst
            self._filled_at = now
        if left < ENOUGH:
            self._left = left
            return False
        self._left = left - 1.0
        return True

    def configure(self, rate: Rate) -> None:
        """Change the rate. What has been taken stays taken: a reload is no way around the limit."""
        taken = self._burst - self._left
        self._per_second = rate.per_second
        self._burst = float(rate.burst)
        self._left = max(0.0, self._burst - taken)

    def rescale(self, rate: Rate, now: float) -> None:
        """Become another part of a fleet's rate. Nothing is given for that: what is left fills up at the new rate."""
        if now > self._filled_at:
            self._left = min(self._burst, self._left + (now - self._filled_at) * self._per_second)
            self._filled_at = now
        self._per_second = rate.per_second
        self._burst = float(rate.burst)
        self._left = min(self._left, self._burst)
