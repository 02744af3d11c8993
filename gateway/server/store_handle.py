"""The store's process as the main process sees it: started, replaced where it dies or hangs, and ended last.

The main process holds the socket that the others connect to, and the table of backlogs: both outlive the store's
process. Nothing that serves hooks waits for any of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import secrets
import socket
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

from gateway.config import Config
from gateway.model.keep_going import KeepGoing
from gateway.recording import MASKED
from gateway.server.channel import Channel, Ping, Ready, Stop
from gateway.server.children import Child, exit_reason
from gateway.store.backlog_table import BacklogTable, create_table
from gateway.store.client import StoreClient
from gateway.store.settings import StoreConfig
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.metrics.shared import WorkerMetrics

logger = logging.getLogger(__name__)

_PING_EVERY: Final = 0.5
_SILENT_PINGS: Final = 20
"""Unanswered pings after which it is killed and replaced; events get their fallback for that long. On a machine that is
busy with something else a new one is no quicker than the old one was, and has to start first."""
_START_PINGS: Final = 60
"""The same before its first sign of life."""
_BACKOFF: Final = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the first, second, … replacement of a process that dies soon after its start."""
_PROVEN_AFTER: Final = 5.0
"""Seconds after which it has proved that it works: if it dies later, it is replaced at once."""
_END_LIMIT: Final = 10.0
"""Seconds for its last commits; then it is killed, and what was confirmed is on the disk all the same."""
_CONNECTIONS: Final = 512
"""Connections that may wait while the store's process is replaced."""


class StoreAccess(NamedTuple):
    """What a worker inherits."""

    name: str
    """Of the socket, in Linux's abstract namespace."""
    table: int
    """Descriptor of the table of backlogs."""

    def client(self, role: str) -> StoreClient:
        """A client of the store, not started yet. Build it inside the running loop."""
        return StoreClient(self.name, role, BacklogTable(self.table))


def store_config(config: Config) -> StoreConfig | None:
    """What the store's process needs of a configuration; None where that has no store: it takes effect at a restart."""
    if config.store is None:
        return None
    return StoreConfig(
        engine=config.store.engine,
        url=config.store.url.get_secret_value(),
        history=config.history,
        apps=frozenset(config.apps),
        upstreams=frozenset(config.upstreams),
        mask=tuple(config.log.mask),
        body_fields=MASKED if config.record is None else tuple(config.record.mask),
        log_level=config.log.level,
        log_console=config.log.format == "console",
        drain_timeout=config.server.drain_timeout,
    )


class _Running(NamedTuple):
    """One process."""

    process: Child
    channel: Channel
    metrics: WorkerMetrics


class StoreHandle:
    """Build it inside the running loop where ``store`` is configured, and serve inside ``running()``."""

    def __init__(self, config: Config, metrics: Metrics, cells_lock: threading.Lock) -> None:
        """*cells_lock*: held while metrics of other processes are read, or inherited from one that has ended."""
        self._metrics = metrics
        self._cells_lock = cells_lock
        self._loop = asyncio.get_running_loop()
        self._owner = secrets.token_hex(8)
        self.access = StoreAccess(f"wcs-gateway-{secrets.token_hex(16)}", create_table())
        self.client = self.access.client("admin")
        """For operators' requests."""
        self._config = config
        self._running: _Running | None = None
        self._unanswered = 0
        self._limit = _START_PINGS
        self._ending = asyncio.Event()

    def __repr__(self) -> str:
        return f"<StoreHandle {'none' if self._running is None else self._running.process.pid} {self.client!r}>"

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._running is None else self._running.process.pid

    @property
    def worker_metrics(self) -> Sequence[WorkerMetrics]:
        """The series of the process that runs; to be read while the lock is held."""
        return () if self._running is None else (self._running.metrics,)

    def sample(self) -> None:
        """Set the gauge that says whether events are taken."""
        self._metrics.store_up.with_labels().set(self.client.up)

    async def configure(self, config: Config) -> None:
        """Have the store go on by this configuration."""
        self._config = config
        settings = store_config(config)
        if settings is not None:
            self.client.configure(await asyncio.to_thread(pickle.dumps, settings))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the store's process while the block serves hooks. Nothing in the block waits for it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind("\0" + self.access.name)
            listening.listen(_CONNECTIONS)
            supervising = asyncio.create_task(self._supervise(listening))
            pinging = asyncio.create_task(self._ping())
            await self.configure(self._config)
            self.client.start()
            try:
                yield
            finally:
                pinging.cancel()
                await self._end(supervising)
                os.close(self.access.table)

    async def _end(self, supervising: asyncio.Task[None]) -> None:
        """End it, after all those that send to it."""
        self._ending.set()
        await self.client.aclose()
        running = self._running
        if running is None:
            supervising.cancel()
        else:
            running.channel.send(Stop(at_once=False))
        _, late = await asyncio.wait([supervising], timeout=_END_LIMIT)
        if late:
            logger.error("the store's process has not ended within %g s; it is killed", _END_LIMIT)
            self._kill()
            await asyncio.wait(late, timeout=_END_LIMIT)

    async def _supervise(self, listening: socket.socket) -> None:
        """Start the process, and replace it whenever it ends."""
        early = 0
        while not self._ending.is_set():
            began = self._loop.time()
            try:
                self._running = await self._spawn(listening)
            except Exception as exc:  # no descriptors, no memory: hooks are decided without the store
                logger.error("the store's process cannot be started (%s); trying again", exc)
                await asyncio.sleep(_BACKOFF[-1])
                continue
            status = await self._wait_for_end(self._running)
            if self._ending.is_set():
                return
            early = early + 1 if self._loop.time() - began < _PROVEN_AFTER else 0
            wait = _BACKOFF[min(early, len(_BACKOFF) - 1)]
            logger.error(
                "the store's process ended with %s; it is replaced%s",
                exit_reason(status), f" in {wait:g} s" if wait else " now",
                extra={"fields": {"event": "store_died"}},
            )  # fmt: skip
            await asyncio.sleep(wait)

    async def _spawn(self, listening: socket.socket) -> _Running:
        table = self.access.table
        self._unanswered, self._limit = 0, _START_PINGS
        with contextlib.ExitStack() as undo:
            ours, theirs = map(undo.enter_context, socket.socketpair())
            metrics = undo.enter_context(contextlib.closing(WorkerMetrics()))
            fds = {
                "channel": theirs.fileno(),
                "values": metrics.values_fd,
                "names": metrics.names_fd,
                "listen": listening.fileno(),
                "table": table,
            }
            process = Child(
                (
                    sys.executable, "-m", "gateway.server.store_process", "--owner", self._owner,
                    *(part for name, fd in fds.items() for part in (f"--{name}", str(fd))),
                ),
                pass_fds=tuple(fds.values()),
                env=os.environ,
            )  # fmt: skip
            channel = await Channel.over(ours)
            undo.pop_all()
        theirs.close()
        return _Running(process, channel, metrics)

    async def _wait_for_end(self, running: _Running) -> int:
        listening = asyncio.create_task(self._listen(running.channel))
        status = await running.process.wait()
        await listening
        running.channel.close()
        with self._cells_lock:
            with KeepGoing("the counts of a store's process that has ended"):
                self._metrics.inherit(running.metrics)
            self._running = None
            running.metrics.close()
        return status

    async def _listen(self, channel: Channel) -> None:
        """Note its signs of life until it is gone."""
        while (message := await channel.receive()) is not None:
            self._unanswered = 0
            if isinstance(message, Ready):
                self._limit = _SILENT_PINGS

    async def _ping(self) -> None:
        """Kill a process that lives but does not answer; it is replaced as if it had died."""
        keep_going = KeepGoing("the look at the store's process")
        while True:
            await asyncio.sleep(_PING_EVERY)
            with keep_going:
                if self._running is None:
                    continue
                if self._unanswered >= self._limit:
                    logger.error("the store's process (pid %d) is silent; it is killed", self._running.process.pid)
                    self._kill()
                self._unanswered += 1
                self._running.channel.send(Ping())

    def _kill(self) -> None:
        if self._running is not None:
            with contextlib.suppress(ProcessLookupError):
                self._running.process.kill()
