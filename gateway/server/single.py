"""A gateway of one process: hooks and admin port on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from gateway import __version__
from gateway.admin.activity import read
from gateway.admin.endpoints import AdminState
from gateway.admin.lifecycle import Lifecycle, Phase
from gateway.admin.reload import Reloader, with_workers
from gateway.config import Loaded
from gateway.model.keep_going import KeepGoing
from gateway.proxy.endpoint import Listener as DecisionListener
from gateway.server.hook_service import HookService
from gateway.server.main_process import (
    admin_listener,
    announce_ready,
    announce_stopping,
    bind_all,
    certificate_sampler,
    make_events,
    run_admin,
    warn_if_few_descriptors,
)
from gateway.server.sockets import display_address, unlink
from gateway.telemetry.log import LogWriter
from gateway.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class Gateway:
    """A gateway in this process: build it, ``await serve()``, and it runs until a signal or ``stop()``."""

    def __init__(self, loaded: Loaded, writer: LogWriter, *, listeners: tuple[DecisionListener, ...] = ()) -> None:
        self._loaded = loaded
        self._sockets = bind_all(loaded.config)
        self.lifecycle = Lifecycle()  # first: it notes when the process began
        self._metrics = Metrics(__version__)
        self._service = HookService(loaded.config, self._sockets.hooks, self._metrics, writer, listeners=listeners)
        self._reloader = Reloader(loaded, self._metrics, self._apply)
        self._metrics.on_scrape(certificate_sampler(self._metrics, self._reloader))
        self._metrics.on_scrape(lambda: self._metrics.ready.set(self.lifecycle.phase is Phase.READY))
        self._keep_going = KeepGoing("what follows a reload")
        self._stop = asyncio.Event()
        self.started = asyncio.Event()

    @property
    def hook_address(self) -> str:
        """The first hook listener as host:port, with the port that was bound."""
        return display_address(self._sockets.hooks[0])

    @property
    def admin_address(self) -> str:
        """The admin listener as host:port."""
        return display_address(self._sockets.admin[0])

    def stop(self) -> None:
        """Begin the orderly end; called a second time, end at once."""
        if self._stop.is_set():
            self._service.stop(at_once=True)
        self._stop.set()

    async def serve(self) -> None:
        """Serve until told to stop; returns when all hooks in flight are answered or the drain's time is over."""
        rpc_handler = self._service.rpc_handler
        listen = [display_address(sock) for sock in self._sockets.hooks]
        events = make_events(lambda: read(self._metrics), rpc_handler, self._reloader, self.lifecycle)
        state = AdminState(
            self._reloader, self.lifecycle, self._metrics.render,
            rpc=rpc_handler, events=events, listen=listen, admin=self.admin_address,
        )  # fmt: skip
        admin = admin_listener(state, self._sockets.admin)
        self._metrics.workers.set(1)
        async with run_admin(admin, self._reloader, self._stop, self.stop), contextlib.aclosing(events):
            await self._service.start()
            self.lifecycle.ready()
            self.started.set()
            announce_ready(self._loaded, listen, self.admin_address)
            await self._stop.wait()
            self.lifecycle.drain()
            announce_stopping(self._loaded)
            unlink(self._loaded.config.server.listen)
            self._service.stop()
            await self._service.wait_for_end()
        logger.info("stopped")

    async def _apply(self, loaded: Loaded) -> None:
        config = with_workers(loaded.config, 1)
        await self._service.reload(config)
        with self._keep_going:
            warn_if_few_descriptors(config)
