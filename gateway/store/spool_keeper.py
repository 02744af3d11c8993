"""Kept events on the way between the store's connections and the database: committed in groups, read beside that.

It keeps the table of backlogs true: an event counts before its commit, and no longer once its deletion is committed.
All changes of the table come from the writing thread, which also reads the database where a connection is opened.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
import sqlalchemy as sa

from gateway.store.backlog_table import BacklogWriter
from gateway.store.engine import Database, StoreError
from gateway.store.group_commit import GroupCommit
from gateway.store.messages import Settle
from gateway.store.notices import Notices
from gateway.store.records import Delivery, SpooledEvent, UpstreamBacklog
from gateway.store.requests import (
    DropEvents,
    ListEvents,
    PauseSpool,
    Portion,
    RetryEvents,
    ShowEvent,
    SpoolStatus,
    StoreRequest,
    StoreUnavailable,
)
from gateway.store.spool import LEASE, Added, Dropped, Settlement, Spool, Step
from gateway.store.steady_clock import SteadyClock

logger = logging.getLogger(__name__)

STARTING: Final = "the store is starting"
_EARLY_LIMIT: Final = 64 * 2**20
"""Bytes of the events that wait for the database to be opened when the gateway starts."""
RELEASE_LIMIT: Final = 10.0
"""Seconds after which an event is due again that was given back, at most."""
_SETTLE_AGAIN: Final = 0.5
"""Seconds after which an outcome that could not be committed is tried again."""
_REPORT_EVERY: Final = 60.0
"""Seconds between two lines of the log that say what was dropped."""
_REASONS: Final = {"age": "max_age", "size": "max_size"}
"""The label of the metric where it is not the spool's own word: the name of the bound's key."""

R = TypeVar("R")


class SpoolObserver(Protocol):
    """Counts what becomes of kept events."""

    def committed(self, seconds: float) -> None:
        """An event is committed, this long after it came."""

    def dead(self) -> None:
        """An event has become a dead letter."""

    def dropped(self, reason: str, events: int) -> None:
        """Events were dropped undelivered."""


class _Kept(NamedTuple):
    """An event that is written, with what is needed to count it."""

    added: Added
    key: bytes


class SpoolKeeper:
    """See ``service.SpoolSide``. Build it inside the running loop, ``open`` it once, and ``close`` it at the end."""

    def __init__(
        self, table: BacklogWriter, observer: SpoolObserver, readers: Executor, on_change: Callable[[], None]
    ) -> None:
        """*readers*: threads that may wait for the database; *on_change*: what waits may have changed."""
        self._table = table
        self._observer = observer
        self._readers = readers
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._clock = SteadyClock()
        self._database: Database | None = None
        self._spool: Spool
        self._group: GroupCommit
        self._notices: Notices | None = None
        self._reason: str = STARTING
        """Why events cannot be kept while there is no database yet."""
        self._early: list[tuple[SpooledEvent, Callable[[str | None], None]]] = []
        self._early_size = 0
        self._apps: frozenset[str] = frozenset()
        self._removals: list[bytes] = []
        """Keys of the events whose deletion is being committed; only the writing thread's."""
        self._uncertain: list[bytes] = []
        """Keys of the events whose commit has failed; the same."""
        self._enforcing: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._report_at = self._loop.time() + _REPORT_EVERY
        self._renew_at = 0.0

    def __repr__(self) -> str:
        return f"<SpoolKeeper {self._reason if self._database is None else self._group!r}>"

    def open(self, database: Database, owner: str) -> None:
        """Use this database. *owner*: a name of this gateway that no other has, and that outlives this process."""
        self._spool = Spool(database, owner, self._clock)
        self._group = GroupCommit(
            database,
            opened=self._read_keys,
            committing=self._count_before,
            aborted=self._count_back,
            committed=self._count_after,
            changed=self._report_state,
        )
        self._database = database
        if database.is_shared:
            self._notices = Notices(database, owner, self._table, self._read_again)
        self._group.start()
        for event, done in self._early:
            self.keep(event, done)
        self._early.clear()

    def cannot_open(self, reason: str) -> None:
        """There is no database yet, for this reason."""
        self._reason = reason
        self._table.give_up()
        for _, done in self._early:
            done(reason)
        self._early.clear()
        self._on_change()

    def configure(self, apps: Collection[str]) -> None:
        """These are the configured apps: events of others stay, undelivered."""
        self._apps = frozenset(apps)

    async def close(self, limit: float) -> None:
        """Commit what waits, for at most *limit* seconds, and end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._database is None:
            return
        if self._notices is not None:
            self._notices.close()
            self._group.run(self._spool.release).add_done_callback(_ignore_error)
        await asyncio.to_thread(self._group.close, limit)
        self._database.close()

    @property
    def up(self) -> bool:
        """Whether events are taken."""
        return self._database is not None and self._group.state[0]

    @property
    def error(self) -> str | None:
        """Why none are."""
        return self._reason if self._database is None else self._group.state[1]

    # --- events ---

    def keep(self, event: SpooledEvent, done: Callable[[str | None], None]) -> None:
        """See ``SpoolSide``."""
        size = len(event.body)
        if self._database is not None:
            kept = functools.partial(self._added, event, done, time.monotonic())
            self._group.put(self._add, event, kept, size)
        elif self._table.is_starting and self._early_size + size <= _EARLY_LIMIT:
            self._early.append((event, done))
            self._early_size += size
        else:
            done(self._reason)

    def _add(self, connection: sa.Connection, events: Sequence[SpooledEvent]) -> list[_Kept | StoreError]:
        results = self._spool.add(connection, events)
        kept = [
            result if isinstance(result, StoreError) else _Kept(result, event.key)
            for result, event in zip(results, events, strict=True)
        ]
        self._notify(connection, Counter(each.key for each in kept if isinstance(each, _Kept) and each.added.is_new))
        return kept

    def _added(
        self,
        event: SpooledEvent,
        done: Callable[[str | None], None],
        arrived: float,
        kept: _Kept | None,
        error: StoreError | None,
    ) -> None:
        if error is not None or kept is None:
            done(str(error))
            return
        done(None)
        self._observer.committed(time.monotonic() - arrived)
        self._on_change()
        if kept.added.is_over and event.app not in self._enforcing:
            self._enforcing.add(event.app)
            self._spawn(self._enforce(event.app, event.max_size))

    async def take(self, upstream: str, most: int, excluded: Collection[int]) -> Sequence[Delivery]:
        """See ``SpoolSide``."""
        if self._database is None:
            return ()
        take = functools.partial(
            self._spool.take, upstream=upstream, most=most, apps=self._apps, excluded=frozenset(excluded)
        )
        try:
            return await (self._group.run(take) if self._database.is_shared else self._read(take))
        except StoreError:
            return ()

    def settle(self, outcome: Settle, done: Callable[[], None]) -> None:
        """See ``SpoolSide``."""
        if self._database is None:
            self._loop.call_later(_SETTLE_AGAIN, self.settle, outcome, done)
        else:
            # By the system's clock, which other processes go by, until here; the database has the steady one's times.
            due = outcome.due - self._clock.jump
            if outcome.outcome == "released":  # the clock may have been set while the outcome was on its way
                due = min(due, self._clock() + RELEASE_LIMIT)
            steady = msgspec.structs.replace(outcome, due=due)
            self._group.put(self._settle, steady, functools.partial(self._settled, outcome, done))

    def _settle(self, connection: sa.Connection, outcomes: Sequence[Settle]) -> list[Settlement | None]:
        settlements = self._spool.settle(connection, outcomes)
        gone = Counter(settlement.key for settlement in settlements if settlement is not None and settlement.is_gone)
        self._notify(connection, {key: -count for key, count in gone.items()})
        return settlements

    def _settled(
        self, outcome: Settle, done: Callable[[], None], settlement: Settlement | None, error: StoreError | None
    ) -> None:
        if error is not None:
            self._loop.call_later(_SETTLE_AGAIN, self.settle, outcome, done)
            return
        if settlement is not None and settlement.outcome == "dead":
            self._observer.dead()
            logger.error(
                "an event has become a dead letter: %s of app %s (%s)",
                settlement.method, settlement.app, outcome.error,
                extra={"fields": {"event": "dead_letter", "app": settlement.app, "id": settlement.id}},
            )  # fmt: skip
        done()
        self._on_change()

    def release(self, ids: Collection[int]) -> None:
        """See ``SpoolSide``."""
        if self._database is not None and self._database.is_shared:
            self._group.run(lambda connection: self._spool.release(connection, ids)).add_done_callback(_ignore_error)

    async def backlogs(self) -> Sequence[UpstreamBacklog] | None:
        """See ``SpoolSide``."""
        if self._database is None:
            return None
        try:
            found = await self._read(functools.partial(self._spool.backlogs, apps=self._apps))
        except StoreError:
            return None
        jump = self._clock.jump
        return [msgspec.structs.replace(each, due=each.due + jump) if each.due is not None else each for each in found]

    # --- operators ---

    async def answer(self, request: StoreRequest) -> object:
        """See ``SpoolSide``."""
        if self._database is None:
            raise StoreUnavailable(self._reason)
        try:
            return await self._answer(request)
        except StoreError as exc:
            raise StoreUnavailable(str(exc)) from exc

    async def _answer(self, request: StoreRequest) -> object:
        spool = self._spool
        match request:
            case SpoolStatus():
                return await self._read(functools.partial(spool.status, apps=self._apps))
            case ListEvents():
                listed = functools.partial(spool.list_events, wanted=request.wanted, after=request.after)
                return await self._read(functools.partial(listed, limit=request.limit, bodies=request.bodies))
            case ShowEvent():
                return await self._read(functools.partial(spool.show, id_=request.id))
            case RetryEvents() | DropEvents():
                act = spool.retry if isinstance(request, RetryEvents) else spool.drop
                step = await self._do(
                    functools.partial(act, wanted=request.wanted, after=request.after, limit=request.most)
                )
                return Portion(step.events, step.next)
            case PauseSpool():
                pause = functools.partial(
                    spool.pause, paused=request.paused, upstream=request.upstream, app=request.app
                )
                return await self._group.run(pause)
            case _:
                raise TypeError(f"no handler for {request!r}")

    async def size(self) -> int:
        """Bytes of the database. Raises StoreUnavailable."""
        if self._database is None:
            raise StoreUnavailable(self._reason)
        try:
            return await self._loop.run_in_executor(self._readers, self._database.size)
        except StoreError as exc:
            raise StoreUnavailable(str(exc)) from exc

    # --- bounds ---

    async def tick(self, leased: Collection[int]) -> None:
        """See ``SpoolSide``."""
        if self._loop.time() >= self._report_at:
            self._report_at = self._loop.time() + _REPORT_EVERY
            self._report_dropped()
        if not self.up:
            return
        try:
            if leased and self._database is not None and self._database.is_shared and time.monotonic() > self._renew_at:
                await self._group.run(functools.partial(self._spool.renew, ids=leased))
                self._renew_at = time.monotonic() + LEASE / 3
            await self._repeat(functools.partial(self._spool.expire, apps=self._apps))
        except StoreError as exc:
            logger.debug("the spool's ages could not be looked at: %s", exc)

    async def _enforce(self, app: str, max_size: int) -> None:
        try:
            await self._repeat(functools.partial(self._spool.enforce, app=app, max_size=max_size))
        except StoreError as exc:
            logger.debug("the spool's size could not be reduced: %s", exc)
        finally:
            self._enforcing.discard(app)

    async def _repeat(self, action: Callable[..., Step]) -> None:
        """Do a long action step by step: events are kept between them."""
        while (await self._do(action)).next is not None:
            pass

    async def _do(self, action: Callable[..., Step]) -> Step:
        """Do one step of an action in a transaction of its own, and count what it dropped."""

        def act(connection: sa.Connection) -> Step:
            step = action(connection)
            self._notify(connection, step.keys)
            return step

        step = await self._group.run(act)
        for dropped in step.dropped:
            self._count_dropped(dropped)
        if step.events:
            self._on_change()
        return step

    def _count_dropped(self, dropped: Dropped) -> None:
        reason = _REASONS.get(dropped.reason, dropped.reason)
        self._observer.dropped(reason, dropped.events)
        self._dropped[dropped.app, reason] += dropped.events

    def _report_dropped(self) -> None:
        for (app, reason), events in self._dropped.items():
            logger.warning(
                "spool: %d kept events of app %s were dropped undelivered in the last minute: %s",
                events, app, _WORDS.get(reason, reason),
                extra={"fields": {"event": "spool_dropped", "app": app, "reason": reason, "events": events}},
            )  # fmt: skip
        self._dropped.clear()

    # --- in the writing thread ---

    def _read_keys(self, connection: sa.Connection) -> None:
        """Count all waiting events, as a connection was opened."""
        with connection.begin():
            if self._notices is not None:
                self._notices.begin_reading(connection)
            self._table.replace(self._spool.keys(connection))
            self._uncertain = []
            if self._notices is not None:
                self._notices.end_reading()

    def _count_before(self, results: Sequence[Any]) -> None:
        """Count what is about to be committed; what is about to be deleted counts until that is true."""
        self._table.remove(self._uncertain)  # the connection is the same as before: they were not committed
        self._uncertain = []
        self._table.add(_keys(results, 1))
        self._removals = list(_keys(results, -1))

    def _count_after(self, seconds: float) -> None:
        self._table.remove(self._removals)
        self._removals = []

    def _count_back(self, results: Sequence[Any]) -> None:
        """The commit failed, and may have been made all the same: they count until the next transaction says more."""
        self._uncertain += _keys(results, 1)
        self._removals = []

    def _report_state(self, up: bool, reason: str | None) -> None:
        if up:
            logger.info("the spool's database is open", extra={"fields": {"event": "spool_up"}})
        else:
            self._table.give_up()
            logger.error(
                "events cannot be kept, hooks are decided without the spool: %s", reason,
                extra={"fields": {"event": "spool_down", "reason": reason}},
            )  # fmt: skip
        self._loop.call_soon_threadsafe(self._on_change)

    def _notify(self, connection: sa.Connection, keys: Mapping[bytes, int]) -> None:
        """Report to other gateways how the backlogs change, in the transaction that changes them."""
        if keys and self._notices is not None:
            self._notices.send(connection, keys)

    def _read_again(self) -> None:
        """Count all waiting events again: changes that other gateways report may have been missed."""
        self._loop.call_soon_threadsafe(self._spawn_reading)

    def _spawn_reading(self) -> None:
        self._group.run(self._count_all).add_done_callback(_ignore_error)

    def _count_all(self, connection: sa.Connection) -> None:
        assert self._notices is not None
        self._notices.begin_reading(connection)
        self._table.replace(self._spool.keys(connection))
        self._uncertain = []
        self._notices.end_reading()

    # --- threads and tasks ---

    async def _read(self, action: Callable[..., R]) -> R:
        """Have *action* done by a thread in a transaction that only reads. Raises StoreError."""
        database = self._database
        assert database is not None

        def read() -> R:
            with database.read() as connection:
                return action(connection)

        return await self._loop.run_in_executor(self._readers, read)

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_WORDS: Final = {
    "max_age": "they were older than max_age",
    "max_size": "the app had more than max_size",
    "operator": "an operator dropped them",
}


def _keys(results: Iterable[Any], sign: int) -> list[bytes]:
    """The keys of the events that these results add (1) or take away (-1), each as often as it counts."""
    keys: list[bytes] = []
    for result in results:
        if isinstance(result, _Kept):
            if sign > 0 and result.added.is_new:
                keys.append(result.key)
        elif isinstance(result, Settlement):
            if sign < 0 and result.is_gone:
                keys.append(result.key)
        elif isinstance(result, Step):
            for key, change in result.keys.items():
                keys += [key] * (change * sign)
    return keys


def _ignore_error(future: asyncio.Future[Any]) -> None:
    """What could not be done will be done by itself: leases end, and readings follow each new connection."""
    if not future.cancelled() and (exc := future.exception()) is not None:
        logger.debug("the spool: %s", exc)
