"""A timer for a time that keeps being put off: a connection's next deadline, set and called off with every hook.

An event loop's own timer costs a place in its queue each time it is made, and again when it is cancelled. Here both
are an assignment; the one timer that runs looks, when it rings, whether its time has been put off meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


def _nobody() -> None:
    """Whom an alarm calls that is closed."""


class Alarm:
    """Calls *ring* once the time that was set last has come. Times are loop time, in seconds."""

    __slots__ = ("_due", "_loop", "_ring", "_timer", "_timer_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def __repr__(self) -> str:
        return f"<Alarm {f'at {self._due:.3f}' if self.is_set else 'off'}>"

    @property
    def is_set(self) -> bool:
        """Whether it will ring."""
        return self._due != math.inf

    def set(self, due: float) -> None:
        """Ring at *due*, and not at any time set before."""
        self._due = due
        if due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._start(due)

    def clear(self) -> None:
        """Do not ring; it may be set again."""
        self._due = math.inf

    def close(self) -> None:
        """Never ring again, and let go of whoever was to hear it: else the two would keep each other in memory."""
        self._due = math.inf
        self._ring = _nobody
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_at = math.inf

    def _start(self, at: float) -> None:
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        if self._due == math.inf:
            return
        if self._loop.time() < self._due:
            self._start(self._due)
            return
        self._due = math.inf
        self._ring()
