"""How many hooks may be at backends at once, in all and of one app, and how fast an app's hooks may come."""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.model.verdicts import Cause, Failure, ProxyError
from gateway.proxy.routes import Route
from gateway.proxy.runtime import Runtime
from gateway.proxy.shares import ProcessShares
from gateway.proxy.tenants import Tenant

_TOO_MANY: Final = Failure(
    Cause.OVERLOAD, ProxyError.CONNECTION_LIMIT_REACHED, "server.max_in_flight hooks are inside the gateway already"
)
_TOO_MANY_OF_APP: Final = Failure(
    Cause.OVERLOAD, ProxyError.CONNECTION_LIMIT_REACHED, "the app's max_in_flight hooks are inside already"
)
_TOO_FAST: Final = Failure(
    Cause.OVERLOAD, ProxyError.CONNECTION_LIMIT_REACHED, "the app's hooks come faster than its rate_limit"
)
_TOO_MANY_OF_SHARE: Final = Failure(
    Cause.OVERLOAD,
    ProxyError.CONNECTION_LIMIT_REACHED,
    "this gateway's share of the app's max_in_flight hooks are inside already",
)
_TOO_FAST_OF_SHARE: Final = Failure(
    Cause.OVERLOAD,
    ProxyError.CONNECTION_LIMIT_REACHED,
    "the app's hooks come faster than this gateway's share of its rate_limit",
)


class Limits:
    """The hooks of one process that are at backends, counted against the limits of all workers together."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._active_count = runtime.active_count
        self._loop = asyncio.get_running_loop()
        self._active = 0

    def count(self, tenant: Tenant | None, change: int) -> None:
        """Add a hook (1) or take one away (-1). Add it before looking at ``exceeded``: no sum is ever too small."""
        self._active = active = self._active + change
        if self._active_count is not None:
            self._active_count.note(active)
        if tenant is not None:
            tenant.active_hooks += change
            if tenant.active_count is not None:
                tenant.active_count.note(tenant.active_hooks)

    def exceeded(self, tenant: Tenant | None, route: Route, max_in_flight: int) -> Failure | None:
        """The limit that the hook just counted exceeds, if any; a hook within all of them uses up some of the rate."""
        active, active_count = self._active, self._active_count
        if active > max_in_flight or (active_count is not None and active_count.total(active) > max_in_flight):
            return _TOO_MANY
        if tenant is None:
            return None
        if (limit := route.max_in_flight) is not None:
            active, active_count = tenant.active_hooks, tenant.active_count
            if active > limit or (active_count is not None and active_count.total(active) > limit):
                return _TOO_MANY_OF_APP
        if tenant.limiter is not None and not tenant.limiter.take(self._loop.time()):
            self._runtime.count_rate_limited(tenant.name)
            return _TOO_FAST
        return None


class FleetLimits(Limits):
    """The same in a fleet: an app's limits are this gateway's shares, and what its hooks demand is measured."""

    def __init__(self, runtime: Runtime, shares: ProcessShares) -> None:
        super().__init__(runtime)
        self._shares = shares

    def exceeded(self, tenant: Tenant | None, route: Route, max_in_flight: int) -> Failure | None:
        """The limit that the hook just counted exceeds, if any; a hook within all of them uses up some of the rate."""
        if tenant is None or (use := tenant.use) is None:
            return super().exceeded(tenant, route, max_in_flight)
        active = tenant.active_hooks
        use.offered += 1
        if active > use.peak:
            if not use.peak:
                self._shares.used_tenants.append(tenant)
            use.peak = active
        every, all_count = self._active, self._active_count
        if every > max_in_flight or (all_count is not None and all_count.total(every) > max_in_flight):
            return _TOO_MANY
        if (places := use.places) is not None:
            active_count = tenant.active_count
            if active > places or (active_count is not None and active_count.total(active) > places):
                use.crowded += 1
                return _TOO_MANY_OF_SHARE
        if tenant.limiter is not None and not tenant.limiter.take(self._loop.time()):
            self._runtime.count_rate_limited(tenant.name)
            return _TOO_FAST_OF_SHARE
        return None
