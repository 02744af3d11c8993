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
from gateway.routing import Table
from gateway.shadowing import Shadows, candidates
from gateway.tenants import Tenant
from gateway.tls.copies import NO_COPIES, Copies
from gateway.upstreams import Targets, Upstream


@dataclass(frozen=True)
class Snapshot:
    """One configuration, ready to serve."""

    config: Config
    table: Table
    upstreams: Mapping[str, Upstream]
    max_in_flight: int
    """Hooks inside this process at once."""


class Runtime:
    """Holds the snapshot in force. Build it inside a running loop."""

    def __init__(self, config: Config, metrics: Metrics, copies: Copies = NO_COPIES) -> None:
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self.targets = Targets(metrics, config.server.workers, copies)
        self.duplicates = Duplicates()
        self._tenants: dict[str, Tenant] = {}
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
        """Count a hook past its app's rate limit; one that a reload has overtaken brings no series back."""
        self._metrics.rate_limited.labelled(app if app in self.snapshot.config.apps else UNKNOWN_APP).inc()

    async def start(self) -> None:
        """Begin what runs beside the hooks: health checks."""
        await self._settle(self.snapshot.config)

    async def aclose(self) -> None:
        """Close every connection to backends."""
        await self.shadows.aclose()
        await self.targets.aclose()

    def _build(self, config: Config, table: Table, shadows: Mapping[str, UpstreamConfig]) -> Snapshot:
        self._upstreams = {**config.upstreams, **shadows}
        upstreams = self.targets.build(
            self._upstreams,
            {*table.sharing, *shadows},
            keep_underscores=config.server.underscore_headers == "keep",
        )
        self.shadows.configure(config, shadows, upstreams)
        self._serve(table)
        self._keep_series(config, table)
        limit = max(1, config.server.max_in_flight // config.server.workers)
        return Snapshot(config, table, upstreams, limit)

    def _serve(self, table: Table) -> None:
        """Give each app of the table its live state: the one that it has had."""
        tenants, now = {}, self._loop.time()
        for app in table.apps:
            known = self._tenants.get(app.name)
            if known is None:
                app.tenant.in_flight = self._metrics.in_flight.labelled(app.name)
            else:
                app.tenant = known
            app.tenant.limit(app.default.rate, now)
            tenants[app.name] = app.tenant
        self._metrics.in_flight.labelled(UNKNOWN_APP)
        self._tenants = tenants

    async def _settle(self, config: Config) -> None:
        await self.targets.settle(self._upstreams)
        self._keep_series(config, self.snapshot.table)

    def _keep_series(self, config: Config, table: Table) -> None:
        self._metrics.configure(config.apps, self.targets.labels(), config.metrics.app_label, table.rules)
