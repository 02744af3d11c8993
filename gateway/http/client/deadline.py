"""A time limit for several steps together, fair to them where the event loop itself is late."""

from __future__ import annotations

import asyncio
from types import TracebackType

from gateway.http.timer import LAG_THRESHOLD, ResettableTimer


class Deadline:
    """As ``asyncio.timeout_at``, but a loop that was held up first looks at what has arrived (see ResettableTimer)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        self._loop = loop
        self._when = when
        self._timeout = asyncio.timeout(None)
        self._timer = ResettableTimer(loop, self._expire)
        self._begun_late = 0.0

    @property
    def late(self) -> float:
        """Seconds by which the loop was late to begin or to end it; 0 where that is no more than usual."""
        return self._begun_late or self._timer.late

    async def __aenter__(self) -> Deadline:
        await self._timeout.__aenter__()
        over = self._loop.time() - self._when
        if over >= 0.0:
            self._begun_late = over if over > LAG_THRESHOLD else 0.0
            self._expire()
        else:
            self._timer.set(self._when)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.close()
        await self._timeout.__aexit__(kind, value, traceback)

    def _expire(self) -> None:
        self._timeout.reschedule(self._loop.time())
