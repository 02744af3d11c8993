"""Notices that this process itself did not run when it should have: paused, starved, or busy beyond its CPU.

Whoever sees calls refused then must not look for the cause at a backend (see also ``gateway.http.timer``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from gateway.http.timer import LAG_THRESHOLD

logger = logging.getLogger(__name__)

_EVERY: Final = 0.25
"""Seconds between two looks: hold-ups of twice that are noticed wherever they begin."""


class LoopLagMonitor:
    """Looks at its watch at intervals, and tells *count* the seconds by which the loop was late to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, count: Callable[[float], None]) -> None:
        self._loop = loop
        self._count = count
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look."""
        self._due = self._loop.time() + _EVERY
        self._timer = self._loop.call_at(self._due, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        late = self._loop.time() - self._due
        self.start()  # first: also if the rest raises, there is a next look
        if late > LAG_THRESHOLD:
            self._count(late)
            logger.warning(
                "this gateway was held up for %.1f s: the machine was paused, others had its CPU, or it has more to do"
                " than it can; what ran late because of that is held against no backend",
                late,
                extra={"fields": {"event": "held_up", "held_up_ms": round(late * 1000)}},
            )
