"""A gateway as the fleet's agent sees it: described, asked and directed through the processes that decide hooks."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

from gateway import __version__
from gateway.admin.lifecycle import Lifecycle
from gateway.admin.reload import Reloader
from gateway.admin.rpc import ApplyShares, MeasureDemand, WorkerRpc
from gateway.config import Config
from gateway.fleet.agent import FleetAgent
from gateway.fleet.local import Description, Local
from gateway.fleet.shares import Measured, Shares
from gateway.server.store_handle import StoreHandle
from gateway.telemetry.metrics import Metrics


class FleetLocal:
    """Implements ``Local`` for a main process."""

    def __init__(
        self,
        reloader: Reloader,
        lifecycle: Lifecycle,
        rpc: WorkerRpc,
        admin: str,
        store_up: Callable[[], bool | None] = lambda: None,
    ) -> None:
        """*admin*: the admin port's address, as bound. *store_up*: None where no store is configured."""
        self._reloader = reloader
        self._lifecycle = lifecycle
        self._rpc = rpc
        self._admin = admin
        self._store_up = store_up
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
