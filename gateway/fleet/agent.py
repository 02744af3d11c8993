"""The fleet's agent: one in the main process of each gateway whose configuration has ``state``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import msgspec

from gateway.config.sections.state import StateConfig
from gateway.fleet.departures import Departures
from gateway.fleet.hints import Hints
from gateway.fleet.limits import FleetLimits
from gateway.fleet.link import Link
from gateway.fleet.local import Description, Local
from gateway.fleet.membership import Member, Membership, reachable_address
from gateway.fleet.orders import Orders
from gateway.telemetry.metrics import Metrics

_CLIENT_NAME: Final = "wcs-gateway"
_SETTLE_LIMIT: Final = 0.3
"""Seconds at the start for the orders in force: then no hook goes to a target that an operator ejected elsewhere."""


class FleetAgent:
    """Owns the main process's link and what goes over it. Build it in the running loop; serve inside ``running()``."""

    def __init__(self, config: StateConfig, local: Local, metrics: Metrics) -> None:
        self.config = config
        self.link = Link(config, _CLIENT_NAME, on_late=metrics.state_late.inc, announce=True)
        self.membership = Membership(self.link, local)
        self.limits = FleetLimits(self.membership, local)
        self.departures = Departures(self.link, self.membership)
        self.orders = Orders(self.link, self.membership, local)
        self.hints = Hints(self.link, local, self.membership.id)
        self._metrics = metrics
        self._local = local

    def __repr__(self) -> str:
        return f"<FleetAgent {self.link!r} {self.membership!r}>"

    @property
    def members(self) -> Mapping[str, Member]:
        """The live gateways by id, this one included: see ``Membership.members``."""
        return self.membership.members

    def describe(self) -> Description:
        """This gateway in its own words, with the address of its admin port by which others reach it."""
        description = self._local.describe()
        admin = reachable_address(description.admin, self.link.local_host or "")
        return msgspec.structs.replace(description, admin=admin)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be a member of the fleet while the block serves hooks. Nothing in the block waits for the server."""
        await self.link.start()
        self.limits.start()
        self.membership.start()
        self.hints.start()
        self.orders.start()
        try:
            await self.orders.wait_until_settled(_SETTLE_LIMIT)
            yield
        finally:
            await self.orders.aclose()
            await self.hints.aclose()
            self.departures.leave()
            await self.membership.aclose()
            await self.limits.aclose()
            await self.link.aclose()

    def sample(self) -> None:
        """Set the gauges of the fleet."""
        metrics, members = self._metrics, self.membership.members
        metrics.state_up.with_labels().set(self.link.up)
        metrics.state_degraded.with_labels("limits").set(self.limits.degraded)
        metrics.state_degraded.with_labels("orders").set(not self.link.up)
        metrics.fleet_replicas.with_labels().set(len(members))
        revisions = {member.description.revision for member in members.values()}
        metrics.fleet_config_mismatch.with_labels().set(len(revisions) > 1)

    def status(self) -> dict[str, Any]:
        """What ``/api/status`` says of the state."""
        return {
            "url": str(self.config.url),
            "up": self.link.up,
            "error": self.link.error,
            "dedupe": self.config.dedupe,
            "replicas": len(self.membership.members),
            "stale": self.membership.stale,
            "limits": self.limits.status(),
        }
