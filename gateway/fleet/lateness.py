"""Whether callers in a hurry should leave a slow server alone. Pure: the clock is passed in."""

from __future__ import annotations

from collections import deque
from typing import Final

IN_A_ROW: Final = 3
"""Late answers after which callers who cannot wait longer than that leave the server alone."""
FIRST_REST: Final = 0.05
"""Seconds, more or less, for which they do; after it, one late answer is enough for another rest, twice as long. It is
short, because a server on a busy machine is late for moments only."""
REST: Final = 1.0
"""Seconds of the longest rest."""
CALM_AFTER: Final = 10.0
"""Seconds without a rest after which an answer in time means that the server is quick again."""


class Lateness:
    """Counts answers that were late for their caller, with no answer in time between them."""

    def __init__(self) -> None:
        self._late: deque[float] = deque(maxlen=IN_A_ROW)
        """What the callers of the last late answers could wait."""
        self.limit = 0.0
        """Seconds: callers who cannot wait longer are concerned. 0 while the server is quick."""
        self._counted_at = float("-inf")
        self._rest_until = 0.0
        self._next_rest = FIRST_REST
        self._last_rest = 0.0

    def __repr__(self) -> str:
        return f"<Lateness {list(self._late)} limit {self.limit:g}>"

    def is_resting(self, limit: float, now: float) -> bool:
        """Whether a caller who can wait *limit* seconds should not ask now."""
        return limit <= self.limit and now < self._rest_until

    def note_late(self, limit: float, sent_at: float, now: float, jitter: float = 1.0) -> bool:
        """Note an answer that did not come within *limit* seconds. Returns whether the server has just become slow.

        *jitter* is a factor of how long the next rest is.
        Commands that were on their way together are late together: they count once.
        """
        if sent_at < self._counted_at:
            return False
        self._counted_at = now
        self._late.append(limit)
        if len(self._late) < IN_A_ROW:
            return False
        was_quick = self.limit == 0.0
        self.limit, self._rest_until, self._last_rest = min(self._late), now + self._next_rest * jitter, now
        self._next_rest = min(REST, 2 * self._next_rest)
        return was_quick

    def note_answer(self, took: float, now: float) -> bool:
        """Note an answer after *took* seconds. Returns whether the server is quick again."""
        if self._late and max(self._late) > took:
            self._late = deque((limit for limit in self._late if limit <= took), IN_A_ROW)
        if took < self.limit:
            self._next_rest = FIRST_REST
        if self.limit <= took or now - self._last_rest < CALM_AFTER:
            return False
        self.limit = 0.0
        return True
