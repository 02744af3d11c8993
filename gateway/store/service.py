"""The store's process: talks with all processes of the gateway, and passes on what they send to spool and history.

``SpoolKeeper`` and ``HistoryKeeper`` own the databases, ``Leases`` says who delivers what; here are the connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import pickle
import socket
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Final, Protocol

import msgspec

from gateway.model.keep_going import KeepGoing
from gateway.store.backlog_table import BacklogWriter
from gateway.store.connection import Connection
from gateway.store.leases import Leases
from gateway.store.messages import (
    Ask,
    Backlogs,
    Configure,
    Duty,
    Hello,
    KeepDecisions,
    KeepEvent,
    KeepShadow,
    Kept,
    Message,
    Reply,
    Settle,
    Settled,
    Take,
    Work,
    decode_for_store,
    encode,
)
from gateway.store.records import Delivery, SpooledEvent, UpstreamBacklog
from gateway.store.requests import (
    HistoryPage,
    SearchHistory,
    StoreReport,
    StoreRequest,
    StoreState,
    StoreUnavailable,
    decode_request,
)
from gateway.store.settings import StoreConfig

logger = logging.getLogger(__name__)

_LARGE: Final = 16 * 1024
"""Bytes of a configuration from which on it is unpickled in a thread."""
_READ_LIMIT: Final = 1.0
"""Seconds for which finding out what waits may keep back whether the database can be written."""
_REST_LIMIT: Final = 2.0
"""Seconds between two of those messages, at most, where there is news."""
_PUSH_EVERY: Final = 0.1
"""Seconds between two messages that say what waits, at least."""
_REST_FACTOR: Final = 10.0
"""The same as a multiple of the time that finding it out took."""
_TICK: Final = 1.0
"""Seconds between two looks at ages, sizes and processes that have ended."""

encode_answer = msgspec.msgpack.Encoder().encode


class SpoolSide(Protocol):
    """What is done about kept events. Everything is called in the event loop."""

    @property
    def up(self) -> bool:
        """Whether events are taken."""

    @property
    def error(self) -> str | None:
        """Why none are."""

    async def size(self) -> int:
        """Bytes of the database. Raises StoreUnavailable."""

    def keep(self, event: SpooledEvent, done: Callable[[str | None], None]) -> None:
        """Commit an event; *done* gets None, or why it is not committed."""

    async def take(self, upstream: str, most: int, excluded: Collection[int]) -> Sequence[Delivery]:
        """Events that are due, without those *excluded*; none where the database is down."""

    def settle(self, outcome: Settle, done: Callable[[], None]) -> None:
        """Commit what became of a delivery, however long that takes."""

    def release(self, ids: Collection[int]) -> None:
        """These will not be delivered by the process that has taken them: it has ended."""

    async def backlogs(self) -> Sequence[UpstreamBacklog] | None:
        """What waits; None where the database is down."""

    async def answer(self, request: StoreRequest) -> object:
        """The answer to an operator's request about the spool. Raises StoreUnavailable."""

    async def tick(self, leased: Collection[int]) -> None:
        """Drop what is too old or too much, and keep the leases."""


class HistorySide(Protocol):
    """What is done about decisions. Everything is called in the event loop."""

    @property
    def error(self) -> str | None:
        """Why none are kept although a history is configured."""

    async def size(self) -> int:
        """Bytes of the database. Raises StoreUnavailable."""

    async def oldest(self) -> float | None:
        """Unix time of the oldest decision. Raises StoreUnavailable."""

    def keep(self, decisions: Sequence[bytes]) -> None:
        """Keep these, or count them as dropped."""

    def keep_shadow(self, request_id: str, time: float, result: bytes) -> None:
        """Keep the result of a shadow copy."""

    async def search(self, request: SearchHistory) -> HistoryPage:
        """Some of the decisions that an operator wants. Raises StoreUnavailable."""

    async def tick(self) -> None:
        """Delete what is too old or too much."""


class _Peer:
    """A process at the other end of a connection."""

    def __init__(self, service: StoreService) -> None:
        self.connection = Connection(functools.partial(service.receive, self), functools.partial(service.end, self))
        self.role = ""
        self.pid = 0

    def __repr__(self) -> str:
        return f"<{self.role or 'unknown'} pid {self.pid}>"

    def send(self, message: Message) -> None:
        self.connection.send(encode(message))


class StoreService:
    """Build it inside the running loop, ``start()`` it, and ``finish()`` it once the others have ended."""

    def __init__(
        self,
        spool: SpoolSide,
        history: HistorySide,
        table: BacklogWriter,
        on_config: Callable[[StoreConfig], None],
        on_backlogs: Callable[[Sequence[UpstreamBacklog]], None],
    ) -> None:
        """*on_config* puts a configuration in force; *on_backlogs* is called once a second with what waits."""
        self._spool = spool
        self._history = history
        self._table = table
        self._on_config = on_config
        self._on_backlogs = on_backlogs
        self._loop = asyncio.get_running_loop()
        self._peers: set[_Peer] = set()
        self._leases = Leases(table.duty)
        self._watched: dict[int, int] = {}
        """Descriptors of processes that are awaited, by pid."""
        self._taking = asyncio.Lock()
        """Held while events are looked for: they are leased before the next look."""
        self._configuring = asyncio.Lock()
        self._changed = asyncio.Event()
        """Set when what waits may have changed."""
        self._backlogs: Sequence[UpstreamBacklog] | None = None
        """What was last found to wait; None before that."""
        self.engine = ""
        """``sqlite`` or ``postgresql``."""
        self._all_gone = asyncio.Event()
        self._reading: asyncio.Task[Sequence[UpstreamBacklog] | None] | None = None
        """The look at what waits that is under way."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def __repr__(self) -> str:
        return f"<StoreService {len(self._peers)} peers, {self._leases!r}>"

    async def start(self, listening: socket.socket) -> None:
        """Talk with those that connect to this socket."""
        self._watch_awaited()
        self._server = await self._loop.create_unix_server(lambda: _Peer(self).connection, sock=listening)
        self._spawn(self._push_backlogs())
        self._spawn(self._tick())

    async def finish(self, limit: float) -> None:
        """Accept no more; return once all connections have ended and what they sent was passed on, or after *limit*."""
        if self._server is not None:
            self._server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while self._peers:
                    self._all_gone.clear()
                    await self._all_gone.wait()
        for peer in list(self._peers):
            peer.connection.abort()
        tasks = [*self._tasks, *([] if self._reading is None else [self._reading])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pid in list(self._watched):
            self._unwatch(pid)

    def note_change(self) -> None:
        """What waits, or whether the database can be written, may have changed."""
        self._changed.set()

    # --- messages ---

    def receive(self, peer: _Peer, data: bytes) -> None:
        """Handle a message. Raises where it is none: that ends the connection."""
        message = decode_for_store(data)
        if not peer.role:
            self._greet(peer, message)
            return
        match message:
            case KeepEvent():
                self._spool.keep(message.event, functools.partial(_confirm, peer, message.number))
            case KeepDecisions():
                self._history.keep(message.decisions)
            case KeepShadow():
                self._history.keep_shadow(message.request_id, message.time, message.result)
            case Take():
                self._spawn(self._take(peer, message))
            case Settle():
                self._spool.settle(message, functools.partial(self._settled, peer, message.id))
            case Ask():
                self._spawn(self._answer(peer, message))
            case Configure():
                self._spawn(self._configure(message))
            case Hello():
                raise ValueError("a second Hello")

    def end(self, peer: _Peer, reason: Exception | None) -> None:
        """A connection has ended."""
        if reason is not None and not isinstance(reason, OSError):
            logger.error("the connection with %r ended: %s", peer, reason, exc_info=reason)
        if peer not in self._peers:
            return
        self._peers.remove(peer)
        if peer.role == "worker" and not any(other.pid == peer.pid for other in self._workers()):
            self._leases.disconnect(peer.pid)
            self._watch_awaited()
        if not self._peers:
            self._all_gone.set()

    def _greet(self, peer: _Peer, message: object) -> None:
        pid, uid = peer.connection.peer()
        if not isinstance(message, Hello) or uid != os.getuid():
            raise ValueError(f"process {pid} of user {uid} is none of this gateway's")
        peer.role, peer.pid = message.role, pid
        self._peers.add(peer)
        if peer.role == "worker":
            self._unwatch(pid)
            self._release(self._leases.connect(pid, message.held))
            self._publish_duty()
            peer.send(Duty(self._leases.duty == pid))
        else:
            peer.send(Backlogs(tuple(self._backlogs or ()), self._spool.up))
        self._changed.set()

    def _workers(self) -> list[_Peer]:
        return [peer for peer in self._peers if peer.role == "worker"]

    # --- the configuration ---

    async def _configure(self, message: Configure) -> None:
        async with self._configuring:  # in the order in which they came
            large = len(message.config) > _LARGE
            load = functools.partial(pickle.loads, message.config)
            self._on_config(await asyncio.to_thread(load) if large else load())
        self._changed.set()

    # --- redelivery ---

    async def _take(self, peer: _Peer, message: Take) -> None:
        deliveries: Sequence[Delivery] = ()
        async with self._taking:
            if self._may_take(peer):
                deliveries = await self._spool.take(message.upstream, message.most, self._leases.leased)
            if deliveries and not self._may_take(peer):
                self._release([delivery.id for delivery in deliveries])
                deliveries = ()
            self._leases.lease(peer.pid, [delivery.id for delivery in deliveries])
            peer.send(Work(message.number, tuple(deliveries)))

    def _may_take(self, peer: _Peer) -> bool:
        return peer in self._peers and self._leases.duty == peer.pid

    def _settled(self, peer: _Peer, event: int) -> None:
        self._leases.settle(event)
        peer.send(Settled((event,)))
        self._changed.set()

    def _release(self, events: Collection[int]) -> None:
        if events:
            self._spool.release(events)
            self._changed.set()

    def _publish_duty(self) -> None:
        """Note who has the duty where the next store's process finds it."""
        self._table.duty = self._leases.duty

    def _watch_awaited(self) -> None:
        """Notice the end of the processes whose end matters."""
        for pid in self._leases.awaited - self._watched.keys():
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                self._process_ended(pid)
                return
            except OSError:  # an old kernel, or no descriptors left: ``_tick`` asks again
                continue
            self._watched[pid] = fd
            self._loop.add_reader(fd, self._process_ended, pid)

    def _unwatch(self, pid: int) -> None:
        fd = self._watched.pop(pid, None)
        if fd is not None:
            self._loop.remove_reader(fd)
            os.close(fd)

    def _process_ended(self, pid: int) -> None:
        self._unwatch(pid)
        before = self._leases.duty
        self._release(self._leases.end(pid))
        self._publish_duty()
        if before != self._leases.duty:
            logger.info("redelivery has moved from process %d to %d", before, self._leases.duty)
            for peer in self._workers():
                peer.send(Duty(self._leases.duty == peer.pid))
            self._changed.set()
        self._watch_awaited()

    # --- what waits ---

    async def _push_backlogs(self) -> None:
        """Tell those that need it what waits, at each change."""
        keep_going = KeepGoing("the look at what waits")
        while True:
            await self._changed.wait()
            self._changed.clear()
            began = time.monotonic()
            with keep_going:
                found = await self._read_backlogs()
                self._backlogs = self._backlogs if found is None else found
                message = Backlogs(tuple(self._backlogs or ()), self._spool.up)
                for peer in self._peers:
                    if peer.role == "admin" or peer.pid == self._leases.duty:
                        peer.send(message)
            await asyncio.sleep(min(max(_PUSH_EVERY, (time.monotonic() - began) * _REST_FACTOR), _REST_LIMIT))

    async def _read_backlogs(self) -> Sequence[UpstreamBacklog] | None:
        """What waits; None where the database is down, or silent: then it is asked no second time meanwhile."""
        if self._reading is None:
            self._reading = self._loop.create_task(self._await_backlogs())
        reading = self._reading
        done, _ = await asyncio.wait((reading,), timeout=_READ_LIMIT)
        if not done:
            reading.add_done_callback(lambda _: self._changed.set())
            return None
        self._reading = None
        return reading.result()

    async def _await_backlogs(self) -> Sequence[UpstreamBacklog] | None:
        return await self._spool.backlogs()

    async def _tick(self) -> None:
        keep_going = KeepGoing("the store's timer")
        while True:
            await asyncio.sleep(_TICK)
            with keep_going:
                self._watch_awaited()
                if self._backlogs is not None:
                    self._on_backlogs(self._backlogs)
            with keep_going:
                await self._spool.tick(frozenset(self._leases.leased))
            with keep_going:
                await self._history.tick()

    # --- operators ---

    async def _answer(self, peer: _Peer, message: Ask) -> None:
        data, error = b"", None
        try:
            data = encode_answer(await self._find_answer(decode_request(message.request)))
        except StoreUnavailable as exc:
            error = str(exc)
        except Exception as exc:
            logger.exception("a request could not be answered")
            error = f"a defect of the gateway ({type(exc).__name__}); the log says more"
        peer.send(Reply(message.number, data, error))
        self._changed.set()

    async def _find_answer(self, request: StoreRequest) -> object:
        if isinstance(request, StoreReport):
            return await self._report()
        if isinstance(request, SearchHistory):
            return await self._history.search(request)
        return await self._spool.answer(request)

    async def _report(self) -> StoreState:
        spool, history = self._spool, self._history
        oldest = None
        with contextlib.suppress(StoreUnavailable):
            oldest = await history.oldest()
        return StoreState(
            engine=self.engine,
            up=spool.up and history.error is None,
            error=spool.error or history.error,
            history_size=await _size(history),
            history_oldest=oldest,
            spool_size=await _size(spool),
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finish_task)

    def _finish_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.error("a message to the store failed", exc_info=exc)


async def _size(side: SpoolSide | HistorySide) -> int:
    try:
        return await side.size()
    except StoreUnavailable:
        return 0


def _confirm(peer: _Peer, number: int, error: str | None) -> None:
    peer.send(Kept(number, error))
