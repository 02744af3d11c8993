"""Decisions between the store's connections and the database: gathered for longer than events, and dropped sooner."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

from gateway.policy.history import HistorySettings
from gateway.store.engine import Database, StoreError
from gateway.store.group_commit import GroupCommit
from gateway.store.history import History
from gateway.store.requests import HistoryPage, SearchHistory, StoreUnavailable
from gateway.store.steady_clock import SteadyClock

logger = logging.getLogger(__name__)

OFF: Final = "no history is configured: decisions are only in the journal"
_GATHER: Final = 0.5
"""Seconds for which decisions are gathered for one transaction."""
_MOST: Final = 64
"""Messages in a transaction, at most."""
_MAX_WAITING: Final = 16 * 2**20
"""Bytes of decisions that may wait until the database is open."""
_MOST_STEPS: Final = 50
"""Steps of maintenance in one go: then decisions have their turn."""
_REPORT_EVERY: Final = 60.0

R = TypeVar("R")


class HistoryKeeper:
    """See ``service.HistorySide``. Build it inside the running loop, ``open`` it once, and ``close`` it at the end."""

    def __init__(self, on_drop: Callable[[int], None], readers: Executor) -> None:
        """*on_drop* gets the number of decisions that are not kept; *readers*: threads that may wait for the
        database."""
        self._on_drop = on_drop
        self._readers = readers
        self._loop = asyncio.get_running_loop()
        self._database: Database | None = None
        self._group: GroupCommit
        self._history: History | None = None
        """None while none is configured."""
        self._clock = SteadyClock()
        """What is too old is removed by it: the system's clock may jump ahead, and everything would be too old."""
        self._is_configured = False
        self._waiting: list[tuple[Sequence[bytes], int]] = []
        """What came before the database was open, with its bytes."""
        self._reason = OFF
        self._dropped = 0
        self._report_at = self._loop.time() + _REPORT_EVERY

    def __repr__(self) -> str:
        return f"<HistoryKeeper {self._reason if self._database is None else self._group!r}>"

    def open(self, database: Database) -> None:
        """Use this database."""
        self._group = GroupCommit(database, most=_MOST, gather=_GATHER, changed=_report_state)
        self._database = database
        self._group.start()
        self._put_waiting()

    def cannot_open(self, reason: str) -> None:
        """There is no database yet, for this reason."""
        self._reason = reason

    def configure(self, settings: HistorySettings | None, mask: Collection[str], body_fields: Collection[str]) -> None:
        """Go on by these settings; None: keep nothing more."""
        self._is_configured = True
        if settings is None:
            self._history = None
        elif self._history is None or self._database is None:
            self._history = History(settings, mask, body_fields)
        else:
            history = self._history
            self._group.run(lambda _: history.configure(settings, mask, body_fields)).add_done_callback(
                functools.partial(self._configured, settings, mask, body_fields)
            )
        self._put_waiting()

    def _configured(
        self,
        settings: HistorySettings,
        mask: Collection[str],
        body_fields: Collection[str],
        future: asyncio.Future[None],
    ) -> None:
        if not future.cancelled() and future.exception() is not None and self._history is not None:
            self._history = History(settings, mask, body_fields)  # the database is down, and nothing uses the old one

    async def close(self, limit: float) -> None:
        """Commit what waits, for at most *limit* seconds, and end."""
        self._count_dropped(sum(len(decisions) for decisions, _ in self._waiting))
        if self._database is not None:
            await asyncio.to_thread(self._group.close, limit)
            self._database.close()

    @property
    def error(self) -> str | None:
        """Why no decisions are kept, where the reason is not that none is to be."""
        if self._history is None:
            return None
        return self._reason if self._database is None else self._group.state[1]

    # --- decisions ---

    def keep(self, decisions: Sequence[bytes]) -> None:
        """See ``HistorySide``."""
        size = sum(map(len, decisions))
        if self._history is not None and self._database is not None:
            self._put(self._history, decisions, size)
        elif self._history is None and self._is_configured:
            return  # what is under way while a reload turns the history off
        elif sum(waiting for _, waiting in self._waiting) + size > _MAX_WAITING:
            self._count_dropped(len(decisions))
        else:
            self._waiting.append((decisions, size))

    def _put_waiting(self) -> None:
        """Pass on what came too early, or forget it where no history is configured."""
        history = self._history
        if history is None and self._is_configured:
            self._waiting.clear()
        elif history is not None and self._database is not None:
            for decisions, size in self._waiting:
                self._put(history, decisions, size)
            self._waiting.clear()

    def _put(self, history: History, decisions: Sequence[bytes], size: int) -> None:
        self._group.put(history.add, decisions, functools.partial(self._kept, len(decisions)), size)

    def _kept(self, decisions: int, kept: int | None, error: StoreError | None) -> None:
        self._count_dropped(decisions - (kept or 0))

    def keep_shadow(self, request_id: str, time: float, result: bytes) -> None:
        """See ``HistorySide``."""
        if self._history is not None and self._database is not None:
            self._group.put(_add_shadows, (self._history, request_id, time, result), _ignore, len(result))

    def _count_dropped(self, decisions: int) -> None:
        if decisions:
            self._on_drop(decisions)
            self._dropped += decisions

    async def tick(self) -> None:
        """See ``HistorySide``."""
        if self._dropped and self._loop.time() >= self._report_at:
            self._report_at = self._loop.time() + _REPORT_EVERY
            logger.warning(
                "%d decisions are missing from the history since the last such line: the database did not take them",
                self._dropped, extra={"fields": {"event": "history_dropped", "decisions": self._dropped}},
            )  # fmt: skip
            self._dropped = 0
        history = self._history
        if history is None or self._database is None or not self._group.state[0]:
            return
        try:
            for _ in range(_MOST_STEPS):
                if not await self._group.run(functools.partial(history.maintain, now=self._clock())):
                    return
        except StoreError as exc:
            logger.debug("the history could not be put in order: %s", exc)

    # --- operators ---

    async def search(self, request: SearchHistory) -> HistoryPage:
        """See ``HistorySide``."""
        history = self._configured_history()
        search = functools.partial(
            history.search,
            wanted=request.wanted,
            before=request.before,
            limit=request.limit,
            bodies=request.bodies,
        )
        return await self._read(search)

    async def size(self) -> int:
        """Bytes of the database. Raises StoreUnavailable."""
        if self._database is None:
            raise StoreUnavailable(self._reason)
        try:
            return await self._loop.run_in_executor(self._readers, self._database.size)
        except StoreError as exc:
            raise StoreUnavailable(str(exc)) from exc

    async def oldest(self) -> float | None:
        """Unix time of the oldest decision; None without any. Raises StoreUnavailable."""
        return None if self._history is None else await self._read(self._history.oldest)

    def _configured_history(self) -> History:
        if self._history is None:
            raise StoreUnavailable(OFF)
        return self._history

    async def _read(self, action: Callable[..., R]) -> R:
        """Have *action* done by a thread in a transaction that only reads. Raises StoreUnavailable."""
        database = self._database
        if database is None:
            raise StoreUnavailable(self._reason)

        def read() -> R:
            with database.read() as connection:
                return action(connection)

        try:
            return await self._loop.run_in_executor(self._readers, read)
        except StoreError as exc:
            raise StoreUnavailable(str(exc)) from exc


def _add_shadows(connection: Any, items: Sequence[tuple[History, str, float, bytes]]) -> list[None]:
    items[0][0].add_shadow(connection, [item[1:] for item in items])
    return [None] * len(items)


def _ignore(result: object, error: StoreError | None) -> None:
    """A shadow's result that is missing is not counted: its decision is there."""


def _report_state(up: bool, reason: str | None) -> None:
    if up:
        logger.info("the history's database is open", extra={"fields": {"event": "history_up"}})
    else:
        logger.error(
            "decisions cannot be kept, hooks are decided without the history: %s", reason,
            extra={"fields": {"event": "history_down", "reason": reason}},
        )  # fmt: skip
