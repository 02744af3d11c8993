"""The store put together: connections, spool and history, and the opening of their databases.

SQLite's files belong to one store's process at a time. One that finds them taken, by that of a gateway which is still
ending or by a command, waits until they are free; hooks are decided without the store meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from gateway.store.backlog_table import BacklogWriter
from gateway.store.engine import Databases, Kind, StoreError, open_databases
from gateway.store.history_keeper import HistoryKeeper
from gateway.store.maintenance import hold
from gateway.store.records import UpstreamBacklog
from gateway.store.service import StoreService
from gateway.store.settings import StoreConfig
from gateway.store.spool_keeper import SpoolKeeper, SpoolObserver

logger = logging.getLogger(__name__)

_READERS: Final = 4
"""Threads that read beside the two that write."""
_OPEN_AGAIN: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the second, third, … attempt to get hold of the databases."""
_PATIENT: Final = 4
"""Attempts, in two seconds, before it is said that they belong to another process."""
_COMMIT_LIMIT: Final = 5.0
"""Seconds for the last commits."""


class StoreObserver(SpoolObserver, Protocol):
    """Counts and shows what the store does."""

    def configure(self, config: StoreConfig) -> None:
        """A configuration is in force."""

    def history_dropped(self, decisions: int) -> None:
        """Decisions are missing from the history."""

    def backlogs(self, upstreams: Sequence[UpstreamBacklog]) -> None:
        """What waits; once a second."""


class Store:
    """Build it inside the running loop; its configuration comes over the connections."""

    def __init__(self, table: BacklogWriter, owner: str, observer: StoreObserver) -> None:
        """*owner*: a name of this gateway that no other has, and that outlives this process."""
        self._table = table
        self._owner = owner
        self._observer = observer
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-reader")
        self._spool = SpoolKeeper(table, observer, self._readers, self._note_change)
        self._history = HistoryKeeper(observer.history_dropped, self._readers)
        self._service = StoreService(self._spool, self._history, table, self._configure, observer.backlogs)
        self._held = contextlib.ExitStack()
        self._is_owner = False
        """Whether the databases are this process's."""
        self._reported: str | None = None
        """The last reason why they could not be opened."""
        self._opening: asyncio.Task[None] | None = None
        self.drain_timeout = 0.0
        """Seconds for which the gateway's hooks may go on after its end has begun."""

    def __repr__(self) -> str:
        return f"<Store {self._service!r} {self._spool!r} {self._history!r}>"

    async def start(self, listening: socket.socket) -> None:
        """Talk with those that connect to this socket."""
        await self._service.start(listening)

    async def finish(self, limit: float) -> None:
        """Take what is still sent, for at most *limit* seconds; commit it, and close the databases."""
        await self._service.finish(limit)
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await asyncio.gather(self._spool.close(_COMMIT_LIMIT), self._history.close(_COMMIT_LIMIT))
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._held.close()

    def _note_change(self) -> None:
        self._service.note_change()

    def _configure(self, config: StoreConfig) -> None:
        """Put a configuration in force. ``store.url`` is that of the first one: a change needs a restart."""
        self.drain_timeout = config.drain_timeout
        self._observer.configure(config)
        self._spool.configure(config.apps)
        self._history.configure(config.history, config.mask, config.body_fields)
        if self._opening is None:
            self._service.engine = config.engine
            self._opening = asyncio.create_task(self._open(config.url))

    async def _open(self, url: str) -> None:
        """Open the databases, however long it takes until they are free; what they hold is looked at later."""
        attempt = 0
        databases: Databases | None = None
        while databases is None:
            try:
                if not self._is_owner:
                    await asyncio.to_thread(self._held.enter_context, hold(url))
                    self._is_owner = True
                databases = open_databases(url)
            except (StoreError, OSError) as exc:
                # The process of a gateway that was killed ends soon, and nobody may overtake what it has kept.
                if attempt >= _PATIENT or not (isinstance(exc, StoreError) and exc.kind is Kind.BUSY):
                    self._report(str(exc))
                await asyncio.sleep(_OPEN_AGAIN[min(attempt, len(_OPEN_AGAIN) - 1)])
                attempt += 1
        self._spool.open(databases.spool, self._owner)
        self._history.open(databases.history)
        self._note_change()

    def _report(self, reason: str) -> None:
        """Have hooks decided without the store; each reason is said once."""
        if reason == self._reported:
            return
        self._reported = reason
        self._spool.cannot_open(reason)
        self._history.cannot_open(reason)
        logger.error(
            "the store cannot be opened, hooks are decided without it: %s", reason,
            extra={"fields": {"event": "store_down", "reason": reason}},
        )  # fmt: skip
