"""The events that the gateway has taken and owes its backends: kept in order, taken when due, settled.

Synchronous, over a connection in a transaction that the caller ends: nothing is confirmed before its commit. The same
for both engines. Nothing is held in memory for an event.

A key's first waiting event is its *head*; only heads are taken. What removes a head makes the next event of its key the
head, in the same transaction. On PostgreSQL one writing transaction at a time, over all gateways, has the spool's lock,
so that ids are in the order of the commits; a head is leased to the gateway that has taken it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from gateway.policy.spooling import REPEAT_WINDOW
from gateway.store import spool_queries
from gateway.store.engine import Database, StoreError, shrink
from gateway.store.messages import Settle
from gateway.store.records import Delivery, SpooledEvent, UpstreamBacklog
from gateway.store.repeats import RepeatFinder
from gateway.store.requests import EventFilter, EventPage, EventView, SpoolReport
from gateway.store.schema import spool_event, spool_pause
from gateway.store.spool_queries import Pauses
from gateway.store.spool_rows import (
    DATABASE_TIME,
    DUE_APPS,
    EXPIRED_APPS,
    FORGET_EMPTY,
    LAST_ID,
    RESERVE_IDS,
    ROW,
    SETTLE,
    TAKE_LOCK,
    TAKEN,
    Counts,
    PreparedInsert,
    app_bytes,
    clean,
    first_waiting,
    promote,
    set_heads,
    settle_values,
    sum_keys,
    tally,
    tally_removal,
    write_counts,
)
from gateway.store.steady_clock import arrival

STEP: Final = 200
"""Events that one transaction of a long action changes, at most."""
LEASE: Final = 30.0
"""Seconds for which a gateway on PostgreSQL has a head that it has taken, unless it renews that."""
_MAX_TAKEN: Final = 32 * 2**20
"""Bytes of bodies that are taken at once, unless one alone is larger."""

_SHRINK_PAGES: Final = 500
_SPARE: Final = 0.5
"""Of the file, that stays free for the next events."""
_COLUMNS: Final = (
    *"id key head dead app method upstream call_id value received expires due attempts error size digest".split(),
    *("event", "body"),
)
_EVENT: Final = spool_event.c
_encode_event: Final = msgspec.msgpack.Encoder().encode


class Added(NamedTuple):
    """What became of an event that was to be kept."""

    id: int
    """Its own, or that of the earlier one that it repeats."""
    is_new: bool
    """False: a repeat of an event that is kept already; nothing was added, and nothing is to be counted."""
    is_over: bool
    """Whether its app has more than its ``max_size`` now: call ``enforce`` for it."""


class Settlement(NamedTuple):
    """What became of an event whose delivery is settled."""

    id: int
    app: str
    method: str
    upstream: str
    key: bytes
    outcome: str
    """As in ``messages.Settle``."""
    is_gone: bool
    """Whether it waits no longer, so that its key has one waiting event fewer."""


class Dropped(NamedTuple):
    """Events that a bound has dropped, undelivered."""

    app: str
    reason: str
    """``age`` or ``size``; ``operator`` where one has dropped them by hand."""
    events: int
    bytes: int


class Step(NamedTuple):
    """A part of a long action, for one transaction. Repeat with *after* = ``next`` until that is None."""

    events: int
    """How many were changed or removed."""
    keys: Mapping[bytes, int]
    """By key, how many more events wait now; negative: fewer."""
    next: int | None
    dropped: Sequence[Dropped] = ()


class Spool:
    """The spool of one database. One thread at a time writes; every method that reads may run beside it."""

    def __init__(self, database: Database, owner: str = "", clock: Callable[[], float] = time.time) -> None:
        """*owner*: a name of this gateway, without spaces, that no other has and that it keeps until it ends; *clock*:
        Unix time."""
        self.database = database
        self.owner = owner
        self._clock = clock
        self._insert = PreparedInsert(spool_event, _COLUMNS, database)
        self._repeats = RepeatFinder(clock)
        self._turn = 0
        """Of redelivery: which app comes first."""

    # --- for a GroupCommit: (connection, items) -> results, in their order ---

    def add(self, connection: sa.Connection, events: Sequence[SpooledEvent]) -> list[Added | StoreError]:
        """Keep these events, in their order; a repeat of one that is kept already is confirmed, and kept once.

        A StoreError instead of a result: that one cannot be kept, since it alone is larger than ``max_size``.
        """
        self._lock(connection)
        now = self._clock()
        known = self._repeats.look_up(connection, events)
        id_ = self._last_id(connection, len(events))
        results: list[Added | StoreError] = []
        rows: list[tuple[Any, ...]] = []
        here: dict[bytes, tuple[int, float]] = {}
        keys: dict[bytes, int] = {}
        counts: Counts = {}
        for event, (waiting, kept) in zip(events, known, strict=True):
            encoded = _encode_event(msgspec.structs.replace(event, body=b""))
            size = len(encoded) + len(event.body)
            earlier = here.get(event.digest)
            is_repeat = earlier is not None and abs(event.received - earlier[1]) <= REPEAT_WINDOW
            repeated = earlier[0] if earlier is not None and is_repeat else kept
            if repeated is not None:
                results.append(Added(repeated, is_new=False, is_over=False))
                continue
            if size > event.max_size:
                results.append(StoreError(f"an event of {size} bytes is larger than spool.max_size"))
                continue
            id_ += 1
            is_head = waiting is None and event.key not in keys
            rows.append(
                (
                    id_,
                    event.key,
                    int(is_head),
                    0,
                    event.app,
                    clean(event.method),
                    event.upstream,
                    None if event.call_id is None else clean(event.call_id),
                    min(max(event.value, 0), 2),
                    event.received,
                    arrival(event.received, now) + event.max_age,
                    min(event.received, now),
                    0,
                    clean(event.error),
                    size,
                    event.digest,
                    encoded,
                    event.body,
                )
            )
            here[event.digest] = (id_, event.received)
            keys[event.key] = keys.get(event.key, 0) + 1
            tally(counts, event.app, event.upstream, (1, size, 0, 0))
            results.append(Added(id_, is_new=True, is_over=False))
        if rows:
            self._insert.insert(connection, rows)
            self._repeats.note(rows[0][0])
            write_counts(connection, counts)
            self._mark_over(connection, events, results)
        return results

    def settle(self, connection: sa.Connection, outcomes: Sequence[Settle]) -> list[Settlement | None]:
        """Put down what became of deliveries; None for an event that is no longer kept. Repeating one is harmless."""
        self._lock(connection)
        now = self._clock()
        query = sa.select(*ROW, _EVENT.method, _EVENT.due, _EVENT.expires, _EVENT.event)
        found = connection.execute(query.where(_EVENT.id.in_([each.id for each in outcomes])))
        rows = {row.id: row for row in found}
        results: list[Settlement | None] = []
        gone: list[Any] = []
        updates: list[dict[str, Any]] = []
        counts: Counts = {}
        for outcome in outcomes:
            row = rows.get(outcome.id)
            if row is None:
                results.append(None)
                continue
            is_gone = False
            if outcome.outcome == "delivered":
                rows.pop(row.id)
                gone.append(row)
                is_gone = not row.dead
                tally_removal(counts, row)
            elif row.dead:
                pass  # settled before
            elif outcome.outcome == "dead":
                rows.pop(row.id)
                is_gone = True
                expires = now + spool_queries.decode_event(row.event).max_age
                updates.append(settle_values(outcome, dead=1, failures=1, expires=expires, due=row.due))
                tally(counts, row.app, row.upstream, (-1, -row.size, 1, row.size))
            else:
                failures = int(outcome.outcome == "failed" and row.due != outcome.due)
                updates.append(settle_values(outcome, dead=0, failures=failures, expires=row.expires, due=outcome.due))
            results.append(
                Settlement(
                    id=row.id,
                    app=row.app,
                    method=row.method,
                    upstream=row.upstream,
                    key=row.key,
                    outcome=outcome.outcome,
                    is_gone=is_gone,
                )
            )
        if updates:
            connection.execute(SETTLE, updates)
        if gone:
            connection.execute(spool_event.delete().where(_EVENT.id.in_([row.id for row in gone])))
        lost = [each.key for each in results if each is not None and each.is_gone]
        if lost:
            promote(connection, lost)
        write_counts(connection, counts)
        return results

    # --- redelivery ---

    def take(
        self,
        connection: sa.Connection,
        upstream: str,
        most: int,
        *,
        apps: Collection[str] | None = None,
        excluded: Collection[int] = (),
    ) -> list[Delivery]:
        """At most *most* heads that are due for this upstream, of these apps (None: all), without those *excluded*.

        On SQLite it only reads: the caller keeps in mind what is being delivered, and excludes it. On PostgreSQL it
        leases them to *owner*, in a transaction that must be committed before they are delivered; those that it has
        leased already are given again unless *excluded*. Nothing is taken of what is paused.
        """
        paused = spool_queries.pauses(connection)
        if paused.everything or upstream in paused.upstreams or most < 1:
            return []
        now = self._clock()
        due = connection.scalars(DUE_APPS, {"upstream": upstream, "now": now, "far": now + spool_queries.FAR})
        chosen = [app for app in due if app not in paused.apps and (apps is None or app in apps)]
        self._turn = start = (self._turn + 1) % max(len(chosen), 1)  # so that no app comes first each time
        ids: list[int] = []
        size = 0
        for app in chosen[start:] + chosen[:start]:
            for id_, its_size in self._due(connection, upstream, app, most - len(ids), excluded):
                size += its_size
                if ids and size > _MAX_TAKEN:
                    break
                ids.append(id_)
            if len(ids) >= most or size > _MAX_TAKEN:
                break
        if ids and self.database.is_shared:
            self.renew(connection, ids)
        rows = connection.execute(TAKEN, {"ids": ids}) if ids else ()
        return [
            Delivery(
                id=row.id,
                attempts=row.attempts,
                event=msgspec.structs.replace(spool_queries.decode_event(row.event), body=row.body),
            )
            for row in rows
        ]

    def renew(self, connection: sa.Connection, ids: Collection[int]) -> None:
        """PostgreSQL: keep these leases for another ``LEASE`` seconds. Nothing on SQLite."""
        if self.database.is_shared and ids:
            free = sa.or_(_EVENT.owner.is_(None), _EVENT.owner == self.owner, _EVENT.leased_until < DATABASE_TIME)
            lease = spool_event.update().where(_EVENT.id.in_(list(ids)), free)
            connection.execute(lease.values(owner=self.owner, leased_until=DATABASE_TIME + LEASE))

    def release(self, connection: sa.Connection, ids: Collection[int] | None = None) -> None:
        """PostgreSQL: give these leases back; None: all of *owner*'s. Nothing on SQLite."""
        if self.database.is_shared:
            theirs = spool_event.update().where(_EVENT.owner == self.owner)
            if ids is not None:
                theirs = theirs.where(_EVENT.id.in_(list(ids)))
            connection.execute(theirs.values(owner=None, leased_until=None))

    def keys(self, connection: sa.Connection) -> Iterator[tuple[bytes, int]]:
        """Every key that has waiting events, and how many; streamed."""
        query = sa.select(_EVENT.key, sa.func.count()).where(_EVENT.dead == 0).group_by(_EVENT.key)
        with connection.execute(query, execution_options={"stream_results": True, "yield_per": 5000}) as found:
            yield from ((row[0], row[1]) for row in found)

    # --- operators ---

    def backlogs(self, connection: sa.Connection, apps: Collection[str] | None = None) -> list[UpstreamBacklog]:
        """What waits, by upstream. ``due`` is that of *apps* (None: all), without those that are paused."""
        found, paused = spool_queries.backlogs(connection), spool_queries.pauses(connection)
        return spool_queries.by_upstream(connection, found, paused, apps, self._clock())

    def status(self, connection: sa.Connection, apps: Collection[str] | None = None) -> SpoolReport:
        """How much is kept, for whom; *apps*: those that are configured (None: all are)."""
        found, paused = spool_queries.backlogs(connection), spool_queries.pauses(connection)
        return SpoolReport(
            upstreams=spool_queries.by_upstream(connection, found, paused, apps, self._clock()),
            apps=spool_queries.by_app(connection, found, paused, apps),
            size=self.database.size(),
            paused=paused.everything,
        )

    def list_events(
        self, connection: sa.Connection, wanted: EventFilter, *, after: int = 0, limit: int = 100, bodies: bool = False
    ) -> EventPage:
        """Kept events, the oldest first."""
        return spool_queries.list_events(connection, wanted, after, limit, bodies=bodies)

    def show(self, connection: sa.Connection, id_: int) -> EventView | None:
        """One kept event with its body."""
        return spool_queries.show_event(connection, id_)

    def retry(self, connection: sa.Connection, wanted: EventFilter, *, after: int = 0, limit: int = STEP) -> Step:
        """Try these now. Dead letters wait again, at their old places, with no attempts counted."""
        self._lock(connection)
        ids, rows = self._matching(connection, wanted, after, limit)
        dead = [row for row in rows if row.dead]
        keys = sum_keys((row.key, 1) for row in dead)
        before = first_waiting(connection, keys)
        chosen = spool_event.update().where(_EVENT.id.in_(ids))
        connection.execute(chosen.where(_EVENT.dead == 1).values(dead=0, head=0, attempts=0))
        connection.execute(chosen.values(due=self._clock()))
        after_it = first_waiting(connection, keys)
        changed = [key for key in keys if before.get(key) != after_it.get(key)]
        set_heads(connection, [before[key] for key in changed if key in before], 0)
        set_heads(connection, [after_it[key] for key in changed], 1)
        counts: Counts = {}
        for row in dead:
            tally(counts, row.app, row.upstream, (1, row.size, -1, -row.size))
        write_counts(connection, counts)
        return Step(len(rows), keys, ids[-1] if len(ids) == limit else None)

    def drop(self, connection: sa.Connection, wanted: EventFilter, *, after: int = 0, limit: int = STEP) -> Step:
        """Delete these undelivered."""
        self._lock(connection)
        ids, rows = self._matching(connection, wanted, after, limit)
        return self._remove(connection, rows, "operator", ids[-1] if len(ids) == limit else None)

    def pause(
        self, connection: sa.Connection, paused: bool, *, upstream: str | None = None, app: str | None = None
    ) -> bool:
        """Pause or resume an upstream, an app, or everything (resuming everything ends every pause). Whether it
        changed anything."""
        self._lock(connection)
        wanted = [("upstream", upstream)] * (upstream is not None) + [("app", app)] * (app is not None)
        if not wanted and not paused:
            return bool(connection.execute(spool_pause.delete()).rowcount)
        changed = False
        for kind, name in wanted or [("all", "")]:
            this = (spool_pause.c.kind == kind) & (spool_pause.c.name == name)
            if not paused:
                changed |= bool(connection.execute(spool_pause.delete().where(this)).rowcount)
            elif not connection.scalar(sa.select(sa.func.count()).select_from(spool_pause).where(this)):
                connection.execute(spool_pause.insert().values(kind=kind, name=name))
                changed = True
        return changed

    def pauses(self, connection: sa.Connection) -> Pauses:
        """What is paused."""
        return spool_queries.pauses(connection)

    # --- bounds ---

    def expire(self, connection: sa.Connection, apps: Collection[str], *, limit: int = STEP) -> Step:
        """Drop events of these configured apps that are older than their ``max_age``; ``next`` says there are more.

        A dead letter is kept for ``max_age`` from the moment at which it became one.
        """
        now = self._clock()
        expired = [app for app in connection.scalars(EXPIRED_APPS, {"now": now}) if app in apps]
        if self.database.is_shared and not expired:
            return Step(0, {}, None)
        self._lock(connection)
        rows: list[Any] = []
        for app in expired:
            if len(rows) < limit:
                query = sa.select(*ROW).where(_EVENT.app == app, _EVENT.expires <= now).order_by(_EVENT.expires)
                rows += connection.execute(query.limit(limit - len(rows)))
        connection.execute(FORGET_EMPTY)
        if not rows and self.database.is_sqlite:
            shrink(connection, _SHRINK_PAGES, _SPARE)  # after an outage, slowly
        return self._remove(connection, rows, "age", 0 if len(rows) == limit else None)

    def enforce(self, connection: sa.Connection, app: str, max_size: int, *, limit: int = STEP) -> Step:
        """Drop events of an app until it has at most *max_size* bytes: dead letters, then the lowest value, then the
        oldest; ``next`` says there are more."""
        self._lock(connection)
        surplus = app_bytes(connection, app) - max_size
        rows: list[Any] = []
        for dead, value in ((dead, value) for dead in (1, 0) for value in spool_queries.VALUES):
            if surplus <= 0 or len(rows) >= limit:
                break
            range_ = (_EVENT.app == app, _EVENT.dead == dead, _EVENT.value == value)
            query = sa.select(*ROW).where(*range_).order_by(_EVENT.id).limit(limit - len(rows))
            for row in connection.execute(query).all():
                if surplus <= 0:
                    break
                rows.append(row)
                surplus -= row.size
        return self._remove(connection, rows, "size", 0 if surplus > 0 and rows else None)

    # --- one transaction ---

    def _lock(self, connection: sa.Connection) -> None:
        """PostgreSQL: have the spool to itself until the transaction ends. SQLite's has that from its beginning."""
        if self.database.is_shared:
            connection.execute(TAKE_LOCK)

    def _last_id(self, connection: sa.Connection, events: int) -> int:
        """The id after which these events get theirs."""
        if self.database.is_sqlite:
            return connection.exec_driver_sql(LAST_ID).scalar() or 0
        return int(connection.scalar(RESERVE_IDS, {"events": events}) or 0) - events

    def _mark_over(
        self, connection: sa.Connection, events: Sequence[SpooledEvent], results: list[Added | StoreError]
    ) -> None:
        sizes = {app: app_bytes(connection, app) for app in {event.app for event in events}}
        for at, (event, result) in enumerate(zip(events, results, strict=True)):
            if isinstance(result, Added) and result.is_new and sizes[event.app] > event.max_size:
                results[at] = result._replace(is_over=True)

    def _due(
        self, connection: sa.Connection, upstream: str, app: str, most: int, excluded: Collection[int]
    ) -> list[tuple[int, int]]:
        """Ids and sizes of heads that are due, the one that is due longest first."""
        now = self._clock()
        query = sa.select(_EVENT.id, _EVENT.size).where(
            _EVENT.upstream == upstream, _EVENT.app == app, _EVENT.head == sa.text("1")
        )
        if self.database.is_shared:
            free = sa.or_(_EVENT.owner.is_(None), _EVENT.owner == self.owner, _EVENT.leased_until < DATABASE_TIME)
            query = query.where(free).with_for_update(skip_locked=True)
        query = query.limit(most + len(excluded))
        found: list[tuple[int, int]] = []
        for chosen in (
            query.where(_EVENT.due <= now).order_by(_EVENT.due),
            query.where(_EVENT.due > now + spool_queries.FAR).order_by(_EVENT.due.desc()),
        ):
            found += [(row.id, row.size) for row in connection.execute(chosen) if row.id not in excluded]
        return found[:most]

    def _matching(
        self, connection: sa.Connection, wanted: EventFilter, after: int, limit: int
    ) -> tuple[list[int], Sequence[Any]]:
        ids = spool_queries.matching_ids(connection, wanted, after, limit)
        return ids, connection.execute(sa.select(*ROW).where(_EVENT.id.in_(ids))).all()

    def _remove(self, connection: sa.Connection, rows: Sequence[Any], reason: str, next_: int | None) -> Step:
        counts: Counts = {}
        dropped: dict[str, list[int]] = {}
        for row in rows:
            tally_removal(counts, row)
            its = dropped.setdefault(row.app, [0, 0])
            its[0] += 1
            its[1] += row.size
        keys = sum_keys((row.key, -1) for row in rows if not row.dead)
        if rows:
            connection.execute(spool_event.delete().where(_EVENT.id.in_([row.id for row in rows])))
            promote(connection, [row.key for row in rows if row.head])
            write_counts(connection, counts)
        told = [Dropped(app, reason, events, size) for app, (events, size) in dropped.items()]
        return Step(len(rows), keys, next_, told)
