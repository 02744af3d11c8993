"""Unix time that does not jump when somebody sets the system's clock: for ages, and for when an attempt is due."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

NEAR: Final = 60.0
"""Seconds that an event may have been on its way to the store."""


class SteadyClock:
    """Goes on from the time at which it was made, also where the system's clock jumps."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._base = wall() - monotonic()

    def __call__(self) -> float:
        """Seconds since 1970, as far as they were known at the start."""
        return self._base + self._monotonic()

    @property
    def jump(self) -> int:
        """Whole seconds by which the system's clock is ahead of this one."""
        return round(self._wall() - self._monotonic() - self._base)


def arrival(received: float, now: float) -> float:
    """When an event came, by this clock: as it says itself, unless its clock was set differently."""
    return received if abs(received - now) <= NEAR else now
