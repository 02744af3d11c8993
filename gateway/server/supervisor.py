"""Several workers on one port: starts them, replaces those that die, reloads and stops them all, speaks for all.

All workers accept on the same listening sockets, which the supervisor keeps open: if one worker dies or hangs, a
connection that waits is taken by another, and where none lives it is refused at once. The supervisor itself decides no
hooks; it owns the configuration, so that a worker which is replaced never depends on what the disk says by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import pickle
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from gateway import __version__
from gateway.admin.activity import Reading, read
from gateway.admin.endpoints import AdminState
from gateway.admin.lifecycle import Lifecycle, Phase
from gateway.admin.reload import Reloader, with_workers
from gateway.admin.rpc import RPC_TIMEOUT, ActiveActions, Replies, RpcRequest, T, decode_reply
from gateway.config import Config, Loaded
from gateway.config.sections.upstreams import target_names
from gateway.model.keep_going import KeepGoing
from gateway.policy.shared import SharedMemory
from gateway.proxy.routes import RuleNames
from gateway.proxy.runtime import rehearse
from gateway.proxy.sessions import shared_memory
from gateway.server.children import Child, exit_reason
from gateway.server.hook_service import LOOK_AT_CERTIFICATES_EVERY
from gateway.server.ipc import (
    AnswerPart,
    Ask,
    Build,
    Built,
    Channel,
    Commit,
    Committed,
    Discard,
    Ping,
    Prepare,
    Prepared,
    Ready,
    Serve,
    Stop,
)
from gateway.server.listener import StartError, bind, close, display_address, unlink
from gateway.server.pem_cache import PemCache
from gateway.server.shared_sockets import SharedSockets
from gateway.server.single import (
    admin_listener,
    announce_ready,
    announce_stopping,
    certificate_sampler,
    make_events,
    run_admin,
    warn_if_few_descriptors,
)
from gateway.server.two_phase import Word, Words, all_prepared, those_without
from gateway.telemetry.log import LogWriter
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.metrics.shared import WorkerMetrics
from gateway.upstreams.mirror import candidate_upstreams

logger = logging.getLogger(__name__)

_START_LIMIT: Final = 30.0
"""Seconds for a worker to come up."""
_PING_EVERY: Final = 0.5
_SILENCE_LIMIT: Final = 2.0
"""Seconds without a sign of life after which a worker is killed and replaced: hooks on its connections wait so long."""
_TAKE_LIMIT: Final = 10.0
"""Seconds for a worker to put a new configuration in force."""
_SILENT_PINGS: Final = round(_SILENCE_LIMIT / _PING_EVERY)
"""The same in pings: a clock would also count the time in which we, or the whole machine, stood still."""
_BACKOFF: Final = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the first, second, … replacement of a worker that dies soon after its start."""
_RESPAWN_AFTER: Final = 1.0
"""Seconds between two attempts where the system denies us a new process: no descriptors, no memory."""
_SETTLED: Final = 5.0
"""A worker that has lived for so many seconds was well; its death is replaced at once."""
_AFTER_DRAIN: Final = 3.0
"""Seconds beyond the drain's own limit after which a worker is killed."""
_QUESTIONS: Final = 16
"""Questions that the workers are asked at once; more wait."""


class Worker:
    """One child process."""

    def __init__(self, slot: int, process: Child, channel: Channel, cells: WorkerMetrics) -> None:
        self.slot = slot
        self.process = process
        self.cells = cells
        self.is_built = False
        self.ready = asyncio.Event()
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self.started_at = self._loop.time()
        self.unanswered = 0
        """Pings since its last sign of life."""
        self._words = Words()
        self._questions = itertools.count()
        self._asked: dict[int, _Asked] = {}
        self._listening = asyncio.create_task(self._listen())

    def __repr__(self) -> str:
        return f"<Worker {self.slot} pid {self.process.pid}>"

    def send(self, message: object) -> None:
        """Tell it something."""
        self._channel.send(message)

    async def ask(self, question: RpcRequest[Any]) -> bytes | None:
        """Its reply within RPC_TIMEOUT, encoded; None = none."""
        number = next(self._questions)
        asked = self._asked[number] = _Asked(self._loop.create_future(), [])
        try:
            self.send(Ask(number, question))
            if not self.ready.is_set() or self._listening.done():
                return None  # it will hear of it, but has other things to do first
            async with asyncio.timeout(RPC_TIMEOUT):
                return await asked.told
        except TimeoutError:
            return None
        finally:
            del self._asked[number]

    async def says(self, kind: type[Word], serial: int) -> Word | None:
        """What it says of the configuration with this serial; None where it ends before that."""
        return await self._words.wait_for(kind, serial)

    @property
    def is_gone(self) -> bool:
        """Whether it will say nothing more."""
        return self._listening.done()

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def ended(self) -> int:
        """Wait for its end; its exit status."""
        status = await self.process.wait()
        await self._listening
        self._channel.close()
        return status

    async def _listen(self) -> None:
        keep_going = KeepGoing(f"hearing worker {self.slot}")
        there_is_more = True
        while there_is_more:
            with keep_going:
                there_is_more = await self._next()
        self._words.end()
        for asked in self._asked.values():
            if not asked.told.done():
                asked.told.set_result(None)

    async def _next(self) -> bool:
        """Hear what it says next; False where it will say nothing more."""
        message = await self._channel.receive()
        self.unanswered = 0
        match message:
            case None:
                return False
            case Built():
                self.is_built = True
                self.send(Serve())
            case Ready():
                self.ready.set()
            case Prepared() | Committed():
                self._words.add(message)
            case AnswerPart():
                self._hear(message)
        return True

    def _hear(self, told: AnswerPart) -> None:
        asked = self._asked.get(told.number)
        if asked is None or asked.told.done():
            return  # too late
        if told.piece is None:
            asked.told.set_result(None)
            return
        asked.pieces.append(told.piece)
        if told.last:
            asked.told.set_result(b"".join(asked.pieces))


class _Asked(NamedTuple):
    """A question that a worker has not answered yet."""

    told: asyncio.Future[bytes | None]
    pieces: list[bytes]


class Supervisor:
    """The parent process: build it, ``await serve()``, and it runs until a signal or ``stop()``."""

    def __init__(self, loaded: Loaded, writer: LogWriter) -> None:
        server = loaded.config.server
        self._loaded = loaded
        self._sessions = shared_memory()
        """What all workers remember of the clients' sessions; it outlives each of them."""
        self._shared = SharedMemory(server.workers)
        """Their duplicates, limits and breakers; it outlives them, too."""
        sockets = bind(server.listen, "server.listen")
        try:
            self._admin_sockets = bind((server.admin,), "server.admin")
        except StartError:
            unlink(server.listen)
            close(sockets)
            raise
        self._sockets = SharedSockets(sockets)
        self.lifecycle = Lifecycle()  # first: it notes when the process began
        self._metrics = Metrics(__version__)
        writer.on_drop = self._metrics.log_dropped.inc
        self._reloader = Reloader(loaded, self._metrics, self._take)
        self._metrics.on_scrape(certificate_sampler(self._metrics, self._reloader))
        self._metrics.on_scrape(lambda: self._metrics.ready.set(self.lifecycle.phase is Phase.READY))
        self._workers: dict[int, Worker] = {}
        self._config: Config = loaded.config
        self._serial = self._last_serial = 0
        """Of the configuration in force, and of the one that was tried last."""
        self._keep_going = KeepGoing("what follows a reload, or a worker's end,")
        self._actions = ActiveActions()
        self._pem_cache = PemCache()
        self._look_at_files = asyncio.Event()
        self._asking = asyncio.Semaphore(_QUESTIONS)
        self._reading = threading.Lock()
        """Held while workers' cells are read, in a scrape's thread, or taken over from one that has ended."""
        self._stop = asyncio.Event()
        self._instance = os.environ.get("WCS_GATEWAY_INSTANCE") or os.urandom(4).hex()
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
            self._reloader, self.lifecycle, self._render, self._worker_pids, self, events, hooks, address
        )
        admin = admin_listener(state, self._admin_sockets)
        _keep_series(self._metrics, self._config)
        keeping: list[asyncio.Task[None]] = []
        refreshing = asyncio.create_task(self._refresh_pem_cache())
        async with run_admin(admin, self._reloader, self._stop, self.stop), contextlib.aclosing(events):
            try:
                await self._start_all()
                keeping = [asyncio.create_task(self._keep(worker)) for worker in self._workers.values()]
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
                await self._stop_all(keeping)
        logger.info("stopped")

    # --- workers ---

    async def _start_all(self) -> None:
        """Return when all serve, or once the end has begun. Raises StartError where one does not come up."""
        workers = [await self._spawn(slot) for slot in range(self._loaded.config.server.workers)]
        for worker in workers:
            if not await _comes_up(worker, self._stop) and not self._stop.is_set():
                raise StartError(f"worker {worker.slot} did not come up; the log says why")
        self._count_workers()

    async def _spawn(self, slot: int) -> Worker:
        with contextlib.ExitStack() as undo:
            ours, theirs = map(undo.enter_context, socket.socketpair())
            cells = undo.enter_context(contextlib.closing(WorkerMetrics()))
            listen = self._sockets.descriptors
            process = Child(
                (
                    sys.executable, "-m", "gateway.server.worker",
                    "--channel", str(theirs.fileno()),
                    "--values", str(cells.values_fd),
                    "--names", str(cells.names_fd),
                    "--sessions", str(self._sessions),
                    "--shared", str(self._shared.fd),
                    "--slot", str(slot),
                    "--listen", *map(str, listen),
                ),
                pass_fds=(
                    theirs.fileno(), cells.values_fd, cells.names_fd, self._sessions, self._shared.fd, *listen,
                ),
                env={**os.environ, **self._shared.environment, "WCS_GATEWAY_INSTANCE": self._instance},
            )  # fmt: skip
            channel = await Channel.over(ours)
            undo.pop_all()
        theirs.close()
        worker = Worker(slot, process, channel, cells)
        self._workers[slot] = worker
        worker.send(Build(self._serial, self._config, self._actions.in_force(), self._pem_cache.copies))
        return worker

    async def _keep(self, worker: Worker) -> None:
        """Replace the worker, and whoever replaces it, until the end."""
        early = 0
        while True:
            status = await worker.ended()
            self._shared.vacate(worker.slot)
            with self._reading:
                with self._keep_going:
                    self._metrics.inherit(worker.cells)
                    worker.cells.close()
                del self._workers[worker.slot]
            self._count_workers()
            if self._stop.is_set():
                return
            if not self._serving():
                self._sockets.suspend()
            self._metrics.worker_deaths.inc()
            early = early + 1 if self._loop.time() - worker.started_at < _SETTLED else 0
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
            if await _comes_up(worker, self._stop):
                self._sockets.resume()
                self._count_workers()
                logger.info("worker %d (pid %d) serves", worker.slot, worker.process.pid)

    def _serving(self) -> int:
        """Workers that accept hooks; one that has just been begun does not yet."""
        return sum(worker.ready.is_set() for worker in self._workers.values())

    def _count_workers(self) -> None:
        self._metrics.workers.set(self._serving())

    async def _respawn(self, slot: int) -> Worker | None:
        """Try until there is a process again; None if the end has come meanwhile."""
        while not self._stop.is_set():
            try:
                return await self._spawn(slot)
            except Exception as exc:  # no descriptors, no memory, or anything else: the others go on meanwhile
                logger.error("worker %d is not replaced yet (%s); trying again", slot, exc)
                await asyncio.sleep(_RESPAWN_AFTER)
        return None

    async def _refresh_pem_cache(self) -> None:
        """Have copies of what the workers take up by themselves when it is renewed."""
        keep_going = KeepGoing("the copying of certificates")
        while True:
            self._look_at_files.clear()
            with keep_going:
                await asyncio.to_thread(self._pem_cache.refresh, self._config)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look_at_files.wait(), LOOK_AT_CERTIFICATES_EVERY)

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

    async def _stop_all(self, keeping: Sequence[asyncio.Task[None]]) -> None:
        self._sockets.close()
        for worker in self._workers.values():
            worker.send(Stop(at_once=False))
        if not keeping:  # the start failed: nobody waits for them yet
            for worker in self._workers.values():
                worker.kill()
            return
        limit = self._config.server.drain_timeout + _AFTER_DRAIN
        _, late = await asyncio.wait(keeping, timeout=limit)
        if late:
            for worker in list(self._workers.values()):
                logger.error("worker %d has not ended within its time; it is killed", worker.slot)
                worker.kill()
            await asyncio.wait(late, timeout=_AFTER_DRAIN)

    # --- for all of them ---

    async def _take(self, loaded: Loaded) -> None:
        """Have all workers take a configuration, or none; raises why not."""
        config = with_workers(loaded.config, self._loaded.config.server.workers)
        self._last_serial += 1
        serial = self._last_serial
        message = Prepare(serial, await asyncio.to_thread(pickle.dumps, config))
        asked = [worker for worker in self._workers.values() if worker.is_built]
        try:
            for worker in asked:
                worker.send(message)
            if not await all_prepared(asked, serial):
                await rehearse(config, self._pem_cache.copies)  # no worker may begin with what cannot be built
        except BaseException:
            for worker in asked:
                worker.send(Discard(serial))
            raise
        # From here on it is in force: for those that have it ready, and for those that begin later.
        self._config, self._serial = config, serial
        for worker in list(self._workers.values()):
            with self._keep_going:
                if worker not in asked:  # it has begun meanwhile, with the configuration before
                    worker.send(message)
                worker.send(Commit(serial))
        await self._settle(asked, config, serial)

    async def _settle(self, workers: Sequence[Worker], config: Config, serial: int) -> None:
        """What follows a reload, and cannot undo it."""
        with self._keep_going:
            for worker in await those_without(workers, serial):
                worker.send(Stop(at_once=False))
        with self._keep_going:
            warn_if_few_descriptors(config)
            self._look_at_files.set()
            _keep_series(self._metrics, config)

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
        with self._reading:
            return self._metrics.render([worker.cells for worker in self._workers.values()])

    def _read(self) -> Reading:
        with self._reading:
            return read(self._metrics, [worker.cells for worker in self._workers.values()])

    def _worker_pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers.values()]


async def _comes_up(worker: Worker, stop: asyncio.Event) -> bool:
    """Whether it does within its time; one that does not is killed, unless *stop* is set: then it is told to end."""
    waiting = [asyncio.create_task(what()) for what in (worker.ready.wait, worker.process.wait, stop.wait)]
    await asyncio.wait(waiting, timeout=_START_LIMIT, return_when=asyncio.FIRST_COMPLETED)
    came = worker.ready.is_set()
    for task in waiting:
        task.cancel()
    if not came and not stop.is_set():
        worker.kill()
    return came


def _keep_series(metrics: Metrics, config: Config) -> None:
    """Keep the series, of workers that have ended too, of all that the configuration has."""
    targets = {
        (name, label)
        for name, upstream in {**config.upstreams, **candidate_upstreams(config)}.items()
        for label in target_names([target.url for target in upstream.targets]).values()
    }
    metrics.configure(config.apps, targets, config.metrics.app_label, RuleNames(config))
