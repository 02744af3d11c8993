"""The fleet's agent: one in the main process of each gateway whose configuration has ``state``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from gateway.config.sections.state import StateConfig
from gateway.fleet.limits import FleetLimits
from gateway.fleet.link import Link
from gateway.fleet.local import Local
from gateway.fleet.membership import Member, Membership
from gateway.telemetry.metrics import Metrics

_CLIENT_NAME: Final = "wcs-gateway"


class FleetAgent:
    """Owns the main process's link and what goes over it. Build it in the running loop; serve inside ``running()``."""

    def __init__(self, config: StateConfig, local: Local, metrics: Metrics) -> None:
        self.config = config
        self.link = Link(config, _CLIENT_NAME, on_late=metrics.state_late.inc, announce=True)
        self.membership = Membership(self.link, local)
        self.limits = FleetLimits(self.membership, local)
        self._metrics = metrics
        self._local = local

    def __repr__(self) -> str:
        return f"<FleetAgent {self.link!r} {self.membership!r}>"

    @property
    def members(self) -> Mapping[str, Member]:
        """The live gateways by id, this one included: see ``Membership.members``."""
        return self.membership.members

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be a member of the fleet while the block serves hooks. Nothing in the block waits for the server."""
        await self.link.start()
        self.limits.start()
        self.membership.start()
        try:
            yield
        finally:
            await self.membership.aclose()
            await self.limits.aclose()
            await self.link.aclose()

    def sample(self) -> None:
        """Set the gauges of the fleet."""
        metrics, members = self._metrics, self.membership.members
        metrics.state_up.with_labels().set(self.link.up)
        metrics.state_degraded.with_labels("limits").set(self.limits.degraded)
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
