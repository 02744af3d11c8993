"""Notices when this process itself did not run in time: paused, starved of CPU, or overloaded.

Hooks that failed meanwhile are not a backend's fault (see also ``gateway.http.timer``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from gateway.http.timer import LAG_THRESHOLD

logger = logging.getLogger(__name__)

_EVERY: Final = 0.25
"""Seconds between two checks: a lag of twice that is noticed at any time."""


class LoopLagMonitor:
    """Checks at intervals how late the event loop is, and passes the seconds of each noticeable lag to *count*."""

    def __init__(self, loop: asyncio.AbstractEventLoop, count: Callable[[float], None]) -> None:
        self._loop = loop
        self._count = count
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start checking."""
        self._due = self._loop.time() + _EVERY
        self._timer = self._loop.call_at(self._due, self._check)

    def stop(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        late = self._loop.time() - self._due
        self.start()  # first: there is a next check even if the rest raises
        if late > LAG_THRESHOLD:
            self._count(late)
            logger.warning(
                "this gateway was held up for %.1f s: the machine was paused, other processes had the CPU, or it is"
                " overloaded; hooks that were late because of that do not count against any backend",
                late,
                extra={"fields": {"event": "held_up", "held_up_ms": round(late * 1000)}},
            )
