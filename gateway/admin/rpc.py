"""What is asked of the processes that decide hooks, and told by them: the journal, the targets, an operator's orders.

Whoever asks need not know whether one process decides hooks or several: an Inquiry puts the question to all of them,
and brings what each has said within its time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from gateway.proxy.runtime import Runtime
from gateway.telemetry.journal import Cursor, Found, Journal, News, Teller, Wanted
from gateway.upstreams.status import TargetReport

PATIENCE: Final = 1.0
"""Seconds that a process has for its answer."""

T = TypeVar("T")


class Question(Generic[T]):
    """Something that every process is asked; *T* is what each tells."""


@dataclass(frozen=True)
class FindCalls(Question[Found]):
    """Which decisions are these?"""

    wanted: Wanted


@dataclass(frozen=True)
class FollowCalls(Question[News]):
    """What was decided since? *cursors* by process; one that it lacks tells what began since the Unix time *since*."""

    cursors: Mapping[int, Cursor]
    most: int
    since: float = field(default_factory=time.time)


@dataclass(frozen=True)
class ReportTargets(Question[list[TargetReport]]):
    """How do the targets stand?"""


@dataclass(frozen=True)
class HoldTarget(Question[bool]):
    """An order: eject a target until it is restored, or restore it. Told is whether that changed anything."""

    upstream: str
    url: str
    held: bool


@dataclass(frozen=True)
class Drain(Question[bool]):
    """An order: have every answer close its connection, or no more. Told is whether the process could."""

    on: bool


_TOLD: Final[Mapping[type[Question[Any]], Any]] = {
    FindCalls: Found,
    FollowCalls: News,
    ReportTargets: list[TargetReport],
    HoldTarget: bool,
    Drain: bool,
}
_encode = msgspec.msgpack.Encoder().encode


def encoded(told: object) -> bytes:
    """An answer for the way from process to process."""
    return _encode(told)


def decoded(question: Question[T], data: bytes) -> T:
    """The answer to this question that ``encoded`` made these bytes of."""
    told: T = msgspec.msgpack.decode(data, type=_TOLD[type(question)])
    return told


@dataclass(frozen=True)
class Told(Generic[T]):
    """What the processes said."""

    by: Mapping[int, T] = field(default_factory=dict)
    """By process id."""
    incomplete: Sequence[int] = ()
    """The ids of those that said nothing in time."""


class Inquiry(Protocol):
    """Puts questions to every process that decides hooks."""

    async def ask(self, question: Question[T]) -> Told[T]:
        """What each of them tells within PATIENCE."""


class Nobody:
    """An Inquiry where no process decides hooks."""

    async def ask(self, question: Question[T]) -> Told[T]:
        """Nothing."""
        return Told()


class Respondent:
    """Answers for one process; as an Inquiry, for a gateway that has no other."""

    def __init__(self, journal: Journal, runtime: Runtime, drain: Callable[[bool], bool]) -> None:
        self._journal = journal
        self._runtime = runtime
        self._drain = drain
        self._pid = os.getpid()

    async def ask(self, question: Question[T]) -> Told[T]:
        """What this process tells."""
        return Told({self._pid: await self.answer(question)})

    async def answer(self, question: Question[T]) -> T:
        """What this process tells; hooks go on meanwhile."""
        told: Any = await self._answer(question)
        return told  # type: ignore[no-any-return]

    async def _answer(self, question: Question[Any]) -> object:
        targets = self._runtime.targets
        match question:
            case FindCalls(wanted):
                return await self._journal.find(wanted, self._teller())
            case FollowCalls(cursors, most, since):
                here = cursors.get(self._pid) or self._journal.cursor_at(since)
                return self._journal.news(here, most, self._teller())
            case ReportTargets():
                return await targets.reports()
            case HoldTarget(upstream, url, held):
                return targets.hold(upstream, url) if held else targets.restore(upstream, url)
            case Drain(on):
                return self._drain(on)
        raise TypeError(f"nobody answers {question!r}")

    def _teller(self) -> Teller:
        config = self._runtime.snapshot.config
        return Teller(self._pid, config.log.mask, config.hook_types)


class Orders:
    """The orders in force, for processes that begin later."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], HoldTarget] = {}
        self._drain: Drain | None = None

    def note(self, question: Question[Any]) -> None:
        """Remember it, if it is an order."""
        match question:
            case HoldTarget(upstream, url, held):
                self._held.pop((upstream, url), None)
                if held:
                    self._held[upstream, url] = question
            case Drain(on):
                self._drain = question if on else None

    def standing(self) -> tuple[Question[Any], ...]:
        """All that a new process must be told."""
        return (*self._held.values(), *(() if self._drain is None else (self._drain,)))
