"""Remote calls to the processes that decide hooks: search a journal, report targets, carry out an operator's action.

The caller does not need to know whether one process decides hooks or several: a WorkerRpc sends the request to all of
them and collects the replies that arrive in time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from gateway.fleet.shares import Measured, Shares
from gateway.proxy.runtime import Runtime
from gateway.telemetry.decision_view import DecisionFilter, DecisionFormatter
from gateway.telemetry.journal import Cursor, Journal, JournalUpdate, SearchResult
from gateway.upstreams.status import TargetReport

RPC_TIMEOUT: Final = 1.0
"""Seconds that a process has to reply."""

T = TypeVar("T")


class RpcRequest(Generic[T]):
    """A request to every process; *T* is the type of each reply."""


@dataclass(frozen=True)
class FindDecisions(RpcRequest[SearchResult]):
    """Search the journal."""

    wanted: DecisionFilter


@dataclass(frozen=True)
class FollowDecisions(RpcRequest[JournalUpdate]):
    """Report the decisions made since the last request.

    *cursors* are by process id; a process without one reports what began since the Unix time *since*.
    """

    cursors: Mapping[int, Cursor]
    most: int
    since: float = field(default_factory=time.time)


@dataclass(frozen=True)
class ReportTargets(RpcRequest[list[TargetReport]]):
    """Report the state of every target."""


@dataclass(frozen=True)
class SetEjected(RpcRequest[bool]):
    """An action: eject a target until it is restored, or restore it. The reply says whether that changed anything."""

    upstream: str
    url: str
    ejected: bool


@dataclass(frozen=True)
class HintFailing(RpcRequest[bool]):
    """A target fails at another gateway of the fleet; the reply says whether there is such a target here."""

    upstream: str
    url: str


@dataclass(frozen=True)
class Drain(RpcRequest[bool]):
    """An action: make every answer close its connection, or stop doing so. The reply says whether that was possible."""

    on: bool


@dataclass(frozen=True)
class MeasureDemand(RpcRequest[dict[str, Measured]]):
    """Report what hooks demanded of the limits since the last request, by the limits' keys."""


@dataclass(frozen=True)
class ApplyShares(RpcRequest[bool]):
    """An action: use these shares of the limits. The reply says whether limits are shared with other gateways."""

    shares: Shares


_REPLY_TYPES: Final[Mapping[type[RpcRequest[Any]], Any]] = {
    FindDecisions: SearchResult,
    FollowDecisions: JournalUpdate,
    ReportTargets: list[TargetReport],
    SetEjected: bool,
    HintFailing: bool,
    Drain: bool,
    MeasureDemand: dict[str, Measured],
    ApplyShares: bool,
}
_encode = msgspec.msgpack.Encoder().encode


def encode_reply(reply: object) -> bytes:
    """A reply as bytes, to be sent from process to process."""
    return _encode(reply)


def decode_reply(request: RpcRequest[T], data: bytes) -> T:
    """The reply to this request, from the bytes that ``encode_reply`` made."""
    reply: T = msgspec.msgpack.decode(data, type=_REPLY_TYPES[type(request)])
    return reply


@dataclass(frozen=True)
class Replies(Generic[T]):
    """The replies of all processes."""

    by_pid: Mapping[int, T] = field(default_factory=dict)
    incomplete: Sequence[int] = ()
    """The process ids without a reply in time."""


class WorkerRpc(Protocol):
    """Sends requests to every process that decides hooks."""

    async def ask(self, request: RpcRequest[T]) -> Replies[T]:
        """The replies that arrive within RPC_TIMEOUT."""


class NoWorkers:
    """A WorkerRpc for a process that decides no hooks and has no workers."""

    async def ask(self, request: RpcRequest[T]) -> Replies[T]:
        """No replies."""
        return Replies()


class RpcHandler:
    """Answers requests in one process. It is the WorkerRpc too, where that process is the only one."""

    def __init__(self, journal: Journal, runtime: Runtime, drain: Callable[[bool], bool]) -> None:
        self._journal = journal
        self._runtime = runtime
        self._drain = drain
        self._pid = os.getpid()

    async def ask(self, request: RpcRequest[T]) -> Replies[T]:
        """The reply of this process alone."""
        return Replies({self._pid: await self.answer(request)})

    async def answer(self, request: RpcRequest[T]) -> T:
        """The reply of this process; hooks continue while it is made. Raises TypeError for an unknown request."""
        reply: Any = await self._answer(request)
        return reply  # type: ignore[no-any-return]

    async def _answer(self, request: RpcRequest[Any]) -> object:
        targets = self._runtime.targets
        match request:
            case FindDecisions(wanted):
                return await self._journal.search(wanted, self._formatter())
            case FollowDecisions(cursors, most, since):
                here = cursors.get(self._pid) or self._journal.cursor_at(since)
                return self._journal.updates(here, most, self._formatter())
            case ReportTargets():
                return await targets.reports()
            case SetEjected(upstream, url, ejected):
                return targets.eject(upstream, url) if ejected else targets.restore(upstream, url)
            case HintFailing(upstream, url):
                return targets.hint(upstream, url)
            case Drain(on):
                return self._drain(on)
            case MeasureDemand():
                return self._runtime.measure_demand()
            case ApplyShares(shares):
                return await self._runtime.apply_shares(shares)
        raise TypeError(f"no handler for {request!r}")

    def _formatter(self) -> DecisionFormatter:
        config = self._runtime.snapshot.config
        return DecisionFormatter(self._pid, config.log.mask, config.hook_types)


class ActiveActions:
    """The operator's actions in force, for processes that start later."""

    def __init__(self) -> None:
        self._ejected: dict[tuple[str, str], SetEjected] = {}
        self._drain: Drain | None = None
        self._shares: ApplyShares | None = None

    def record(self, request: RpcRequest[Any]) -> None:
        """Remember the request if it is an action; forget the action that it ends."""
        match request:
            case SetEjected(upstream, url, ejected):
                self._ejected.pop((upstream, url), None)
                if ejected:
                    self._ejected[upstream, url] = request
            case Drain(on):
                self._drain = request if on else None
            case ApplyShares():
                self._shares = request

    def in_force(self) -> tuple[RpcRequest[Any], ...]:
        """Everything that a new process must carry out."""
        once = [action for action in (self._drain, self._shares) if action is not None]
        return (*self._ejected.values(), *once)
