"""The main process around what decides the hooks: sockets, admin port, signals, file watch, and what it announces."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gateway import __version__
from gateway.admin import systemd
from gateway.admin.activity import Reading, Sampler
from gateway.admin.endpoints import AdminState, plain_error
from gateway.admin.events import Events
from gateway.admin.lifecycle import Lifecycle
from gateway.admin.overview import Overview
from gateway.admin.reload import Reloader
from gateway.admin.rpc import WorkerRpc
from gateway.config import Config, Loaded, ServerTls, UpstreamTls, display_value
from gateway.http.server import FrontLimits, FrontState
from gateway.http.tls.certificates import days_to_expiry
from gateway.model.text import plural
from gateway.server import fd_limits
from gateway.server.app import admin_app
from gateway.server.children import reap_orphans
from gateway.server.executor import start_threads
from gateway.server.file_watch import watch_file
from gateway.server.listener import Listener, wait_until_started
from gateway.server.signals import PROCESS, Receiver
from gateway.server.sockets import StartError, bind, close, unlink
from gateway.server.systemd_sockets import HandedOver
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


class Sockets(NamedTuple):
    """The listening sockets of a main process."""

    hooks: list[socket.socket]
    admin: list[socket.socket]


def bind_all(config: Config) -> Sockets:
    """Bind the sockets of hooks and admin port. Raises StartError, with none left bound."""
    server, handed_over = config.server, HandedOver()
    hooks = bind(server.listen, "server.listen", handed_over)
    try:
        admin = bind((server.admin,), "server.admin", handed_over)
        if any(sock.family == socket.AF_UNIX for sock in admin):
            close(admin)
            raise StartError(
                f"cannot listen on {server.admin} (server.admin): unix sockets are for server.listen alone"
            )
    except StartError:
        unlink(server.listen)
        close(hooks)
        raise
    for name in handed_over.close_rest():
        logger.warning(
            "systemd handed over a socket %s, which the configuration does not use: connections to it get no answer; "
            "write systemd:%s as an address, or disable the socket unit", name, name,
            extra={"fields": {"event": "unused_socket", "name": name}},
        )  # fmt: skip
    return Sockets(hooks, admin)


def certificate_sampler(metrics: Metrics, reloader: Reloader) -> Callable[[], None]:
    """A function that samples the certificates of the configuration in force."""
    return lambda: sample_certificates(metrics, reloader.loaded.config, reloader.loaded.masked)


def sample_certificates(metrics: Metrics, config: Config, masked: Mapping[str, Any]) -> None:
    """Set the metric of the days that each configured certificate has left; 0 for one that cannot be read.

    *masked*: the configuration as written, which the labels are taken from.
    """
    sections: list[tuple[tuple[str, ...], ServerTls | UpstreamTls | None]] = [(("server",), config.server.tls)]
    sections += [(("upstreams", name), upstream.tls) for name, upstream in config.upstreams.items()]
    files = {
        display_value(tls.certificate, masked, *place, "tls", "certificate"): tls.certificate
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
    """The live events of all processes that *rpc* reaches."""
    overview = Overview(rpc, lambda: reloader.loaded)
    return Events(Sampler(reading), rpc, lifecycle.started_at, overview.upstreams)


def admin_listener(state: AdminState, sockets: Sequence[socket.socket]) -> Listener:
    """The admin port's listener."""
    front = FrontState(_ADMIN_LIMITS, linger=0.0, refuse=plain_error)
    return Listener(admin_app(state), sockets, front, grace=_ADMIN_GRACE)


@contextlib.asynccontextmanager
async def run_admin(
    admin: Listener, reloader: Reloader, stop: asyncio.Event, on_stop_signal: Callable[[], None]
) -> AsyncIterator[None]:
    """Run the admin listener, the signals and the file watch while the block serves the hooks."""
    reloads: set[asyncio.Task[object]] = set()

    def on_hangup() -> None:
        if len(reloads) > 1 or stop.is_set():
            return  # one runs, and the one that waits will see all that has changed by then
        task: asyncio.Task[object] = asyncio.create_task(reloader.reload("SIGHUP"))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    def at_once() -> None:
        on_stop_signal()
        on_stop_signal()

    await start_threads()
    reaping = asyncio.create_task(reap_orphans())
    signals = Receiver(drain=on_stop_signal, end=at_once, reload=on_hangup, ignore=_log_ignored_signal)
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


def _log_ignored_signal(name: str) -> None:
    logger.info(
        "signal %s ignored; SIGHUP reloads the configuration, SIGTERM stops the gateway", name,
        extra={"fields": {"event": "signal_ignored", "signal": name}},
    )  # fmt: skip


def announce_ready(loaded: Loaded, hooks: list[str], admin: str) -> None:
    """Report to systemd and in the log what is served where, and the configuration's warnings."""
    config = loaded.config
    systemd.ready(f"serving {plural(len(config.apps), 'app')}")
    scheme = "http" if config.server.tls is None else "https"
    logger.info(
        "ready: hooks on %s, admin on http://%s, %s, %s, from %s",
        ", ".join(hook if hook.startswith("unix:") else f"{scheme}://{hook}" for hook in hooks),
        admin,
        plural(len(config.apps), "app"),
        plural(len(config.upstreams), "upstream"),
        loaded.path,
        extra={"fields": {"event": "ready", "version": __version__, "hooks": hooks, "admin": admin}},
    )
    for warning in loaded.warnings:
        logger.warning("%s", warning)
    warn_if_few_descriptors(config)


def warn_if_few_descriptors(config: Config) -> None:
    """Log where fewer connections can be granted than the configuration wants, and what to do."""
    if (words := fd_limits.shortage(config)) is not None:
        logger.warning("%s", words, extra={"fields": {"event": "few_descriptors"}})


def announce_stopping(loaded: Loaded) -> None:
    """Report to systemd and in the log that the end has begun."""
    limit = loaded.config.server.drain_timeout
    systemd.stopping(limit)
    logger.info("stopping: hooks in flight have %g s", limit)
