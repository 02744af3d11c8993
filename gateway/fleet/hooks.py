"""What each process that decides hooks shares with the other replicas: sessions, and claims of hooks.

It has a connection of its own, so that nothing which the main process asks of the server makes a hook wait.
"""

from __future__ import annotations

from gateway.config.sections.state import StateConfig
from gateway.fleet.claims import FleetClaims
from gateway.fleet.link import Link
from gateway.fleet.sessions import FleetSessions
from gateway.telemetry.metrics import Metrics


class FleetHooks:
    """The part of the fleet that is one process which decides hooks. Build it inside a running loop."""

    def __init__(self, state: StateConfig, metrics: Metrics) -> None:
        self._link = Link(state, "wcs-gateway-hooks", on_late=metrics.state_late.inc)
        self.sessions = FleetSessions(self._link)
        self.claims = FleetClaims(self._link, state.timeout) if state.dedupe else None
        """None where hooks are claimed in this gateway only."""
        metrics.on_scrape(lambda: self.sample(metrics))

    def __repr__(self) -> str:
        return f"<FleetHooks {self._link!r}>"

    @property
    def is_up(self) -> bool:
        """Whether the other replicas can be asked and told."""
        return self._link.up

    def sample(self, metrics: Metrics) -> None:
        """Set the gauges of what does without the server."""
        degraded = metrics.state_degraded.with_labels
        degraded("sessions").set(not self._link.up)
        if self.claims is not None:
            degraded("dedupe").set(not self._link.up or self._link.error is not None)

    async def start(self) -> None:
        """Begin to connect; until then hooks are decided as if alone. Raises ImportError without redis-py."""
        await self._link.start()

    async def aclose(self) -> None:
        """Send what is still to be sent, and end the connection: no hook is in flight any more."""
        if self.claims is not None:
            self.claims.close()
        await self._link.aclose()
