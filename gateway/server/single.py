"""A gateway of one process: hooks and admin port on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Sequence

from gateway import __version__
from gateway.admin.activity import Reading, read
from gateway.admin.endpoints import AdminState
from gateway.admin.lifecycle import Lifecycle, Phase
from gateway.admin.reload import Reloader, with_workers
from gateway.config import Loaded
from gateway.model.keep_going import KeepGoing
from gateway.proxy.endpoint import Listener as DecisionListener
from gateway.server.fleet_local import FleetLocal, make_fleet, store_up
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
from gateway.server.store_handle import StoreHandle
from gateway.telemetry.log import LogWriter
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.metrics.shared import WorkerMetrics

logger = logging.getLogger(__name__)


class Gateway:
    """A gateway in this process: build it, ``await serve()``, and it runs until a signal or ``stop()``."""

    def __init__(self, loaded: Loaded, writer: LogWriter, *, listeners: tuple[DecisionListener, ...] = ()) -> None:
        self._loaded = loaded
        self._sockets = bind_all(loaded.config)
        self.lifecycle = Lifecycle()  # first: it notes when the process began
        self._metrics = Metrics(__version__)
        self._cells_lock = threading.Lock()
        """Held while the metrics of the store's process are read, in a scrape's thread, or inherited from it."""
        config = loaded.config
        self._store = None if config.store is None else StoreHandle(config, self._metrics, self._cells_lock)
        self._kept = None if self._store is None else self._store.access.client("worker")
        self._service = HookService(
            config, self._sockets.hooks, self._metrics, writer, listeners=listeners, store=self._kept
        )
        self._reloader = Reloader(loaded, self._metrics, self._apply)
        self._metrics.on_scrape(certificate_sampler(self._metrics, self._reloader))
        self._metrics.on_scrape(lambda: self._metrics.ready.set(self.lifecycle.phase is Phase.READY))
        if self._store is not None:
            self._metrics.on_scrape(self._store.sample)
        self._fleet = make_fleet(
            config, self._metrics, FleetLocal(
                self._reloader, self.lifecycle, self._service.rpc_handler, self.admin_address, store_up(self._store),
                store=None if self._store is None else self._store.client,
            ),
        )  # fmt: skip
        if self._fleet is not None:
            self._service.runtime.targets.on_ejection = self._fleet.hints.give
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
        events = make_events(self._read, rpc_handler, self._reloader, self.lifecycle)
        state = AdminState(
            self._reloader, self.lifecycle, self._render,
            rpc=rpc_handler, events=events, listen=listen, admin=self.admin_address,
            store=None if self._store is None else self._store.client, fleet=self._fleet,
        )  # fmt: skip
        admin = admin_listener(state, self._sockets.admin)
        self._metrics.workers.set(1)
        async with (
            run_admin(admin, self._reloader, self._stop, self.stop),
            contextlib.aclosing(events),
            contextlib.nullcontext() if self._store is None else self._store.running(),
            contextlib.nullcontext() if self._kept is None else self._kept,
            contextlib.nullcontext() if self._fleet is None else self._fleet.running(),
        ):
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
        if self._store is not None:
            with self._keep_going:
                await self._store.configure(config)
        with self._keep_going:
            warn_if_few_descriptors(config)

    def _render(self) -> bytes:
        with self._cells_lock:
            return self._metrics.render(self._other_metrics())

    def _read(self) -> Reading:
        with self._cells_lock:
            return read(self._metrics, self._other_metrics())

    def _other_metrics(self) -> Sequence[WorkerMetrics]:
        return () if self._store is None else self._store.worker_metrics
