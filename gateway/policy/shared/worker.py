"""What one worker has of the shared memory: its signs of life, and the ways to all that lies there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.policy.shared.accept_order import AcceptOrder
from gateway.policy.shared.breakers import SharedBreaker
from gateway.policy.shared.claims import Claims
from gateway.policy.shared.limits import AppLimits
from gateway.policy.shared.memory import BEAT_EVERY, Memory


class SharedState:
    """Build it inside a running loop."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._loop = asyncio.get_running_loop()
        self.claims = Claims(memory)
        self.accept_order = AcceptOrder(memory)
        self.all_hooks = AppLimits(memory, "server").active_count
        """Hooks that all workers have inside."""
        self.on_beat: Callable[[], None] | None = None
        """Called several times a second."""
        self._beating: asyncio.TimerHandle | None = None
        self._beat()

    def __repr__(self) -> str:
        return f"<Shared {self._memory!r}>"

    def app_limits(self, app: str) -> AppLimits:
        """The counts of an app, by its name in the configuration."""
        return AppLimits(self._memory, f"app {app}")

    def target_breaker(self, upstream: str, url: str) -> SharedBreaker | None:
        """The breaker of a target; None where there is no room for one more."""
        return SharedBreaker.attach(self._memory, f"target {upstream} {url}")

    def close(self) -> None:
        """No more signs of life."""
        self.claims.close()
        if self._beating is not None:
            self._beating.cancel()

    def _beat(self) -> None:
        self._beating = self._loop.call_later(BEAT_EVERY, self._beat)  # first: there is always a next one
        self._memory.beat()
        if self.on_beat is not None:
            self.on_beat()
