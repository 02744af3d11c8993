"""Several workers on one port: starts them, replaces those that die, reloads and stops them, and answers for them all.

All workers accept on the same listening sockets, which the supervisor keeps open: if one worker dies or hangs, another
accepts the connections that wait, and while none lives they are refused at once (on systemd's sockets they wait). The
supervisor decides no hooks. It owns the configuration, so that a replacement never depends on what is on the disk by
then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import threading
from collections.abc import Sequence
from typing import Final

from gateway import __version__
from gateway.admin.activity import Reading, read
from gateway.admin.dry_run import build_runtime
from gateway.admin.endpoints import AdminState
from gateway.admin.lifecycle import Lifecycle, Phase
from gateway.admin.reload import Reloader, with_workers
from gateway.admin.rpc import ActiveActions, Replies, RpcRequest, T, decode_reply
from gateway.config import Config, Loaded
from gateway.config.sections.upstreams import target_names
from gateway.model.keep_going import KeepGoing
from gateway.policy.shared import SharedMemory
from gateway.proxy.routes import RuleNames
from gateway.proxy.sessions import shared_memory
from gateway.server.channel import Ping, Stop
from gateway.server.children import exit_reason
from gateway.server.fleet_local import FleetLocal, make_fleet, store_up
from gateway.server.hook_service import LOOK_AT_CERTIFICATES_EVERY
from gateway.server.ipc import Build, Commit, Discard, Prepare
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
from gateway.server.pem_cache import PemCache
from gateway.server.shared_sockets import SharedSockets
from gateway.server.sockets import StartError, display_address, unlink
from gateway.server.store_handle import StoreHandle
from gateway.server.two_phase import wait_until_committed, wait_until_prepared
from gateway.server.worker_handle import Inheritance, WorkerHandle
from gateway.telemetry.log import LogWriter
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.metrics.shared import WorkerMetrics
from gateway.upstreams.mirror import candidate_upstreams

logger = logging.getLogger(__name__)

_PING_EVERY: Final = 0.5
_SILENCE_LIMIT: Final = 2.0
"""Seconds without a sign of life after which a worker is killed and replaced; its hooks wait for that long."""
_SILENT_PINGS: Final = round(_SILENCE_LIMIT / _PING_EVERY)
"""The same in pings: a clock would also count the time for which the supervisor, or the whole machine, was paused."""
_BACKOFF: Final = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the first, second, … replacement of a worker that dies soon after its start."""
_RESPAWN_AFTER: Final = 1.0
"""Seconds between two attempts while the system denies a new process: no descriptors, no memory."""
_PROVEN_AFTER: Final = 5.0
"""Seconds after which a worker has proved that it works: if it dies later, it is replaced at once."""
_AFTER_DRAIN: Final = 3.0
"""Seconds beyond the drain's own limit after which a worker is killed."""
_MAX_REQUESTS: Final = 16
"""Requests that the workers answer at the same time; more wait."""


class Supervisor:
    """The parent process: build it, ``await serve()``, and it runs until a signal or ``stop()``."""

    def __init__(self, loaded: Loaded, writer: LogWriter) -> None:
        server = loaded.config.server
        self._loaded = loaded
        sessions = shared_memory()  # what all workers remember of the clients' sessions; it outlives each of them
        self._shared = SharedMemory(server.workers)
        """The workers' duplicates, limits and breakers; it outlives them, too."""
        hook_sockets, self._admin_sockets = bind_all(loaded.config)
        self._sockets = SharedSockets(hook_sockets)
        self.lifecycle = Lifecycle()  # first: it notes when the process began
        self._metrics = Metrics(__version__)
        writer.on_drop = self._metrics.log_dropped.inc
        self._reloader = Reloader(loaded, self._metrics, self._apply)
        self._metrics.on_scrape(certificate_sampler(self._metrics, self._reloader))
        self._metrics.on_scrape(lambda: self._metrics.ready.set(self.lifecycle.phase is Phase.READY))
        self._workers: dict[int, WorkerHandle] = {}
        self._config: Config = loaded.config
        self._serial = self._last_serial = 0
        """Of the configuration in force, and of the last one that was tried."""
        self._keep_going = KeepGoing("what follows a reload, or a worker's end,")
        self._actions = ActiveActions()
        self._pem_cache = PemCache()
        self._files_changed = asyncio.Event()
        self._asking = asyncio.Semaphore(_MAX_REQUESTS)
        self._cells_lock = threading.Lock()
        """Held while the workers' metrics are read, in a scrape's thread, or inherited from a worker that has ended."""
        self._stop = asyncio.Event()
        config = loaded.config
        self._store = None if config.store is None else StoreHandle(config, self._metrics, self._cells_lock)
        if self._store is not None:
            self._metrics.on_scrape(self._store.sample)
        address = display_address(self._admin_sockets[0])
        local = FleetLocal(
            self._reloader, self.lifecycle, self, address, store_up(self._store),
            store=None if self._store is None else self._store.client,
        )  # fmt: skip
        self._fleet = make_fleet(config, self._metrics, local)
        self._inheritance = Inheritance(
            listen=self._sockets.descriptors,
            systemd=self._sockets.systemd_descriptors,
            sessions=sessions,
            shared=self._shared,
            instance=os.environ.get("WCS_GATEWAY_INSTANCE") or os.urandom(4).hex(),
            store=None if self._store is None else self._store.access,
        )
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """Begin the orderly end; called a second time, end at once."""
        if self._stop.is_set():
            for worker in self._workers.values():
                worker.send(Stop(at_once=True))
        self._stop.set()

    async def serve(self) -> None:
        """Serve until told to stop; returns when every worker has ended."""
        hooks, address = self._sockets.addresses, display_address(self._admin_sockets[0])
        events = make_events(self._read, self, self._reloader, self.lifecycle)
        state = AdminState(
            self._reloader, self.lifecycle, self._render, self._worker_pids,
            rpc=self, events=events, listen=hooks, admin=address,
            store=None if self._store is None else self._store.client, fleet=self._fleet,
        )  # fmt: skip
        admin = admin_listener(state, self._admin_sockets)
        _configure_series(self._metrics, self._config)
        supervising: list[asyncio.Task[None]] = []
        refreshing = asyncio.create_task(self._refresh_pem_cache())
        async with (
            run_admin(admin, self._reloader, self._stop, self.stop),
            contextlib.aclosing(events),
            contextlib.nullcontext() if self._store is None else self._store.running(),
            contextlib.nullcontext() if self._fleet is None else self._fleet.running(),
        ):
            try:
                await self._start_all()
                supervising = [asyncio.create_task(self._supervise(worker)) for worker in self._workers.values()]
                pinging = asyncio.create_task(self._ping())
                if not self._stop.is_set():
                    self.lifecycle.ready()
                    announce_ready(self._loaded, hooks, address)
                await self._stop.wait()
                self.lifecycle.drain()
                announce_stopping(self._loaded)
                pinging.cancel()
            finally:
                refreshing.cancel()
                self._stop.set()
                unlink(self._loaded.config.server.listen)
                await self._stop_all(supervising)
        logger.info("stopped")

    # --- workers ---

    async def _start_all(self) -> None:
        """Return when all serve, or once the end has begun. Raises StartError where one does not become ready."""
        workers = [await self._spawn(slot) for slot in range(self._loaded.config.server.workers)]
        for worker in workers:
            if not await worker.becomes_ready(self._stop) and not self._stop.is_set():
                raise StartError(f"worker {worker.slot} did not come up; the log says why")
        self._publish_count()

    async def _spawn(self, slot: int) -> WorkerHandle:
        worker = await WorkerHandle.spawn(slot, self._inheritance)
        if self._fleet is not None:
            worker.on_ejection = self._fleet.hints.give
        self._workers[slot] = worker
        worker.send(Build(self._serial, self._config, self._actions.in_force(), self._pem_cache.copies))
        return worker

    async def _supervise(self, worker: WorkerHandle) -> None:
        """Replace the worker when it ends, and each replacement, until the end of all."""
        early = 0
        while True:
            status = await worker.wait_for_end()
            self._shared.vacate(worker.slot)
            with self._cells_lock:
                with self._keep_going:
                    self._metrics.inherit(worker.metrics)
                    worker.metrics.close()
                del self._workers[worker.slot]
            self._publish_count()
            if self._stop.is_set():
                return
            if not self._count_ready():
                self._sockets.suspend()
            self._metrics.worker_deaths.inc()
            early = early + 1 if self._loop.time() - worker.started_at < _PROVEN_AFTER else 0
            wait = _BACKOFF[min(early, len(_BACKOFF) - 1)]
            logger.error(
                "worker %d (pid %d) ended with %s; it is replaced%s",
                worker.slot, worker.process.pid, exit_reason(status), f" in {wait:g} s" if wait else " now",
                extra={"fields": {"event": "worker_died", "pid": worker.process.pid}},
            )  # fmt: skip
            await asyncio.sleep(wait)
            successor = await self._respawn(worker.slot)
            if successor is None:
                return
            worker = successor
            if await worker.becomes_ready(self._stop):
                self._sockets.resume()
                self._publish_count()
                logger.info("worker %d (pid %d) serves", worker.slot, worker.process.pid)

    def _count_ready(self) -> int:
        """How many workers accept hooks; one that has just been started does not yet."""
        return sum(worker.ready.is_set() for worker in self._workers.values())

    def _publish_count(self) -> None:
        self._metrics.workers.set(self._count_ready())

    async def _respawn(self, slot: int) -> WorkerHandle | None:
        """Try until there is a process again; None where the end came first."""
        while not self._stop.is_set():
            try:
                return await self._spawn(slot)
            except Exception as exc:  # no descriptors, no memory, or anything else: the others serve meanwhile
                logger.error("worker %d is not replaced yet (%s); trying again", slot, exc)
                await asyncio.sleep(_RESPAWN_AFTER)
        return None

    async def _refresh_pem_cache(self) -> None:
        """Keep copies of the certificates' files, for workers that start while those on the disk are unusable."""
        keep_going = KeepGoing("the copying of certificates")
        while True:
            self._files_changed.clear()
            with keep_going:
                await asyncio.to_thread(self._pem_cache.refresh, self._config)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._files_changed.wait(), LOOK_AT_CERTIFICATES_EVERY)

    async def _ping(self) -> None:
        """Kill workers that live but do not answer; they are replaced as if they had died."""
        keep_going = KeepGoing("the look for silent workers")
        while True:
            await asyncio.sleep(_PING_EVERY)
            for worker in self._workers.values():
                with keep_going:
                    if worker.ready.is_set() and worker.unanswered >= _SILENT_PINGS:
                        logger.error("worker %d (pid %d) is silent; it is killed", worker.slot, worker.process.pid)
                        worker.kill()
                    worker.unanswered += 1
                    worker.send(Ping())

    async def _stop_all(self, supervising: Sequence[asyncio.Task[None]]) -> None:
        self._sockets.close()
        for worker in self._workers.values():
            worker.send(Stop(at_once=False))
        if not supervising:  # the start failed: no task waits for their ends yet
            for worker in self._workers.values():
                worker.kill()
            return
        limit = self._config.server.drain_timeout + _AFTER_DRAIN
        _, late = await asyncio.wait(supervising, timeout=limit)
        if late:
            for worker in list(self._workers.values()):
                logger.error("worker %d has not ended within its time; it is killed", worker.slot)
                worker.kill()
            await asyncio.wait(late, timeout=_AFTER_DRAIN)

    # --- for all of them ---

    async def _apply(self, loaded: Loaded) -> None:
        """Put a configuration in force in all workers, or in none. Raises what prevents it."""
        config = with_workers(loaded.config, self._loaded.config.server.workers)
        self._last_serial += 1
        serial = self._last_serial
        message = Prepare(serial, await asyncio.to_thread(pickle.dumps, config))
        involved = [worker for worker in self._workers.values() if worker.is_built]
        try:
            for worker in involved:
                worker.send(message)
            if not await wait_until_prepared(involved, serial):
                await build_runtime(config, self._pem_cache.copies)  # no worker may start with what cannot be built
        except BaseException:
            for worker in involved:
                worker.send(Discard(serial))
            raise
        # From here on it is in force: for those that have prepared it, and for those that start later.
        self._config, self._serial = config, serial
        for worker in list(self._workers.values()):
            with self._keep_going:
                if worker not in involved:  # it has started meanwhile, with the previous configuration
                    worker.send(message)
                worker.send(Commit(serial))
        await self._finish_reload(involved, config, serial)

    async def _finish_reload(self, workers: Sequence[WorkerHandle], config: Config, serial: int) -> None:
        """Do what follows a commit and cannot undo it."""
        with self._keep_going:
            for worker in await wait_until_committed(workers, serial):
                worker.send(Stop(at_once=False, others_accept=True))  # it has the previous configuration
        if self._store is not None:
            with self._keep_going:
                await self._store.configure(config)
        with self._keep_going:
            warn_if_few_descriptors(config)
            self._files_changed.set()
            _configure_series(self._metrics, config)

    async def ask(self, request: RpcRequest[T]) -> Replies[T]:
        """The replies of the workers in time. An action is carried out by workers that start later, too."""
        self._actions.record(request)
        async with self._asking:
            workers = list(self._workers.values())
            replies = await asyncio.gather(*(worker.ask(request) for worker in workers))
        by_pid, incomplete = {}, []
        for worker, data in zip(workers, replies, strict=True):
            if data is None:
                incomplete.append(worker.process.pid)
            else:
                by_pid[worker.process.pid] = decode_reply(request, data)
        return Replies(by_pid, incomplete)

    def _render(self) -> bytes:
        with self._cells_lock:
            return self._metrics.render(self._other_metrics())

    def _read(self) -> Reading:
        with self._cells_lock:
            return read(self._metrics, self._other_metrics())

    def _other_metrics(self) -> list[WorkerMetrics]:
        store = () if self._store is None else self._store.worker_metrics
        return [*(worker.metrics for worker in self._workers.values()), *store]

    def _worker_pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers.values()]


def _configure_series(metrics: Metrics, config: Config) -> None:
    """Keep the series of all that the configuration has, those inherited from workers that have ended too."""
    targets = {
        (name, label)
        for name, upstream in {**config.upstreams, **candidate_upstreams(config)}.items()
        for label in target_names([target.url for target in upstream.targets]).values()
    }
    metrics.configure(config.apps, targets, config.metrics.app_label, RuleNames(config))
