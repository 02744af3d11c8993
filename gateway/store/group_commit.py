"""One thread writes to a database, and puts what waits at the same time into one transaction.

An item is done when its transaction is committed, and not before. An item that fails takes no other with it: the
transaction is rolled back, and each item tried again behind a savepoint of its own. Where the commit itself fails, all
its items do; and after a failing disk or a lost connection nothing is believed until the connection was opened again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import sqlalchemy as sa

from gateway.store.engine import (
    Database,
    Kind,
    StoreError,
    checkpoint,
    spares_connection,
    take_warning,
    translate,
    translated,
)
from gateway.store.migrate import migrate
from gateway.store.schema import META

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

Batch = Callable[[sa.Connection, Sequence[Item]], Sequence[Result | StoreError]]
"""Does all items of one kind, and returns their results in their order. It may be called again with the same items
after a rollback: what it changes besides the database belongs into ``committing``."""
Done = Callable[[Any, StoreError | None], None]
"""Called with the result, or with why there is none."""

MOST: Final = 64
GATHER: Final = 0.005
MAX_QUEUED: Final = 64 * 2**20
_OWN: Final = 512
"""Bytes that a queued item takes besides its own."""
_BACKOFF: Final = (0.1, 5.0)
"""Seconds until the database is tried again that is down: the first time, and at most."""
_CONFLICTS: Final = 5
"""Times that a transaction is repeated which was in another gateway's way."""
_HANG_LIMIT: Final = 15.0
"""Seconds after which a transaction on PostgreSQL is given up, and its connection cut: no timeout of the server's own
covers a commit that waits for a standby."""


class _Job(NamedTuple):
    batch: Batch[Any, Any] | None
    item: Any
    """Without a batch: an action for a transaction of its own."""
    done: Done
    loop: asyncio.AbstractEventLoop | None
    """Where *done* is called; None: nowhere."""
    size: int


_Outcome = tuple[_Job, Any, StoreError | None]


def _ignore(*_: Any) -> None:
    """A callback that nobody gave."""


class _StillDown(StoreError):
    """Nothing was tried."""


class GroupCommit:
    """The writer of one database."""

    def __init__(
        self,
        database: Database,
        *,
        most: int = MOST,
        gather: float = GATHER,
        max_queued: int = MAX_QUEUED,
        opened: Callable[[sa.Connection], None] = _ignore,
        committing: Callable[[Sequence[Any]], None] = _ignore,
        aborted: Callable[[Sequence[Any]], None] = _ignore,
        committed: Callable[[float], None] = _ignore,
        changed: Callable[[bool, str | None], None] = _ignore,
    ) -> None:
        """A transaction has up to *most* items, or those of *gather* seconds; *max_queued*: bytes that may wait.

        All callbacks are called in the writing thread. *opened*: with each new connection, in no transaction, before it
        is used, and after the migrations; *committing*: with the results, just before the commit that makes them true;
        *aborted*: with the same results, where that commit failed (whether it was made is then unknown; *opened* comes
        before anything else unless it certainly was not); *committed*: with the seconds that transaction and commit
        took; *changed*: whether the database can be written, and else the reason, at each change.
        """
        self._database = database
        self._most = most
        self._gather_for = gather
        self._max_queued = max_queued
        self._opened = opened
        self._committing = committing
        self._aborted = aborted
        self._committed = committed
        self._changed = changed
        self._queue: deque[_Job] = deque()
        self._queued = 0
        self._woken = threading.Condition(threading.Lock())
        self._is_idle = False
        self._is_ending = False
        self._connection: sa.Connection | None = None
        self._is_migrated = False
        self._is_distrusted = False
        """Whether a disk has failed under this connection: what the system remembers may not be on it."""
        self._is_up: bool | None = None
        self._reason: str | None = "the store is starting"
        self._kind = Kind.OTHER
        self._backoff = _BACKOFF[0]
        self._try_at = 0.0
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"{database.part}-writer", daemon=True)
        self._watchdog = threading.Thread(target=self._watch, name=f"{database.part}-watchdog", daemon=True)

    def __repr__(self) -> str:
        state = "up" if self._is_up else f"down: {self._reason}"
        return f"<GroupCommit {self._database.part} {state}, {len(self._queue)} waiting>"

    @property
    def state(self) -> tuple[bool, str | None]:
        """Whether the database can be written, and else the reason."""
        return bool(self._is_up), self._reason

    @property
    def queued(self) -> tuple[int, int]:
        """Items that wait, and their bytes."""
        return len(self._queue), self._queued

    # --- for the event loop ---

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()
        if self._database.is_shared:
            self._watchdog.start()

    def put(self, batch: Batch[Item, Result], item: Item, done: Done, size: int = 0) -> None:
        """From an event loop: have *batch* do this item, together with others; *done* is called in this loop.

        Never waits. Where the queue is full, or the database is down, *done* is called soon, with the reason.
        """
        self._put(_Job(batch, item, done, asyncio.get_running_loop(), size + _OWN))

    def submit(self, batch: Batch[Item, Result], item: Item, size: int = 0) -> asyncio.Future[Result]:
        """``put`` for those that await the result; the future raises StoreError."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.put(batch, item, _settler(future), size)
        return future

    def run(self, action: Callable[[sa.Connection], Result]) -> asyncio.Future[Result]:
        """Have *action* done in a transaction of its own."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._put(_Job(None, action, _settler(future), loop, _OWN))
        return future

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, for at most *timeout* seconds, and end. Blocks."""
        with self._woken:
            self._is_ending = True
            self._woken.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _put(self, job: _Job) -> None:
        error = None
        with self._woken:
            if self._is_ending:
                error = StoreError("the store is ending")
            elif self._queued + job.size > self._max_queued:
                error = StoreError(f"the {self._database.part} database is too slow: its queue is full", Kind.BUSY)
            else:
                self._queue.append(job)
                self._queued += job.size
                if self._is_idle or len(self._queue) == self._most:
                    self._woken.notify_all()
        if error is not None and job.loop is not None:
            job.loop.call_soon(job.done, None, error)

    # --- the writing thread ---

    def _run(self) -> None:
        try:
            while self._wait():
                jobs = self._gather()
                if jobs:
                    self._finish(self._write(jobs))
                elif not self._is_up:
                    self._try_again()
        finally:
            self._drop_connection()

    def _wait(self) -> bool:
        """Until there is something to do; False at the end."""
        with self._woken:
            while not self._queue and not self._is_ending:
                left = None if self._is_up else self._try_at - time.monotonic()
                if left is not None and left <= 0:
                    return True
                self._is_idle = True
                self._woken.wait(left)
                self._is_idle = False
            return bool(self._queue)

    def _gather(self) -> list[_Job]:
        """The next items; waits a little for more where there are few."""
        with self._woken:
            if not self._queue:
                return []
            until = time.monotonic() + self._gather_for
            while len(self._queue) < self._most and not self._is_ending:
                if (left := until - time.monotonic()) <= 0:
                    break
                self._woken.wait(left)
            jobs = [self._queue.popleft() for _ in range(min(len(self._queue), self._most))]
            self._queued -= sum(job.size for job in jobs)
            return jobs

    def _write(self, jobs: list[_Job]) -> list[_Outcome]:
        batched = [job for job in jobs if job.batch is not None]
        outcomes = self._commit(batched) if batched else []
        for job in jobs:
            if job.batch is None:
                outcomes += self._commit([job])
        return outcomes

    def _finish(self, outcomes: list[_Outcome]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
        for outcome in outcomes:
            if (loop := outcome[0].loop) is not None:
                by_loop.setdefault(loop, []).append(outcome)
        for loop, its in by_loop.items():
            try:
                loop.call_soon_threadsafe(_tell, its)
            except RuntimeError:
                logger.debug("an event loop was closed before its events were committed")

    # --- a transaction ---

    def _commit(self, jobs: list[_Job]) -> list[_Outcome]:
        """Do these in one transaction. Their outcomes."""
        try:
            return self._repeat(self._open(), jobs)
        except StoreError as error:
            self._fail(error)
            return [(job, None, error) for job in jobs]
        except Exception as exc:
            logger.exception("defect: the store's writer")
            self._drop_connection()
            defect = StoreError(f"a defect: {type(exc).__name__}: {exc}")
            self._fail(defect)
            return [(job, None, defect) for job in jobs]

    def _repeat(self, connection: sa.Connection, jobs: list[_Job]) -> list[_Outcome]:
        for attempt in range(_CONFLICTS):
            try:
                return self._attempt(connection, jobs)
            except StoreError as error:
                if error.kind is not Kind.CONFLICT or attempt == _CONFLICTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _attempt(self, connection: sa.Connection, jobs: list[_Job]) -> list[_Outcome]:
        try:
            return self._transact(connection, jobs, self._together)
        except StoreError as error:
            if error.kind is not Kind.OTHER or len(jobs) == 1:
                raise
            logger.warning("one of %d items cannot be stored: trying each alone (%s)", len(jobs), error)
        return self._transact(connection, jobs, self._apart)

    def _transact(
        self, connection: sa.Connection, jobs: list[_Job], perform: Callable[..., list[_Outcome]]
    ) -> list[_Outcome]:
        started = self._busy_since = time.monotonic()
        results: list[Any] | None = None
        try:
            with translated(self._database):
                transaction = self._begin(connection)
                try:
                    outcomes = perform(connection, jobs)
                    results = [result for _, result, error in outcomes if error is None]
                    self._committing(results)
                    self._end(connection, transaction)
                except BaseException:
                    self._undo(connection)
                    raise
        except StoreError:
            if results is not None:
                self._aborted(results)
            raise
        finally:
            self._busy_since = None
        self._committed(time.monotonic() - started)
        self._mark_up()
        return outcomes

    def _begin(self, connection: sa.Connection) -> sa.RootTransaction:
        try:
            return connection.begin()
        except sa.exc.SQLAlchemyError as exc:
            error = translate(exc, self._database)
            if error.kind is Kind.OTHER:  # no item is to blame
                raise StoreError(str(error), Kind.UNREACHABLE) from exc
            raise error from exc

    def _undo(self, connection: sa.Connection) -> None:
        """Roll back. What fails here fails again in the next transaction, and has the connection closed."""
        with contextlib.suppress(sa.exc.SQLAlchemyError, sqlite3.Error):
            connection.rollback()
            if self._database.is_sqlite:  # after a commit that failed, SQLAlchemy holds it for ended; SQLite does not
                driver: Any = connection.connection.driver_connection
                driver.rollback()

    def _end(self, connection: sa.Connection, transaction: sa.RootTransaction) -> None:
        if not self._database.is_shared:
            transaction.commit()
            return
        take_warning(connection)
        transaction.commit()
        if warning := take_warning(connection):
            raise StoreError(f"PostgreSQL has committed, but perhaps not on its standby: {warning}", Kind.UNREACHABLE)

    def _together(self, connection: sa.Connection, jobs: list[_Job]) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        kinds: dict[Batch[Any, Any] | None, list[_Job]] = {}
        for job in jobs:
            kinds.setdefault(job.batch, []).append(job)
        for batch, its in kinds.items():
            results = self._do(connection, batch, [job.item for job in its])
            outcomes += [
                (job, None, result) if isinstance(result, StoreError) else (job, result, None)
                for job, result in zip(its, results, strict=True)
            ]
        return outcomes

    def _apart(self, connection: sa.Connection, jobs: list[_Job]) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        for job in jobs:
            savepoint = connection.begin_nested()
            try:
                with translated(self._database):
                    outcomes += self._together(connection, [job])
                    savepoint.commit()
            except StoreError as error:
                if error.kind is not Kind.OTHER:
                    raise
                savepoint.rollback()
                outcomes.append((job, None, error))
        return outcomes

    @staticmethod
    def _do(connection: sa.Connection, batch: Batch[Any, Any] | None, items: list[Any]) -> Sequence[Any]:
        try:
            return batch(connection, items) if batch is not None else [action(connection) for action in items]
        except (StoreError, sa.exc.SQLAlchemyError, OSError):
            raise
        except Exception as exc:
            logger.exception("defect: an item for the store")
            raise StoreError(f"a defect: {type(exc).__name__}: {exc}") from exc

    # --- the connection ---

    def _open(self) -> sa.Connection:
        """The connection, opened where it is not. Raises StoreError, at once while it is not time to try again."""
        if self._connection is not None:
            return self._connection
        if time.monotonic() < self._try_at:
            raise _StillDown(self._reason or "the store is down", self._kind)
        return self._connect()

    def _connect(self) -> sa.Connection:
        self._busy_since = time.monotonic()
        try:
            if not self._is_migrated:
                migrate(self._database)
                self._is_migrated = True
            connection = self._connection = self._database.connect()
            with translated(self._database):
                if self._database.is_sqlite:
                    self._checkpoint(connection)
                self._opened(connection)
                if connection.in_transaction():
                    connection.rollback()
            return connection
        finally:
            self._busy_since = None

    def _checkpoint(self, connection: sa.Connection) -> None:
        """Have everything in the main file, and the log empty.

        After a failed fsync the system holds pages of the log for written that are not on the disk. A log that begins
        again, and a main file that was synced after the copy, leave nothing to that memory.
        """
        if not checkpoint(connection) and self._is_distrusted:
            raise StoreError(f"{self._database.file} is being read by another process after a disk error", Kind.BUSY)
        self._is_distrusted = False

    def _try_again(self) -> None:
        """Where it is down: find out whether it can be written again."""
        meta = META[self._database.part]

        def touch(connection: sa.Connection) -> None:
            connection.execute(meta.update().where(meta.c.name == "schema").values(number=meta.c.number))

        self._commit([_Job(None, touch, _ignore, None, 0)])

    def _fail(self, error: StoreError) -> None:
        if isinstance(error, _StillDown):
            return
        if error.kind is Kind.OTHER and self._connection is not None and self._is_up:
            return  # of the items, not of the database
        if error.kind is Kind.DISK:
            self._is_distrusted = True
        if not spares_connection(error):
            self._drop_connection()
        self._try_at = time.monotonic() + self._backoff
        self._backoff = min(self._backoff * 2, _BACKOFF[1])
        if self._is_up is not False or str(error) != self._reason:
            self._is_up, self._reason, self._kind = False, str(error), error.kind
            self._changed(False, self._reason)

    def _mark_up(self) -> None:
        self._backoff = _BACKOFF[0]
        if not self._is_up:
            self._is_up, self._reason = True, None
            self._changed(True, None)

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.invalidate()
                connection.close()
            except (sa.exc.SQLAlchemyError, OSError) as exc:
                logger.debug("closing a broken connection: %s", exc)
        self._database.reset()

    # --- a transaction that hangs ---

    def _watch(self) -> None:
        while self._thread.is_alive():
            since, connection = self._busy_since, self._connection
            if since is not None and connection is not None and time.monotonic() - since > _HANG_LIMIT:
                logger.warning("PostgreSQL has not answered for %g s: the connection is cut", _HANG_LIMIT)
                self._busy_since = None
                self._database.cut(connection)
            self._thread.join(1.0)


def _settler(future: asyncio.Future[Any]) -> Done:
    def settle(result: Any, error: StoreError | None) -> None:
        if future.done():  # its caller has given up
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    return settle


def _tell(outcomes: list[_Outcome]) -> None:
    for job, result, error in outcomes:
        job.done(result, error)
