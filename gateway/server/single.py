"""One gateway process: hooks and admin in one loop, signals, file watch, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.admin import systemd
from gateway.admin.activity import Reading, Sampler, read
from gateway.admin.endpoints import AdminState, refuse_plainly
from gateway.admin.events import Events
from gateway.admin.lifecycle import Lifecycle, Phase
from gateway.admin.overview import Overview
from gateway.admin.reload import Reloader, with_workers
from gateway.admin.rpc import WorkerRpc
from gateway.config import Config, Loaded, ServerTls, UpstreamTls, display_value
from gateway.http.server import FrontLimits, FrontState
from gateway.http.tls.certificates import days_to_expiry
from gateway.model.keep_going import KeepGoing
from gateway.proxy.endpoint import Listener as DecisionListener
from gateway.server import fd_limits
from gateway.server.app import admin_app
from gateway.server.children import reap_orphans
from gateway.server.executor import start_threads
from gateway.server.file_watch import watch_file
from gateway.server.hook_service import HookService
from gateway.server.listener import Listener, StartError, bind, close, display_address, unlink, wait_until_started
from gateway.server.signals import PROCESS, Receiver
from gateway.telemetry.log import LogWriter
from gateway.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_ADMIN_GRACE = 2.0
"""Seconds for admin requests under way when the process ends."""
_ADMIN_LIMITS = FrontLimits(
    max_body=64 * 1024,
    read_timeout=5.0,
    keepalive_timeout=60.0,
    max_connections=fd_limits.ADMIN,
    max_refused=0,
    reclaims=True,
)


class Gateway:
    """A gateway in this process: build it, ``await serve()``, and it runs until a signal or ``stop()``."""

    def __init__(self, loaded: Loaded, writer: LogWriter, *, listeners: tuple[DecisionListener, ...] = ()) -> None:
        server = loaded.config.server
        self._loaded = loaded
        self._hook_sockets = bind(server.listen, "server.listen")
        try:
            self._admin_sockets = bind((server.admin,), "server.admin")
        except StartError:
            unlink(server.listen)
            close(self._hook_sockets)
            raise
        self.lifecycle = Lifecycle()  # first: it notes when the process began
        self._metrics = Metrics(__version__)
        self._service = HookService(loaded.config, self._hook_sockets, self._metrics, writer, listeners)
        self._reloader = Reloader(loaded, self._metrics, self._take)
        self._metrics.on_scrape(certificate_sampler(self._metrics, self._reloader))
        self._metrics.on_scrape(lambda: self._metrics.ready.set(self.lifecycle.phase is Phase.READY))
        self._keep_going = KeepGoing("what follows a reload")
        self._stop = asyncio.Event()
        self.started = asyncio.Event()

    @property
    def hook_address(self) -> str:
        """The first hook listener as host:port, with the port that it really got."""
        return display_address(self._hook_sockets[0])

    @property
    def admin_address(self) -> str:
        """The admin listener as host:port."""
        return display_address(self._admin_sockets[0])

    def stop(self) -> None:
        """Begin the orderly end; called a second time, end at once."""
        if self._stop.is_set():
            self._service.stop(at_once=True)
        self._stop.set()

    async def serve(self) -> None:
        """Serve until told to stop; returns when everything in flight is answered or the drain's time is over."""
        rpc_handler = self._service.rpc_handler
        listen = [display_address(sock) for sock in self._hook_sockets]
        events = make_events(lambda: read(self._metrics), rpc_handler, self._reloader, self.lifecycle)
        state = AdminState(
            self._reloader, self.lifecycle, self._metrics.render,
            rpc=rpc_handler, events=events, listen=listen, admin=self.admin_address,
        )  # fmt: skip
        admin = admin_listener(state, self._admin_sockets)
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
            await self._service.stopped()
        logger.info("stopped")

    async def _take(self, loaded: Loaded) -> None:
        config = with_workers(loaded.config, 1)
        await self._service.take(config)
        with self._keep_going:
            warn_if_few_descriptors(config)


def certificate_sampler(metrics: Metrics, reloader: Reloader) -> Callable[[], None]:
    """What samples those of the configuration in force."""
    return lambda: sample_certificates(metrics, reloader.loaded.config, reloader.loaded.masked)


def sample_certificates(metrics: Metrics, config: Config, shown: Mapping[str, Any]) -> None:
    """Set the days that each configured certificate has left; one that cannot be read has none."""
    sections: list[tuple[tuple[str, ...], ServerTls | UpstreamTls | None]] = [(("server",), config.server.tls)]
    sections += [(("upstreams", name), upstream.tls) for name, upstream in config.upstreams.items()]
    files = {
        display_value(tls.certificate, shown, *place, "tls", "certificate"): tls.certificate
        for place, tls in sections
        if tls is not None and tls.certificate is not None
    }
    metrics.certificate_days.keep(("certificate",), files)
    for label, file in files.items():
        try:
            days = days_to_expiry(Path(file))
        except (OSError, ValueError):
            days = 0.0
        metrics.certificate_days.with_labels(label).set(days)


def make_events(reading: Callable[[], Reading], rpc: WorkerRpc, reloader: Reloader, lifecycle: Lifecycle) -> Events:
    """What is told as it happens, of all processes that *rpc* asks."""
    overview = Overview(rpc, lambda: reloader.loaded)
    return Events(Sampler(reading), rpc, lifecycle.started_at, overview.upstreams)


def admin_listener(state: AdminState, sockets: Sequence[socket.socket]) -> Listener:
    """The admin port's listener."""
    front = FrontState(_ADMIN_LIMITS, linger=0.0, refuse=refuse_plainly)
    return Listener(admin_app(state), sockets, front, grace=_ADMIN_GRACE)


@contextlib.asynccontextmanager
async def run_admin(
    admin: Listener, reloader: Reloader, stop: asyncio.Event, on_stop_signal: Callable[[], None]
) -> AsyncIterator[None]:
    """The admin listener, the signals and the file watch around whatever serves the hooks."""
    reloads: set[asyncio.Task[object]] = set()

    def on_hangup() -> None:
        if len(reloads) > 1 or stop.is_set():
            return  # one runs, and the one that waits for it will see whatever has changed by then
        task: asyncio.Task[object] = asyncio.create_task(reloader.reload("SIGHUP"))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    def at_once() -> None:
        on_stop_signal()
        on_stop_signal()

    await start_threads()
    reaping = asyncio.create_task(reap_orphans())
    signals = Receiver(drain=on_stop_signal, end=at_once, reload=on_hangup, ignore=_note_ignored)
    with PROCESS.forward_to(signals, asyncio.get_running_loop()):
        serving = asyncio.create_task(admin.run_until_stopped())
        watching = asyncio.create_task(watch_file(reloader, stop))
        try:
            await wait_until_started([admin], [serving])
            async with systemd.watchdog():
                yield
        finally:
            stop.set()
            admin.stop()
            reaping.cancel()
            for task in (watching, *reloads):
                task.cancel()
            await asyncio.gather(serving, watching, reaping, *reloads, return_exceptions=True)


def _note_ignored(name: str) -> None:
    logger.info(
        "signal %s ignored; SIGHUP reloads the configuration, SIGTERM stops the gateway", name,
        extra={"fields": {"event": "signal_ignored", "signal": name}},
    )  # fmt: skip


def announce_ready(loaded: Loaded, hooks: list[str], admin: str) -> None:
    """Say to systemd and in the log what serves where, and the configuration's warnings."""
    config = loaded.config
    systemd.ready(f"serving {len(config.apps)} apps")
    scheme = "http" if config.server.tls is None else "https"
    logger.info(
        "ready: hooks on %s, admin on http://%s, %d apps, %d upstreams, from %s",
        ", ".join(hook if hook.startswith("unix:") else f"{scheme}://{hook}" for hook in hooks),
        admin,
        len(config.apps),
        len(config.upstreams),
        loaded.path,
        extra={"fields": {"event": "ready", "version": __version__, "hooks": hooks, "admin": admin}},
    )
    for warning in loaded.warnings:
        logger.warning("%s", warning)
    warn_if_few_descriptors(config)


def warn_if_few_descriptors(config: Config) -> None:
    """Say in the log where fewer connections can be granted than the configuration wants, and what to do."""
    if (words := fd_limits.shortage(config)) is not None:
        logger.warning("%s", words, extra={"fields": {"event": "few_descriptors"}})


def announce_stopping(loaded: Loaded) -> None:
    """Say to systemd and in the log that the end has begun."""
    limit = loaded.config.server.drain_timeout
    systemd.stopping(limit)
    logger.info("stopping: no new connections; hooks in flight have %g s", limit)
