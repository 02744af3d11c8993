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
from gateway.http.tls.pem_files import NO_COPIES, Copies
from gateway.model.change import Change, Changes
from gateway.model.decision import UNKNOWN_APP
from gateway.policy.shared import SharedState
from gateway.proxy.dedupe import Duplicates
from gateway.proxy.routes import Table
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
    """Hooks that backends are asked for at once, by all workers."""


class Runtime:
    """Holds the snapshot in force. Build it inside a running loop. Raises OSError for certificates of no use."""

    def __init__(
        self, config: Config, metrics: Metrics, copies: Copies = NO_COPIES, shared: SharedState | None = None
    ) -> None:
        self.metrics = metrics
        self.shared = shared
        self.active_count = None if shared is None else shared.all_hooks
        """Hooks that backends are asked for, by all workers; None where there is no other."""
        self.targets = Targets(metrics, config.server.workers, copies, shared)
        self.duplicates = Duplicates(claims=None if shared is None else shared.claims)
        self.leaving_tenants: dict[str, Tenant] = {}
        """Apps that a reload has removed, while hooks of theirs are under way."""
        self.shadows = Shadows(metrics)
        self.tenants: Mapping[str, Tenant] = {}
        """The apps that are served, by name."""
        self.upstream_configs: Mapping[str, UpstreamConfig] = {}
        """All upstreams as configured, those of shadows too."""
        nothing = Config()
        self.snapshot = Snapshot(nothing, Table(nothing), {}, 1)
        shadows = candidate_upstreams(config)
        contexts = self.targets.contexts({**config.upstreams, **shadows})
        self._unsettled: Change | None = self._prepare(config, Table(config), shadows, contexts)
        self._unsettled.commit()

    async def prepare(self, config: Config) -> Change:
        """Have a new configuration ready to be put in force; hooks in flight will keep what they began with.

        Raises what keeps it from being ready, and nothing has changed then.
        """
        table, shadows = await asyncio.to_thread(lambda: (Table(config), candidate_upstreams(config)))
        contexts = await asyncio.to_thread(self.targets.contexts, {**config.upstreams, **shadows})
        return self._prepare(config, table, shadows, contexts)

    async def renew_tls(self) -> None:
        """Take up the files of the upstreams' certificates wherever they have changed."""
        await self.targets.renew_tls(self.upstream_configs)

    def count_rate_limited(self, app: str) -> None:
        """Count a hook past its app's rate limit; one that a reload has overtaken brings no series back."""
        self.metrics.rate_limited.with_labels(app if app in self.snapshot.config.apps else UNKNOWN_APP).inc()

    async def start(self) -> None:
        """Begin what runs beside the hooks: health checks."""
        if self._unsettled is not None:
            await self._unsettled.settle()
        self._unsettled = None  # it holds the first configuration

    async def aclose(self) -> None:
        """Close every connection to backends."""
        await self.shadows.aclose()
        await self.targets.aclose()
        if self.shared is not None:
            self.shared.close()

    def prune(self) -> None:
        """Remove the series of all that is not in force."""
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
    """A snapshot that is ready, and what of the live state goes along with it."""

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
        """Have the hooks to come decided by the new snapshot."""
        runtime = self._runtime
        self._parts.commit()
        self._set_rates(self._snapshot.table)
        runtime.metrics.set_scope(self._scope)
        runtime.upstream_configs, runtime.tenants, runtime.snapshot = self._described, self._tenants, self._snapshot

    def revert(self) -> None:
        """Have them decided by the one before."""
        runtime = self._runtime
        runtime.snapshot, runtime.upstream_configs, runtime.tenants, scope = self._before
        runtime.metrics.set_scope(scope)
        self._set_rates(runtime.snapshot.table)
        self._parts.revert()

    async def settle(self) -> None:
        """Let go of what only the snapshot before had; hooks in flight end first."""
        await self._parts.settle()
        self._runtime.prune()
        _, _, before, _ = self._before
        _release_tenants(self._runtime, before, self._tenants)

    async def discard(self) -> None:
        """Let go of what only the new snapshot has."""
        await self._parts.discard()
        self._runtime.prune()
        _release_tenants(self._runtime, self._tenants, self._runtime.tenants)

    def _assign_tenants(self, table: Table) -> dict[str, Tenant]:
        """Give each app of the table its live state: the one that it has had."""
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
        now = self._now()
        for app in table.apps:
            app.tenant.limit(app.default.rate, now)


def _release_tenants(runtime: Runtime, apps: Mapping[str, Tenant], served: Mapping[str, Tenant]) -> None:
    """Let go of the apps that are not served any more, each once no hook of it is under way."""
    leaving = {**runtime.leaving_tenants, **apps}
    runtime.leaving_tenants = {
        name: tenant for name, tenant in leaving.items() if name not in served and not tenant.leave()
    }
