"""An app's live state in one process: what a reload must keep, and what every hook of the app uses.

It is one object: with ten thousand apps each hook's is cold in the caches, and a look-up per part would cost more than
the parts.
"""

from __future__ import annotations

from gateway.model.decision import AppCache
from gateway.policy.rate_limit import Limiter, Rate
from gateway.policy.shared import AppLimits, HookCount, RescaledLimiter, SharedLimiter
from gateway.telemetry.metrics.cells import Value


class FleetUse:
    """What is measured of an app whose limits hold for a fleet, and this gateway's share of them."""

    __slots__ = ("crowded", "max_in_flight", "offered", "peak", "places", "rate")

    def __init__(self) -> None:
        self.rate: Rate | None = None
        """As configured, for the fleet."""
        self.max_in_flight: int | None = None
        """As configured, for the fleet."""
        self.places: int | None = None
        """This gateway's share of it."""
        self.offered = 0
        """Hooks since the last report, those over a limit included."""
        self.crowded = 0
        """Those of them over *places*."""
        self.peak = 0
        """The most hooks at backends since then, in this process."""

    def restart(self, active: int) -> None:
        """Begin another report, with the hooks that are at backends now."""
        self.offered, self.crowded, self.peak = 0, 0, active


class Tenant(AppCache):
    """A configured app, by its name: a glob is one, for all its appKeys."""

    __slots__ = ("_shared", "active_count", "active_hooks", "in_flight", "limiter", "name", "use")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.in_flight: Value | None = None
        """The gauge of its hooks in flight, waiting repeats included; None before it is in force."""
        self.active_hooks = 0
        """Its hooks at backends, in this process; they count against its max_in_flight."""
        self.active_count: HookCount | None = None
        """The same over all workers; None with a single one, or without a limit."""
        self.limiter: Limiter | SharedLimiter | None = None
        self.use: FleetUse | None = None
        """Only of an app with limits, in a fleet."""
        self._shared: AppLimits | None = None

    def __repr__(self) -> str:
        return f"<Tenant {self.name} {self.limiter!r}>"

    def limit(self, rate: Rate | None, now: float) -> None:
        """Set the rate of its hooks; what has been used of it stays used. *now*: loop time."""
        if rate is None:
            self.limiter = None
        elif self.limiter is not None:
            self.limiter.configure(rate)
        elif self._shared is not None:
            self.limiter = self._shared.limiter(rate, now)
        else:
            self.limiter = Limiter(rate, now)

    def limit_share(self, rate: Rate | None, now: float) -> None:
        """The same in a fleet: *rate* is this gateway's share, and what is left of it stays left. *now*: loop time."""
        if rate is None:
            self.limiter = None
        elif isinstance(self.limiter, Limiter | RescaledLimiter):
            self.limiter.rescale(rate, now)
        elif self._shared is not None:
            self.limiter = self._shared.rescaled_limiter(rate, now)
        else:
            self.limiter = Limiter(rate, now)

    def share(self, limits: AppLimits) -> None:
        """Count its hooks together with the other workers' from now on."""
        self._shared, self.active_count = limits, limits.active_count
        self.active_count.note(self.active_hooks)

    @property
    def is_shared(self) -> bool:
        """Whether it counts together with other workers."""
        return self._shared is not None

    def leave(self) -> bool:
        """Release it after it left the configuration; False while hooks of it are in flight."""
        if self.active_hooks:
            return False
        if self._shared is not None:
            self._shared.leave()
        return True
