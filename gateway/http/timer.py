"""A timer whose time is changed often: a connection's next deadline, set and cleared with every hook.

An event loop's own timer costs an entry in its queue when it is made, and again when it is cancelled. Here both are an
assignment; when the one running timer fires, it checks whether its time was changed meanwhile.

A loop that was held up (a paused machine, a busy CPU) may run its timers before it has read what has arrived. A timer
that fires late therefore lets the loop read first: what it waits for may be there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

LAG_THRESHOLD: Final = 0.25
"""Seconds of lateness above which this process itself is the cause."""
GRACE: Final = 0.01
"""Seconds that a loop that was held up gets to read what has arrived."""


def _do_nothing() -> None:
    """The callback of a closed timer."""


class ResettableTimer:
    """Calls *callback* once when the time that was set last has come. Times are loop times, in seconds."""

    __slots__ = ("_callback", "_due", "_excused", "_loop", "_timer", "_timer_at", "late")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._excused = math.inf
        self.late = 0.0
        """Seconds by which it was late the last time; 0 if that was within the usual."""

    def __repr__(self) -> str:
        return f"<ResettableTimer {f'at {self._due:.3f}' if self.is_set else 'off'}>"

    @property
    def is_set(self) -> bool:
        """Whether it will call."""
        return self._due != math.inf

    def set(self, due: float) -> None:
        """Call at *due*, and not at any time set before."""
        self._due = due
        if due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._start(due)

    def clear(self) -> None:
        """Do not call; it may be set again."""
        self._due = math.inf

    def close(self) -> None:
        """Never call again, and release the callback: otherwise the two would keep each other in memory."""
        self._due = math.inf
        self._callback = _do_nothing
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
        due = self._due
        if due == math.inf:
            return
        now = self._loop.time()
        if now < due:
            self._start(due)
            return
        if self._excused != due:
            self.late = 0.0
            if now - due > LAG_THRESHOLD:
                self._excused, self.late = due, now - due
                self._start(now + GRACE)
                return
        self._due = self._excused = math.inf
        self._callback()
