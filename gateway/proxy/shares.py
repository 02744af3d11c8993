"""One process's side of limits that hold for a fleet: it measures what hooks demand, and applies this gateway's shares.

Only where ``state`` is configured; elsewhere limits are used as configured, and nothing is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from gateway.fleet.shares import Kind, Measured, Shares, limit_key
from gateway.proxy.routes import Route
from gateway.proxy.tenants import FleetUse, Tenant
from gateway.upstreams import Targets

_START: Final = Shares(divisor=2)
"""Until the first heartbeat, which other replicas there are is not known."""
_WORTH_REPORTING: Final = 8
"""A demand is reported from this part of an even share on: far below what changes a share."""
_MOST: Final = 10.0
"""Times the limit: no demand for places is taken for more."""
_BATCH: Final = 64
"""Apps given another share before hooks get their turn again."""


class ProcessShares:
    """The shares that this process applies, and what it has measured since the last report."""

    def __init__(self, workers: int) -> None:
        """*workers*: the processes of this gateway that decide hooks."""
        self.shares = _START
        self.used_tenants: list[Tenant] = []
        """Apps with limits that had hooks at backends since the last report."""
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self._reported_at = self._loop.time()

    def __repr__(self) -> str:
        return f"<ProcessShares {self.shares}>"

    # --- shares ---

    def set_limits(self, tenant: Tenant, route: Route, now: float) -> None:
        """Give an app its share of its limits as configured now; *now* is loop time."""
        use = tenant.use
        if use is None:
            if route.rate is None and route.max_in_flight is None:
                return
            use = tenant.use = FleetUse()
        if (use.rate, use.max_in_flight) != (route.rate, route.max_in_flight):
            use.rate, use.max_in_flight = route.rate, route.max_in_flight
            self._apply(tenant, use, now)

    def connections(self, target: str, limit: int) -> int:
        """This gateway's share of the connections to a target, by the target's ``fleet_name``."""
        return int(self.shares.part(limit_key(Kind.CONNECTIONS, target), limit))

    async def apply(self, shares: Shares, tenants: Mapping[str, Tenant], targets: Targets) -> None:
        """Use these shares from now on; hooks are handled meanwhile."""
        before, self.shares = self.shares, shares
        changed = {key for key in {*before.listed, *shares.listed} if before.listed.get(key) != shares.listed.get(key)}
        every, prefix = before.divisor != shares.divisor, limit_key(Kind.CONNECTIONS, "")
        of_targets = {key.removeprefix(prefix) for key in changed if key.startswith(prefix)}
        if every or of_targets:
            targets.apply_shares(None if every else of_targets)
        names = tenants.keys() if every else {key.partition(":")[2] for key in changed}
        for number, name in enumerate(list(names), 1):
            tenant = tenants.get(name)
            if tenant is not None and tenant.use is not None:
                self._apply(tenant, tenant.use, self._loop.time())
            if not number % _BATCH:
                await asyncio.sleep(0)

    def _apply(self, tenant: Tenant, use: FleetUse, now: float) -> None:
        name, limit, rate = tenant.name, use.max_in_flight, use.rate
        use.places = None if limit is None else int(self.shares.part(limit_key(Kind.IN_FLIGHT, name), limit))
        if rate is None:
            tenant.limit_share(None, now)
        else:
            part = self.shares.part(limit_key(Kind.RATE, name), rate.per_second)
            tenant.limit_share(rate.scaled(part), now)

    # --- demand ---

    def measure(self, targets: Targets) -> dict[str, Measured]:
        """What hooks of this process demanded of each limit since the last report, where it matters."""
        now = self._loop.time()
        seconds, self._reported_at = max(now - self._reported_at, 0.05), now
        found: dict[str, Measured] = {}
        used, self.used_tenants = self.used_tenants, []
        for tenant in used:
            use = tenant.use
            if use is None:  # it has no limits any more
                continue
            if use.rate is not None:
                hooks = (use.offered - use.crowded) / seconds
                self._report(found, limit_key(Kind.RATE, tenant.name), Measured(use.rate.per_second, hooks))
            if (limit := use.max_in_flight) is not None:
                places = min(_needed_places(use), _MOST * limit)
                measured = Measured(limit, places, tenant.active_hooks)
                self._report(found, limit_key(Kind.IN_FLIGHT, tenant.name), measured)
            use.restart(tenant.active_hooks)
            if use.peak:
                self.used_tenants.append(tenant)
        for name, limit, peak, connections in targets.measure():
            self._report(
                found, limit_key(Kind.CONNECTIONS, name), Measured(limit, min(peak, _MOST * limit), connections)
            )
        return found

    def _report(self, found: dict[str, Measured], key: str, measured: Measured) -> None:
        least = measured.limit / (_WORTH_REPORTING * self.shares.divisor * self._workers)
        if measured.wanted >= least or key in self.shares.listed:
            found[key] = measured


def _needed_places(use: FleetUse) -> float:
    """The places that all hooks would have needed: those over the limit as many as the others, each."""
    return use.peak * use.offered / max(1, use.offered - use.crowded) if use.crowded else float(use.peak)
