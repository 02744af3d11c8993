"""Listeners, signals, and an orderly end: uvicorn carries the two apps, this decides when they start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
from collections.abc import Callable, Iterator, Sequence

import uvicorn
from starlette.types import ASGIApp

from gateway import __version__
from gateway.app import admin_app, hook_app
from gateway.config import Address, Config, Loaded
from gateway.lifecycle import Lifecycle
from gateway.log import AccessLog, Writer, configure_logging
from gateway.metrics import Metrics
from gateway.proxy import Listener
from gateway.runtime import Runtime
from gateway.watch import changes

logger = logging.getLogger(__name__)

_BACKLOG = 4096
_ADMIN_GRACE = 2
"""Seconds for admin requests under way when the process ends."""


class StartError(Exception):
    """The process cannot serve; the message says what an operator can do about it."""


def bind(addresses: Sequence[Address], key: str) -> list[socket.socket]:
    """Listening sockets for the addresses; raises StartError naming the configuration's *key*."""
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            sockets.append(socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG))
    except OSError as exc:
        for opened in sockets:
            opened.close()
        raise StartError(f"cannot listen on {address} ({key}): {exc.strerror or exc}") from exc
    return sockets


class _Uvicorn(uvicorn.Server):
    """uvicorn without its own signal handlers: the process has one place for signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _uvicorn(app: ASGIApp, *, keepalive: float, grace: float) -> _Uvicorn:
    return _Uvicorn(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=math.ceil(keepalive),
            timeout_graceful_shutdown=math.ceil(grace),
        )
    )


class Gateway:
    """One gateway process: build it, ``await serve()``, and it runs until a signal or ``stop()``."""

    def __init__(self, loaded: Loaded, writer: Writer, *, listeners: tuple[Listener, ...] = ()) -> None:
        self._loaded = loaded
        self._writer = writer
        self._extra_listeners = listeners
        self._server = loaded.config.server
        self.lifecycle = Lifecycle()
        self._hook_sockets = bind(self._server.listen, "server.listen")
        try:
            self._admin_sockets = bind((self._server.admin,), "server.admin")
        except StartError:
            _close(self._hook_sockets)
            raise
        self._stop = asyncio.Event()
        self._running: list[_Uvicorn] = []
        self.started = asyncio.Event()

    @property
    def hook_address(self) -> str:
        """The first hook listener as host:port, with the port that it really got."""
        return _address(self._hook_sockets[0])

    @property
    def admin_address(self) -> str:
        """The admin listener as host:port."""
        return _address(self._admin_sockets[0])

    def stop(self) -> None:
        """Begin the orderly end; called a second time, end at once."""
        if self._stop.is_set():
            for server in self._running:
                server.force_exit = True
        self._stop.set()

    async def serve(self, *, on_signals: bool = True, watch: bool = True) -> None:
        """Serve until told to stop; returns when everything in flight is answered or the drain's time is over."""
        metrics = Metrics(__version__)
        self._writer.on_drop = metrics.log_dropped.inc
        access = AccessLog(self._writer)
        runtime = Runtime(self._loaded, metrics, on_swap=lambda config: _apply_log(config, access, self._writer))
        listeners = (metrics.record, access.record, *self._extra_listeners)
        server = self._server
        hooks = _uvicorn(hook_app(runtime, listeners), keepalive=server.keepalive_timeout, grace=server.drain_timeout)
        admin = _uvicorn(admin_app(runtime, self.lifecycle), keepalive=5, grace=_ADMIN_GRACE)
        self._running = [hooks, admin]
        tasks = [
            asyncio.create_task(hooks.serve(self._hook_sockets)),
            asyncio.create_task(admin.serve(self._admin_sockets)),
        ]
        reloads = _Reloads(runtime)
        if watch:
            tasks.append(asyncio.create_task(reloads.watch(self._stop)))
        try:
            with _signals(
                {signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: reloads.on_hangup}, on_signals
            ):
                await _started(self._running, tasks)
                self.lifecycle.ready()
                self.started.set()
                self._log_start(runtime)
                await self._stop.wait()
                self.lifecycle.drain()
                logger.info("stopping: no new connections; hooks in flight have %g s", server.drain_timeout)
                hooks.should_exit = True
                await tasks[0]
                admin.should_exit = True
                await asyncio.gather(*tasks[1:])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await runtime.aclose()
            access.flush()
            logger.info("stopped")

    def _log_start(self, runtime: Runtime) -> None:
        config = runtime.snapshot.config
        hooks = [_address(sock) for sock in self._hook_sockets]
        logger.info(
            "ready: hooks on http://%s, admin on http://%s, %d apps, %d upstreams, from %s",
            ", ".join(hooks), self.admin_address, len(config.apps), len(config.upstreams), runtime.path,
            extra={"fields": {"event": "ready", "version": __version__, "hooks": hooks, "admin": self.admin_address}},
        )  # fmt: skip
        for warning in self._loaded.warnings:
            logger.warning("%s", warning)


class _Reloads:
    """What makes the gateway look at its file again, but for the admin port."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tasks: set[asyncio.Task[object]] = set()

    def on_hangup(self) -> None:
        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(self._runtime.reload("SIGHUP"))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def watch(self, stop: asyncio.Event) -> None:
        async for _ in changes(self._runtime.path, stop):
            await self._runtime.reload("file changed")


def _apply_log(config: Config, access: AccessLog, writer: Writer) -> None:
    console = config.log.format == "console"
    access.configure(access=config.log.access, console=console, mask=config.log.mask)
    configure_logging(writer, level=config.log.level, console=console)


@contextlib.contextmanager
def _signals(handlers: dict[signal.Signals, Callable[[], None]], wanted: bool) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    if wanted:
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        if wanted:
            for number in handlers:
                loop.remove_signal_handler(number)


async def _started(servers: Sequence[_Uvicorn], tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until all accept; a server that ends before that ends the start."""
    while not all(server.started for server in servers):
        for task in tasks:
            if task.done():
                await task
                raise StartError("a listener ended before it had begun")
        await asyncio.sleep(0.005)


def _close(sockets: Sequence[socket.socket]) -> None:
    for opened in sockets:
        opened.close()


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
