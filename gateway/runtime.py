"""What is in force: one snapshot of configuration, table and upstreams, and its swap on reload.

A hook takes the snapshot once and keeps it to its end. Live state (connections, breakers, counts) belongs to the
targets, which the next snapshot takes up by address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.config import Config
from gateway.config import Upstream as UpstreamConfig
from gateway.dedupe import Duplicates
from gateway.metrics import Metrics
from gateway.metrics.catalogue import UNKNOWN_APP
from gateway.metrics.cells import Value
from gateway.ratelimit import Limiter
from gateway.routing import Table
from gateway.shadowing import Shadows, candidates
from gateway.upstreams import Targets, Upstream


@dataclass(frozen=True)
class Snapshot:
    """One configuration, ready to serve."""

    config: Config
    table: Table
    upstreams: Mapping[str, Upstream]
    in_flight: Mapping[str, Value]
    max_in_flight: int
    """Hooks inside this process at once."""
    limiters: Mapping[str, Limiter]
    """Of the apps that have a rate limit."""


class Runtime:
    """Holds the snapshot in force. Build it inside a running loop."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self.targets = Targets(metrics, config.server.workers)
        self.duplicates = Duplicates()
        self._in_flight: dict[str, Value] = {}
        self._limiters: dict[str, Limiter] = {}
        self.shadows = Shadows(metrics)
        self.snapshot = self._build(config, Table(config), candidates(config))

    async def take(self, config: Config) -> None:
        """Put a new configuration in force; hooks in flight keep what they began with."""
        table = await asyncio.to_thread(Table, config)
        self.snapshot = self._build(config, table, await asyncio.to_thread(candidates, config))
        await self._settle(config)

    async def renew_tls(self) -> None:
        """Take up the files of the upstreams' certificates wherever they have changed."""
        await self.targets.renew_tls(self._upstreams)

    def count_rate_limited(self, app: str) -> None:
        """Count a hook past its app's rate limit."""
        self._metrics.rate_limited.labelled(app).inc()

    async def start(self) -> None:
        """Begin what runs beside the hooks: health checks."""
        await self._settle(self.snapshot.config)

    async def aclose(self) -> None:
        """Close every connection to backends."""
        await self.shadows.aclose()
        await self.targets.aclose()

    def _build(self, config: Config, table: Table, shadows: Mapping[str, UpstreamConfig]) -> Snapshot:
        self._upstreams = {**config.upstreams, **shadows}
        upstreams = self.targets.build(self._upstreams, table.sharing)
        self.shadows.configure(config, shadows, upstreams)
        known, gauge = self._in_flight, self._metrics.in_flight
        self._in_flight = {app: known.get(app) or gauge.labelled(app) for app in (*config.apps, UNKNOWN_APP)}
        self._keep_series(config, table)
        limit = max(1, config.server.max_in_flight // config.server.workers)
        self._limiters = self._limiters_of(table)
        return Snapshot(config, table, upstreams, self._in_flight, limit, self._limiters)

    def _limiters_of(self, table: Table) -> dict[str, Limiter]:
        """Those of the apps that have a rate limit; what an app has taken stays taken."""
        limiters: dict[str, Limiter] = {}
        for app, rate in table.rates():
            limiter = limiters[app] = self._limiters.get(app) or Limiter(rate, self._loop.time())
            limiter.configure(rate)
        return limiters

    async def _settle(self, config: Config) -> None:
        await self.targets.settle(self._upstreams)
        self._keep_series(config, self.snapshot.table)

    def _keep_series(self, config: Config, table: Table) -> None:
        self._metrics.configure(config.apps, self.targets.labels(), config.metrics.app_label, table.rules)
