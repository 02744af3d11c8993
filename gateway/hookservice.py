"""The part of a process that decides hooks: runtime, hook listener, metrics and log; alone or as one of several."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from gateway.app import hook_app
from gateway.config import Config
from gateway.front import LINGER, FrontLimits, FrontState
from gateway.listening import Listener, all_started
from gateway.log import AccessLog, Writer, configure_logging
from gateway.metrics import Metrics
from gateway.proxy import HookEndpoint
from gateway.proxy import Listener as DecisionListener
from gateway.runtime import Runtime


class HookService:
    """Serves hooks on the given sockets. Build it inside a running loop."""

    def __init__(
        self,
        config: Config,
        sockets: Sequence[socket.socket],
        metrics: Metrics,
        writer: Writer,
        listeners: tuple[DecisionListener, ...] = (),
    ) -> None:
        self._writer = writer
        self._access = AccessLog(writer)
        self._apply_log(config)
        writer.on_drop = metrics.log_dropped.inc
        self.runtime = Runtime(config, metrics)
        endpoint = HookEndpoint(self.runtime, (metrics.record, self._access.record, *listeners))
        self._front = FrontState(_limits(config), LINGER, endpoint.refuse)
        self._listener = Listener(hook_app(endpoint), sockets, self._front, grace=config.server.drain_timeout)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when hooks are accepted."""
        await self.runtime.start()
        self._serving = asyncio.create_task(self._listener.run_until_stopped())
        await all_started([self._listener], [self._serving])

    async def take(self, config: Config) -> None:
        """Put a new configuration in force."""
        self._apply_log(config)
        self._front.limits = _limits(config)
        await self.runtime.take(config)

    def stop(self, *, at_once: bool = False) -> None:
        """Accept no more; answer what is in flight, unless *at_once*."""
        self._listener.stop(at_once=at_once)

    async def stopped(self) -> None:
        """Wait for the end of what ``stop()`` began, and clean up."""
        if self._serving is not None:
            await self._serving
        await self.runtime.aclose()
        self._access.flush()

    def _apply_log(self, config: Config) -> None:
        console = config.log.format == "console"
        self._access.configure(access=config.log.access, console=console, mask=config.log.mask)
        configure_logging(self._writer, level=config.log.level, console=console)


def _limits(config: Config) -> FrontLimits:
    server = config.server
    connections = max(1, server.max_connections // server.workers)
    return FrontLimits(server.max_body, server.read_timeout, server.keepalive_timeout, connections)
