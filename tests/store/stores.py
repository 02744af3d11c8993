"""Stores of their own in the test's event loop: connections, spool and history over real databases."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from gateway.store.assembly import Store
from gateway.store.messages import Backlogs
from gateway.store.records import SpooledEvent, UpstreamBacklog
from gateway.store.settings import StoreConfig
from tests.store.serving import Serving, serving, settings, until


class Counts:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.commits: list[float] = []
        self.dead_letters = 0
        self.drops: dict[str, int] = {}
        self.missing = 0
        self.shown: list[Sequence[UpstreamBacklog]] = []

    def configure(self, config: StoreConfig) -> None:
        pass

    def committed(self, seconds: float) -> None:
        self.commits.append(seconds)

    def dead(self) -> None:
        self.dead_letters += 1

    def dropped(self, reason: str, events: int) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + events

    def history_dropped(self, decisions: int) -> None:
        self.missing += decisions

    def backlogs(self, upstreams: Sequence[UpstreamBacklog]) -> None:
        self.shown.append(upstreams)


class Running:
    """A store, and clients of it."""

    def __init__(self, at: Serving, directory: Path, **changes: object) -> None:
        self.at = at
        self.owner = secrets.token_hex(8)
        self.file = directory / "store.db"
        self.counts = Counts()
        self.store: Store | None = None
        self.backlogs: list[Backlogs] = []
        self.admin = at.client("admin")
        self.worker = at.client()
        self.worker.on_backlogs = self.backlogs.append
        self.configure(**changes)

    def configure(self, **changes: object) -> None:
        self.admin.configure(pickle.dumps(settings(self.file.parent, **changes)))

    async def start(self) -> None:
        self.store = Store(self.at.writer, self.owner, self.counts)
        listening = self.at.listening.dup()
        await self.store.start(listening)

    async def stop(self) -> None:
        store, self.store = self.store, None
        if store is not None:
            await store.finish(0.0)

    async def keep(self, kept: SpooledEvent) -> str | None:
        return await self.worker.keep(kept, asyncio.get_running_loop().time() + 10)

    async def opened(self) -> None:
        await until(lambda: self.admin.up)


@contextlib.asynccontextmanager
async def running(
    directory: Path, *, before: Callable[[Running], None] = lambda it: None, **changes: object
) -> AsyncIterator[Running]:
    """A store that is started, with its clients; *changes* of its configuration."""
    async with serving(known=False) as at:
        it = Running(at, directory, **changes)
        before(it)
        await it.start()
        async with it.worker, it.admin:
            try:
                yield it
            finally:
                await it.stop()
