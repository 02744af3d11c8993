"""An app's live state in one process: what a reload must not forget, and what every hook of the app touches.

It lies together in one place, for with ten thousand apps each hook's is cold: a look-up per piece would cost a hook
more than the piece itself.
"""

from __future__ import annotations

from gateway.model.decision import AppCache
from gateway.policy.rate_limit import Limiter, Rate
from gateway.policy.shared import AppLimits, HookCount, SharedLimiter
from gateway.telemetry.metrics.cells import Value


class Tenant(AppCache):
    """An app that is served, by its name in the configuration: a glob is one, whatever its appKeys."""

    __slots__ = ("_shared", "active_count", "active_hooks", "in_flight", "limiter", "name")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.in_flight: Value | None = None
        """Its hooks inside, repeats that wait for a verdict included; None before it is served."""
        self.active_hooks = 0
        """Its hooks that a backend is asked for, in this process: each has a place under the limits."""
        self.active_count: HookCount | None = None
        """The same of all workers; None where there is no other, or no limit."""
        self.limiter: Limiter | SharedLimiter | None = None
        self._shared: AppLimits | None = None

    def __repr__(self) -> str:
        return f"<Tenant {self.name} {self.limiter!r}>"

    def limit(self, rate: Rate | None, now: float) -> None:
        """Take hooks at this rate from now on; what has been taken stays taken."""
        if rate is None:
            self.limiter = None
        elif self.limiter is not None:
            self.limiter.configure(rate)
        elif self._shared is not None:
            self.limiter = self._shared.limiter(rate, now)
        else:
            self.limiter = Limiter(rate, now)

    def share(self, limits: AppLimits) -> None:
        """Count its hooks together with those of the other workers from now on."""
        self._shared, self.active_count = limits, limits.active_count
        self.active_count.note(self.active_hooks)

    @property
    def is_shared(self) -> bool:
        """Whether it counts together with other workers."""
        return self._shared is not None

    def leave(self) -> bool:
        """The configuration has it no more; False while hooks of it are under way."""
        if self.active_hooks:
            return False
        if self._shared is not None:
            self._shared.leave()
        return True
