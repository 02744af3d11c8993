"""A service of the store in the test's own event loop, with a spool in memory that does what the test wants."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.policy.history import HistorySettings
from gateway.store.backlog_table import BacklogTable, BacklogWriter, create_table
from gateway.store.client import StoreClient
from gateway.store.messages import Settle
from gateway.store.records import Delivery, SpooledEvent, UpstreamBacklog
from gateway.store.requests import (
    HistoryPage,
    SearchHistory,
    SpoolReport,
    SpoolStatus,
    StoreRequest,
    StoreUnavailable,
)
from gateway.store.service import StoreService
from gateway.store.settings import StoreConfig

Done = Callable[[str | None], None]


def event(body: bytes = b"{}", key: bytes = b"k" * 16, upstream: str = "php") -> SpooledEvent:
    return SpooledEvent(
        key=key,
        digest=secrets.token_bytes(16),
        app="defaultApp",
        method="CallStatusEvent",
        upstream=upstream,
        request_id=secrets.token_hex(8),
        received=time.time(),
        query=b"",
        client="127.0.0.1",
        scheme="http",
        fields=((b"content-type", b"application/json"),),
        body=body,
        cause="timeout",
        error="",
        call_id="c",
        session_id=None,
        value=2,
        max_age=86400.0,
        max_size=2**30,
    )


@dataclass
class MemorySpool:
    """Events in a list."""

    events: dict[int, SpooledEvent] = field(default_factory=dict)
    is_up: bool = True
    confirms: bool = True
    """Whether what is kept and settled is committed at once, or only by ``commit``."""
    waiting: list[Callable[[], None]] = field(default_factory=list)
    outcomes: list[Settle] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    number: int = 0
    on_change: Callable[[], None] = lambda: None

    @property
    def up(self) -> bool:
        return self.is_up

    def commit(self) -> None:
        waiting, self.waiting = self.waiting, []
        for action in waiting:
            action()

    def _later(self, action: Callable[[], None]) -> None:
        self.waiting.append(action)
        if self.confirms:
            self.commit()

    def keep(self, event: SpooledEvent, done: Done) -> None:
        def commit() -> None:
            self.number += 1
            self.events[self.number] = event
            done(None)
            self.on_change()

        if self.is_up:
            self._later(commit)
        else:
            done("the disk is full")

    async def take(self, upstream: str, most: int, excluded: Collection[int]) -> Sequence[Delivery]:
        found = [
            Delivery(id_, 0, event)
            for id_, event in self.events.items()
            if event.upstream == upstream and id_ not in excluded
        ]
        await asyncio.sleep(0)
        return found[:most]

    def settle(self, outcome: Settle, done: Callable[[], None]) -> None:
        def commit() -> None:
            self.outcomes.append(outcome)
            if outcome.outcome == "delivered":
                self.events.pop(outcome.id, None)
            done()

        self._later(commit)

    def release(self, ids: Collection[int]) -> None:
        self.released += ids

    async def backlogs(self) -> Sequence[UpstreamBacklog] | None:
        if not self.is_up:
            return None
        size = sum(len(event.body) for event in self.events.values())
        return [UpstreamBacklog("php", len(self.events), size, 0, None, None, paused=False)]

    async def answer(self, request: StoreRequest) -> object:
        if not isinstance(request, SpoolStatus):
            raise ValueError("not of the spool")
        if not self.is_up:
            raise StoreUnavailable("the disk is full")
        return SpoolReport([], [], 4711)

    async def size(self) -> int:
        return 4711

    @property
    def error(self) -> str | None:
        return None if self.is_up else "the disk is full"

    async def tick(self, leased: Collection[int]) -> None:
        pass


@dataclass
class MemoryHistory:
    """Decisions in a list."""

    decisions: list[bytes] = field(default_factory=list)
    shadows: list[tuple[str, float, bytes]] = field(default_factory=list)
    error: str | None = None

    def keep(self, decisions: Sequence[bytes]) -> None:
        self.decisions += decisions

    def keep_shadow(self, request_id: str, time: float, result: bytes) -> None:
        self.shadows.append((request_id, time, result))

    async def search(self, request: SearchHistory) -> HistoryPage:
        raise ValueError("the database is no history")

    async def size(self) -> int:
        return 815

    async def oldest(self) -> float | None:
        return 1.5

    async def tick(self) -> None:
        pass


def settings(directory: Path = Path("/nowhere"), **changes: Any) -> StoreConfig:
    """A configuration whose databases lie in this directory."""
    config = StoreConfig(
        engine="sqlite",
        url=f"sqlite:///{directory}/store.db",
        history=HistorySettings(),
        apps=frozenset({"defaultApp"}),
        upstreams=frozenset({"php"}),
        mask=("caller", "callee"),
        body_fields=("caller", "callee"),
        log_level="info",
        log_console=False,
        drain_timeout=1.0,
    )
    return config._replace(**changes)


class Serving:
    """A socket that outlives its services, as the main process has it."""

    def __init__(self) -> None:
        self.name = f"wcs-gateway-test-{secrets.token_hex(16)}"
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listening.bind("\0" + self.name)
        self.listening.listen()
        self.table = create_table(slots=2**12)
        self.writer = BacklogWriter(self.table)
        self.spool, self.history = MemorySpool(), MemoryHistory()
        self.configs: list[StoreConfig] = []
        self.shown: list[Sequence[UpstreamBacklog]] = []
        self.service: StoreService | None = None

    def client(self, role: str = "worker") -> StoreClient:
        return StoreClient(self.name, role, BacklogTable(self.table))

    async def start(self) -> None:
        self.service = StoreService(self.spool, self.history, self.writer, self.configs.append, self.shown.append)
        self.spool.on_change = self.service.note_change
        await self.service.start(socket.socket(fileno=os.dup(self.listening.fileno())))

    async def stop(self, limit: float = 0.0) -> None:
        service, self.service = self.service, None
        if service is not None:
            await service.finish(limit)


@contextlib.asynccontextmanager
async def serving(*, known: bool = True) -> AsyncIterator[Serving]:
    """A service that is not started; *known*: whether it is known already what the database holds."""
    running = Serving()
    if known:
        running.writer.replace(())
    try:
        async with asyncio.timeout(20):
            yield running
    finally:
        await running.stop()
        running.listening.close()
        os.close(running.table)


async def until(check: Callable[[], object]) -> None:
    """Return once *check* says something true."""
    while not check():
        await asyncio.sleep(0.005)
