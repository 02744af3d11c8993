"""A gateway as the fleet's agent sees it: described, asked and directed through the processes that decide hooks."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping

from gateway import __version__
from gateway.admin.lifecycle import Lifecycle
from gateway.admin.reload import Reloader
from gateway.admin.rpc import ApplyShares, HintFailing, MeasureDemand, SetEjected, WorkerRpc
from gateway.config import Config
from gateway.fleet.agent import FleetAgent
from gateway.fleet.local import Description, Local
from gateway.fleet.orders import target_name
from gateway.fleet.shares import Measured, Shares
from gateway.server.store_handle import StoreHandle
from gateway.store.requests import PauseSpool, StoreConnection
from gateway.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class FleetLocal:
    """Implements ``Local`` for a main process."""

    def __init__(
        self,
        reloader: Reloader,
        lifecycle: Lifecycle,
        rpc: WorkerRpc,
        admin: str,
        store_up: Callable[[], bool | None] = lambda: None,
        store: StoreConnection | None = None,
    ) -> None:
        """*admin*: the admin port's address, as bound. *store_up*: None where no store is configured, as *store*."""
        self._reloader = reloader
        self._lifecycle = lifecycle
        self._rpc = rpc
        self._admin = admin
        self._store_up = store_up
        self._store = store
        self._first_load = reloader.loaded_at
        self._name = os.environ.get("WCS_GATEWAY_INSTANCE") or f"{socket.gethostname()}:{admin.rpartition(':')[2]}"

    def describe(self) -> Description:
        """What the others should know of this gateway now."""
        return Description(
            name=self._name,
            version=__version__,
            revision=self._reloader.loaded.config.revision,
            admin=self._admin,
            since=self._lifecycle.started_at,
            drained=self._lifecycle.drained,
            phase=self._lifecycle.phase,
            store=self._store_up(),
            reloaded=0.0 if self._reloader.loaded_at == self._first_load else self._reloader.loaded_at,
        )

    async def demand(self) -> Mapping[str, Measured]:
        """What hooks demanded of the limits since the last call, in all processes."""
        replies = await self._rpc.ask(MeasureDemand())
        found: dict[str, Measured] = {}
        for measured in replies.by_pid.values():
            for key, more in measured.items():
                found[key] = found[key].plus(more) if key in found else more
        return found

    async def apply_shares(self, shares: Shares) -> bool:
        """Use these shares of the limits, in processes that start later, too. Returns whether all have answered."""
        return not (await self._rpc.ask(ApplyShares(shares))).incomplete

    async def set_ejected(self, upstream: str, url: str, ejected: bool, by: str) -> None:
        """Have every process eject or restore a target, also those that start later."""
        replies = await self._rpc.ask(SetEjected(upstream, url, ejected))
        if any(replies.by_pid.values()):
            words = "ejected by an operator, until it is restored" if ejected else "restored by an operator"
            target = target_name(url)
            fields = {"event": "ejected" if ejected else "restored", "upstream": upstream, "target": target, "by": by}
            logger.warning("%s: target %s is %s; ordered at %s", upstream, target, words, by, extra={"fields": fields})

    async def set_spool_paused(self, upstream: str | None, app: str | None, paused: bool, by: str) -> None:
        """Pause or resume redelivery. Raises StoreUnavailable."""
        if self._store is not None and await self._store.ask(PauseSpool(paused, upstream, app)):
            what = f"to {upstream}" if upstream is not None else f"of {app}" if app is not None else "of all events"
            result = "paused" if paused else "resumed"
            fields = {"event": "spool_pause" if paused else "spool_resume", "upstream": upstream, "app": app, "by": by}
            logger.warning(
                "redelivery %s is %s by an operator; ordered at %s", what, result, by, extra={"fields": fields}
            )

    async def hint(self, upstream: str, url: str) -> None:
        """Tell every process that a target fails elsewhere."""
        await self._rpc.ask(HintFailing(upstream, url))


def store_up(store: StoreHandle | None) -> Callable[[], bool | None]:
    """A function that says whether the store takes events; None where none is configured."""
    return lambda: None if store is None else store.client.up


def make_fleet(config: Config, metrics: Metrics, local: Local) -> FleetAgent | None:
    """The agent of a main process, and its gauges; None where no ``state`` is configured."""
    if config.state is None:
        return None
    agent = FleetAgent(config.state, local, metrics)
    metrics.on_scrape(agent.sample)
    return agent
