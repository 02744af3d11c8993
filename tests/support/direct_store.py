"""The real spool and history over SQLite, asked without a process between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from gateway.model.decision import Decision
from gateway.policy.history import Bodies, HistorySettings
from gateway.store.decisions import encode_sent
from gateway.store.engine import open_databases
from gateway.store.history import History
from gateway.store.migrate import migrate
from gateway.store.records import SpooledEvent
from gateway.store.requests import (
    DropEvents,
    ListEvents,
    PauseSpool,
    Portion,
    RetryEvents,
    SearchHistory,
    ShowEvent,
    SpoolStatus,
    StoreReport,
    StoreState,
    StoreUnavailable,
)
from gateway.store.spool import Spool

KEY = "0123456789abcdef0123456789abcdef"
MASK = ("caller", "callee")


class DirectStore:
    """A StoreConnection. Close it."""

    def __init__(self, directory: Path, apps: Sequence[str] = ("a",), bodies: Bodies = Bodies.OFF) -> None:
        self.databases = open_databases(f"sqlite:{directory}/store.db")
        migrate(self.databases.spool)
        migrate(self.databases.history)
        self.spool = Spool(self.databases.spool, "test")
        self.history = History(HistorySettings(key=SecretStr(KEY), bodies=bodies), MASK)
        self._apps = apps
        self._bodies = bodies
        self.error: str | None = None
        """What every request is answered with, if anything."""
        self.fails_after: int | None = None
        """Requests until that begins."""
        self.asked: list[Any] = []

    def close(self) -> None:
        self.databases.close()

    def keep(self, *events: SpooledEvent) -> list[int]:
        """Their ids."""
        with self.databases.spool.write() as connection:
            return [added.id for added in self.spool.add(connection, events) if not isinstance(added, Exception)]

    def decide(self, *decisions: Decision, worker: int = 1) -> None:
        with self.databases.history.write() as connection:
            batch = [encode_sent(each, self._bodies, worker, "rev-1") for each in decisions]
            assert self.history.add(connection, [batch]) == [len(batch)]

    async def ask(self, request: Any) -> Any:
        self.asked.append(request)
        if self.error is not None and (self.fails_after is None or len(self.asked) > self.fails_after):
            raise StoreUnavailable(self.error)
        match request:
            case RetryEvents() | DropEvents() | PauseSpool():
                return self._act(request)
            case SearchHistory():
                with self.databases.history.read() as connection:
                    return self.history.search(
                        connection, request.wanted, request.before, request.limit, bodies=request.bodies
                    )
            case StoreReport():
                return StoreState(
                    "sqlite", True, None, self.databases.history.size(), None, self.databases.spool.size()
                )
        with self.databases.spool.read() as connection:
            match request:
                case SpoolStatus():
                    return self.spool.status(connection, self._apps)
                case ListEvents():
                    return self.spool.list_events(
                        connection, request.wanted, after=request.after, limit=request.limit, bodies=request.bodies
                    )
                case ShowEvent():
                    return self.spool.show(connection, request.id)
        raise AssertionError(request)

    def _act(self, request: RetryEvents | DropEvents | PauseSpool) -> Any:
        with self.databases.spool.write() as connection:
            if isinstance(request, PauseSpool):
                return self.spool.pause(connection, request.paused, upstream=request.upstream, app=request.app)
            act = self.spool.retry if isinstance(request, RetryEvents) else self.spool.drop
            step = act(connection, request.wanted, after=request.after, limit=request.most)
            return Portion(step.events, step.next)
