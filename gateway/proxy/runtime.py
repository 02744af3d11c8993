"""The snapshot in force (configuration, routes and upstreams), and how a reload swaps it.

A hook takes the snapshot once and keeps it to its end. Live state (connections, breakers, counts) belongs to the
targets, which the next snapshot reuses by address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.config import Config
from gateway.config import Upstream as UpstreamConfig
from gateway.fleet.shares import Measured, Shares
from gateway.http.tls.pem_files import NO_COPIES, Copies
from gateway.model.change import Change, Changes
from gateway.model.decision import UNKNOWN_APP
from gateway.policy.shared import SharedState
from gateway.proxy.dedupe import Duplicates
from gateway.proxy.routes import Table
from gateway.proxy.shares import ProcessShares
from gateway.proxy.tenants import Tenant
from gateway.telemetry.metrics import Metrics
from gateway.upstreams import Contexts, Targets, Upstream
from gateway.upstreams.mirror import Shadows, candidate_upstreams


@dataclass(frozen=True)
class Snapshot:
    """One configuration, ready to serve."""

    config: Config
    table: Table
    upstreams: Mapping[str, Upstream]
    max_in_flight: int
    """Hooks that may be at backends at once, over all workers."""


class Runtime:
    """Holds the snapshot in force. Build it inside a running loop. Raises OSError for unusable certificates."""

    def __init__(
        self, config: Config, metrics: Metrics, copies: Copies = NO_COPIES, shared: SharedState | None = None
    ) -> None:
        self.metrics = metrics
        self.shared = shared
        self.active_count = None if shared is None else shared.all_hooks
        """The count of hooks at backends over all workers; None with a single one."""
        self.shares = None if config.state is None else ProcessShares(config.server.workers)
        """The shares of limits that hold for a fleet; None where there is none."""
        part = None if self.shares is None else self.shares.connections
        self.targets = Targets(metrics, config.server.workers, copies, shared, part=part)
        self.duplicates = Duplicates(claims=None if shared is None else shared.claims)
        self.leaving_tenants: dict[str, Tenant] = {}
        """Apps that a reload has removed, while hooks of theirs are in flight."""
        self.shadows = Shadows(metrics)
        self.tenants: Mapping[str, Tenant] = {}
        """The live state of the configured apps, by name."""
        self.upstream_configs: Mapping[str, UpstreamConfig] = {}
        """All upstreams as configured, candidates of shadows included."""
        nothing = Config()
        self.snapshot = Snapshot(nothing, Table(nothing), {}, 1)
        shadows = candidate_upstreams(config)
        contexts = self.targets.contexts({**config.upstreams, **shadows})
        self._unsettled: Change | None = self._prepare(config, Table(config), shadows, contexts)
        self._unsettled.commit()

    async def prepare(self, config: Config) -> Change:
        """Prepare a new configuration; hooks in flight will keep the old one.

        Raises the error that prevents it, for example OSError for certificates; nothing has changed then.
        """
        table, shadows = await asyncio.to_thread(lambda: (Table(config), candidate_upstreams(config)))
        contexts = await asyncio.to_thread(self.targets.contexts, {**config.upstreams, **shadows})
        return self._prepare(config, table, shadows, contexts)

    async def renew_tls(self) -> None:
        """Reload the upstreams' certificates where their files have changed."""
        await self.targets.renew_tls(self.upstream_configs)

    def count_rate_limited(self, app: str) -> None:
        """Count a hook over its app's rate limit; a removed app's series does not come back."""
        self.metrics.rate_limited.with_labels(app if app in self.snapshot.config.apps else UNKNOWN_APP).inc()

    async def start(self) -> None:
        """Start the health checks."""
        if self._unsettled is not None:
            await self._unsettled.settle()
        self._unsettled = None  # it holds the first configuration

    async def aclose(self) -> None:
        """Close every connection to backends."""
        await self.shadows.aclose()
        await self.targets.aclose()
        if self.shared is not None:
            self.shared.close()

    async def apply_shares(self, shares: Shares) -> bool:
        """Use these shares of the limits from now on; False where limits are not shared with other gateways."""
        if self.shares is None:
            return False
        await self.shares.apply(shares, self.tenants, self.targets)
        return True

    def measure_demand(self) -> dict[str, Measured]:
        """What hooks demanded of the limits since the last call, by the limits' keys."""
        return {} if self.shares is None else self.shares.measure(self.targets)

    def prune(self) -> None:
        """Remove the metrics series of all that is no longer configured."""
        self.metrics.prune(self.targets.labels())

    def _prepare(
        self, config: Config, table: Table, shadows: Mapping[str, UpstreamConfig], contexts: Contexts
    ) -> RuntimeChange:
        try:
            return RuntimeChange(self, config, table, shadows, contexts)
        except BaseException:
            self.prune()  # of the series that were begun for it
            raise


class RuntimeChange(Change):
    """A prepared snapshot, and the live state that goes with it."""

    def __init__(
        self,
        runtime: Runtime,
        config: Config,
        table: Table,
        shadows: Mapping[str, UpstreamConfig],
        contexts: Contexts,
    ) -> None:
        self._runtime = runtime
        self._now = asyncio.get_running_loop().time
        self._described = {**config.upstreams, **shadows}
        targets = runtime.targets.prepare(
            self._described,
            {*table.shared_upstreams, *shadows},
            contexts,
            keep_underscores=config.server.underscore_headers == "keep",
        )
        lanes = runtime.shadows.prepare(config, shadows, targets.upstreams)
        self._parts = Changes((targets, lanes))
        self._tenants = self._assign_tenants(table)
        self._scope = runtime.metrics.make_scope(config.apps, self._described, config.metrics.app_label, table.rules)
        self._snapshot = Snapshot(config, table, targets.upstreams, config.server.max_in_flight)
        self._before = (runtime.snapshot, runtime.upstream_configs, runtime.tenants, runtime.metrics.scope)

    def commit(self) -> None:
        """Use the new snapshot for hooks from now on."""
        runtime = self._runtime
        self._parts.commit()
        self._set_rates(self._snapshot.table)
        runtime.metrics.set_scope(self._scope)
        runtime.upstream_configs, runtime.tenants, runtime.snapshot = self._described, self._tenants, self._snapshot

    def revert(self) -> None:
        """Use the previous one again."""
        runtime = self._runtime
        runtime.snapshot, runtime.upstream_configs, runtime.tenants, scope = self._before
        runtime.metrics.set_scope(scope)
        self._set_rates(runtime.snapshot.table)
        self._parts.revert()

    async def settle(self) -> None:
        """Close what only the previous snapshot used, once its hooks have finished."""
        await self._parts.settle()
        self._runtime.prune()
        _, _, before, _ = self._before
        _release_tenants(self._runtime, before, self._tenants)

    async def discard(self) -> None:
        """Close what only the new snapshot would have used."""
        await self._parts.discard()
        self._runtime.prune()
        _release_tenants(self._runtime, self._tenants, self._runtime.tenants)

    def _assign_tenants(self, table: Table) -> dict[str, Tenant]:
        """Give each app of the table its live state; an app that stays keeps it."""
        tenants, metrics = {}, self._runtime.metrics
        for app in table.apps:
            known = self._runtime.tenants.get(app.name)
            if known is None:
                app.tenant = self._runtime.leaving_tenants.get(app.name) or app.tenant
                app.tenant.in_flight = metrics.in_flight.with_labels(app.name)
            else:
                app.tenant = known
            limited = app.default.rate is not None or app.default.max_in_flight is not None
            if limited and self._runtime.shared is not None and not app.tenant.is_shared:
                app.tenant.share(self._runtime.shared.app_limits(app.name))
            tenants[app.name] = app.tenant
        metrics.in_flight.with_labels(UNKNOWN_APP)
        return tenants

    def _set_rates(self, table: Table) -> None:
        now, shares = self._now(), self._runtime.shares
        for app in table.apps:
            if shares is None:
                app.tenant.limit(app.default.rate, now)
            else:
                shares.set_limits(app.tenant, app.default, now)


def _release_tenants(runtime: Runtime, apps: Mapping[str, Tenant], served: Mapping[str, Tenant]) -> None:
    """Release apps that are no longer configured, each once no hook of it is in flight."""
    leaving = {**runtime.leaving_tenants, **apps}
    runtime.leaving_tenants = {
        name: tenant for name, tenant in leaving.items() if name not in served and not tenant.leave()
    }
