"""A worker as its supervisor sees it: the child process, the channel to it, and what it has answered so far."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from gateway.admin.rpc import RPC_TIMEOUT, RpcRequest
from gateway.model.keep_going import KeepGoing
from gateway.policy.shared import SharedMemory
from gateway.server.channel import Channel, Ready, ReplyPart
from gateway.server.children import Child
from gateway.server.ipc import Ask, Built, Committed, Prepared, Serve, TargetEjected
from gateway.server.store_handle import StoreAccess
from gateway.server.two_phase import Acknowledgement, Acknowledgements
from gateway.telemetry.metrics.shared import WorkerMetrics

_START_LIMIT: Final = 60.0
"""Seconds for a worker to become ready. On a busy machine, as after a boot, a start takes many times as long as else.
The units' TimeoutStartSec is longer, so that the gateway can say what was too slow."""


class Inheritance(NamedTuple):
    """What every worker of a supervisor inherits."""

    listen: Sequence[int]
    """Descriptors of the listening sockets."""
    systemd: Sequence[int]
    """Descriptors of those that systemd has handed over."""
    sessions: int
    """Descriptor of the sessions' shared memory."""
    shared: SharedMemory
    instance: str
    """WCS_GATEWAY_INSTANCE: the same for all workers of a gateway."""
    store: StoreAccess | None
    """None where no store is configured."""


class WorkerHandle:
    """One child process."""

    def __init__(self, slot: int, process: Child, channel: Channel, metrics: WorkerMetrics) -> None:
        self.slot = slot
        self.process = process
        self.metrics = metrics
        self.is_built = False
        """Whether it takes part in reloads."""
        self.ready = asyncio.Event()
        """Set once it accepts hooks."""
        self.on_ejection: Callable[[str, str], None] | None = None
        """Called with upstream and URL of a target that it ejects for every app because the target fails."""
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self.started_at = self._loop.time()
        self.unanswered = 0
        """Pings since its last sign of life."""
        self._acknowledgements = Acknowledgements()
        self._numbers = itertools.count()
        self._requests: dict[int, _Request] = {}
        self._listening = asyncio.create_task(self._listen())

    def __repr__(self) -> str:
        return f"<WorkerHandle {self.slot} pid {self.process.pid}>"

    @classmethod
    async def spawn(cls, slot: int, inheritance: Inheritance) -> WorkerHandle:
        """Start a worker's process. Raises OSError and others where the system denies one."""
        listen, systemd, sessions, shared, instance, store = inheritance
        kept = [] if store is None else ["--store", store.name, "--backlog", str(store.table)]
        with contextlib.ExitStack() as undo:
            ours, theirs = map(undo.enter_context, socket.socketpair())
            metrics = undo.enter_context(contextlib.closing(WorkerMetrics()))
            process = Child(
                (
                    sys.executable, "-m", "gateway.server.worker",
                    "--channel", str(theirs.fileno()),
                    "--values", str(metrics.values_fd),
                    "--names", str(metrics.names_fd),
                    "--sessions", str(sessions),
                    "--shared", str(shared.fd),
                    "--slot", str(slot),
                    *kept,
                    "--listen", *map(str, listen),
                    "--systemd", *map(str, systemd),
                ),
                pass_fds=(
                    theirs.fileno(), metrics.values_fd, metrics.names_fd, sessions, shared.fd, *listen, *systemd,
                    *(() if store is None else (store.table,)),
                ),
                env={**os.environ, **shared.environment, "WCS_GATEWAY_INSTANCE": instance},
            )  # fmt: skip
            channel = await Channel.over(ours)
            undo.pop_all()
        theirs.close()
        return cls(slot, process, channel, metrics)

    async def becomes_ready(self, stop: asyncio.Event) -> bool:
        """Whether it is ready within its time; if not, it is killed, unless *stop* is set: then it is told to end."""
        waiting = [asyncio.create_task(what()) for what in (self.ready.wait, self.process.wait, stop.wait)]
        await asyncio.wait(waiting, timeout=_START_LIMIT, return_when=asyncio.FIRST_COMPLETED)
        is_ready = self.ready.is_set()
        for task in waiting:
            task.cancel()
        if not is_ready and not stop.is_set():
            self.kill()
        return is_ready

    def send(self, message: object) -> None:
        """Send it a message; one that cannot be delivered is dropped."""
        self._channel.send(message)

    async def ask(self, request: RpcRequest[Any]) -> bytes | None:
        """Its reply within RPC_TIMEOUT, encoded; None = none."""
        number = next(self._numbers)
        pending = self._requests[number] = _Request(self._loop.create_future(), [])
        try:
            self.send(Ask(number, request))
            if not self.ready.is_set() or self.is_gone:
                return None  # it will carry the request out, but has other things to do first
            async with asyncio.timeout(RPC_TIMEOUT):
                return await pending.reply
        except TimeoutError:
            return None
        finally:
            del self._requests[number]

    async def acknowledgement(self, kind: type[Acknowledgement], serial: int) -> Acknowledgement | None:
        """Its acknowledgement of the configuration with this serial; None where it ends before that."""
        return await self._acknowledgements.wait_for(kind, serial)

    @property
    def is_gone(self) -> bool:
        """Whether it will send nothing more."""
        return self._listening.done()

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def wait_for_end(self) -> int:
        """Wait for its end; its exit status."""
        status = await self.process.wait()
        await self._listening
        self._channel.close()
        return status

    async def _listen(self) -> None:
        keep_going = KeepGoing(f"listening to worker {self.slot}")
        there_is_more = True
        while there_is_more:
            with keep_going:
                there_is_more = await self._receive()
        self._acknowledgements.end()
        for pending in self._requests.values():
            if not pending.reply.done():
                pending.reply.set_result(None)

    async def _receive(self) -> bool:
        """Receive its next message; False where there will be none."""
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
                self._acknowledgements.add(message)
            case TargetEjected(upstream, url):
                if self.on_ejection is not None:
                    self.on_ejection(upstream, url)
            case ReplyPart():
                self._add_part(message)
        return True

    def _add_part(self, part: ReplyPart) -> None:
        pending = self._requests.get(part.number)
        if pending is None or pending.reply.done():
            return  # too late
        if part.piece is None:
            pending.reply.set_result(None)
            return
        pending.pieces.append(part.piece)
        if part.last:
            pending.reply.set_result(b"".join(pending.pieces))


class _Request(NamedTuple):
    """A request that a worker has not answered yet."""

    reply: asyncio.Future[bytes | None]
    pieces: list[bytes]
