"""What the spool is asked: which events match a filter, how much waits. Reads only, by indexes, a page at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from gateway.store.records import SpooledEvent, UpstreamBacklog
from gateway.store.requests import MAX_PAGE, MAX_PAGE_BYTES, AppBacklog, EventFilter, EventPage, EventView
from gateway.store.schema import spool_event, spool_pause

VALUES: Final = (0, 1, 2)
"""What events can be worth (``policy.spooling.event_value``)."""
FAR: Final = 3600.0
"""Seconds: an attempt that is due later than that was set by a clock that was wrong, and is due now."""

decode_event: Final = msgspec.msgpack.Decoder(SpooledEvent).decode

_EVENT: Final = spool_event.c


class Pauses(NamedTuple):
    """What an operator has paused."""

    everything: bool
    upstreams: frozenset[str]
    apps: frozenset[str]


class Backlog(NamedTuple):
    """What is kept of one app for one upstream."""

    app: str
    upstream: str
    events: int
    bytes: int
    dead: int
    due: float | None
    """Unix time at which the next one is to be tried; None where none waits."""


# --- events by filter ---


def matching_ids(connection: sa.Connection, wanted: EventFilter, after: int, limit: int) -> list[int]:
    """The ids of the next kept events that match, after this id, in their order."""
    ranges = _ranges(wanted, after, limit)
    rest = _conditions(wanted)
    parts = [
        sa.select(_EVENT.id).where(_EVENT.id > after, *range_, *rest).order_by(_EVENT.id).limit(limit).subquery()
        for range_ in ranges
    ]
    if len(parts) == 1:
        return list(connection.scalars(sa.select(parts[0].c.id).order_by(parts[0].c.id)))
    every = sa.union_all(*(sa.select(part.c.id) for part in parts)).subquery()
    return list(connection.scalars(sa.select(every.c.id).order_by(every.c.id).limit(limit)))


def _ranges(wanted: EventFilter, after: int, limit: int) -> list[list[sa.ColumnElement[bool]]]:
    """Conditions that are each a stretch of an index in the order of ids, so that a page costs no more than a page."""
    if wanted.ids is not None:
        return [[_EVENT.id.in_(sorted(id_ for id_ in set(wanted.ids) if id_ > after)[:limit])]]
    deaths = [_EVENT.dead == dead for dead in ((0, 1) if wanted.dead is None else (int(wanted.dead),))]
    if wanted.call_id is not None:
        return [[_EVENT.call_id == wanted.call_id]]
    if wanted.app is not None:
        return [[_EVENT.app == wanted.app, death, _EVENT.value == value] for death in deaths for value in VALUES]
    if wanted.upstream is not None:
        return [[_EVENT.upstream == wanted.upstream, death] for death in deaths]
    if wanted.dead:
        return [[_EVENT.dead == sa.text("1")]]  # as the index has it
    return [[]]


def _conditions(wanted: EventFilter) -> list[sa.ColumnElement[bool]]:
    named = ("app", "upstream", "method", "call_id")
    found = [_EVENT[name] == asked for name in named if (asked := getattr(wanted, name)) is not None]
    if wanted.dead is not None:
        found.append(_EVENT.dead == int(wanted.dead))
    return found


_VIEW: Final = (
    _EVENT.id,
    _EVENT.head,
    _EVENT.dead,
    _EVENT.attempts,
    _EVENT.due,
    _EVENT.error,
    _EVENT.expires,
    _EVENT.size,
    _EVENT.event,
)


def list_events(
    connection: sa.Connection, wanted: EventFilter, after: int, limit: int, *, bodies: bool = False
) -> EventPage:
    """Kept events, the oldest first; with their bodies, a page ends before these exceed ``MAX_PAGE_BYTES``."""
    limit = min(max(limit, 1), MAX_PAGE)
    ids = matching_ids(connection, wanted, after, limit + 1)
    shown: Sequence[int] = ids[:limit]
    if bodies:
        shown = _fitting(connection, shown)
    columns = (*_VIEW, _EVENT.body) if bodies else _VIEW
    rows = connection.execute(sa.select(*columns).where(_EVENT.id.in_(shown)).order_by(_EVENT.id))
    events = [_view(row, row.body if bodies else None) for row in rows]
    return EventPage(events, shown[-1] if len(ids) > len(shown) else None)


def _fitting(connection: sa.Connection, ids: Sequence[int]) -> Sequence[int]:
    """The first of these events, as many as one page may have with their bodies; at least one."""
    rows = connection.execute(sa.select(_EVENT.id, _EVENT.size).where(_EVENT.id.in_(ids)))
    sizes = {row.id: row.size for row in rows}
    total = 0
    for number, id_ in enumerate(ids):
        total += sizes.get(id_, 0)
        if total > MAX_PAGE_BYTES and number:
            return ids[:number]
    return ids


def show_event(connection: sa.Connection, id_: int) -> EventView | None:
    """One kept event with its body."""
    row = connection.execute(sa.select(*_VIEW, _EVENT.body).where(_EVENT.id == id_)).one_or_none()
    return None if row is None else _view(row, row.body)


def _view(row: Any, body: bytes | None) -> EventView:
    event = decode_event(row.event)
    return EventView(
        id=row.id,
        dead=bool(row.dead),
        attempts=row.attempts,
        due=row.due if row.head else None,
        last_error=row.error,
        expires=row.expires,
        event=event if body is None else msgspec.structs.replace(event, body=body),
        size=row.size,
    )


# --- how much ---

_BACKLOGS: Final = sa.text(
    "SELECT c.app, c.upstream, c.events, c.bytes, c.dead, (SELECT e.due FROM spool_event e"
    " WHERE e.upstream = c.upstream AND e.app = c.app AND e.head = 1 ORDER BY e.due LIMIT 1) AS due FROM spool_count c"
    " WHERE c.events > 0 OR c.dead > 0 ORDER BY c.upstream, c.app"
)
_OLDEST_OF_UPSTREAM: Final = (
    sa.select(_EVENT.received)
    .where(_EVENT.upstream == sa.bindparam("upstream"), _EVENT.dead == 0)
    .order_by(_EVENT.id)
    .limit(1)
)
_OLDEST_OF_APPS: Final = sa.text(
    "SELECT c.app, (SELECT e.received FROM spool_event e WHERE e.app = c.app AND e.dead = 0"
    " AND e.value = v.column1 ORDER BY e.id LIMIT 1) AS received"
    " FROM (SELECT DISTINCT app FROM spool_count WHERE events > 0) c, (VALUES (0), (1), (2)) v"
)


def backlogs(connection: sa.Connection) -> list[Backlog]:
    """What is kept, by app and upstream."""
    return [Backlog(*row) for row in connection.execute(_BACKLOGS)]


def by_upstream(
    connection: sa.Connection, found: list[Backlog], pauses: Pauses, apps: Collection[str] | None, now: float
) -> list[UpstreamBacklog]:
    """What waits, by upstream; ``due`` without what is paused or of other *apps*. Paused ones too that have nothing."""
    groups: dict[str, list[Backlog]] = defaultdict(list, {upstream: [] for upstream in sorted(pauses.upstreams)})
    for backlog in found:
        groups[backlog.upstream].append(backlog)
    return [
        UpstreamBacklog(
            upstream=upstream,
            events=sum(each.events for each in its),
            bytes=sum(each.bytes for each in its),
            dead=sum(each.dead for each in its),
            oldest=connection.scalar(_OLDEST_OF_UPSTREAM, {"upstream": upstream}),
            due=_next_due(its, pauses, apps, now),
            paused=pauses.everything or upstream in pauses.upstreams,
        )
        for upstream, its in groups.items()
    ]


def _next_due(its: list[Backlog], pauses: Pauses, apps: Collection[str] | None, now: float) -> float | None:
    dues = [
        each.due if each.due <= now + FAR else now
        for each in its
        if each.due is not None and each.app not in pauses.apps and (apps is None or each.app in apps)
    ]
    return min(dues, default=None)


def by_app(
    connection: sa.Connection, found: list[Backlog], pauses: Pauses, apps: Collection[str] | None
) -> list[AppBacklog]:
    """What is kept, by app. Paused ones too of which nothing is."""
    oldest: dict[str, float] = {}
    for row in connection.execute(_OLDEST_OF_APPS):
        if row.received is not None:
            oldest[row.app] = min(row.received, oldest.get(row.app, row.received))
    groups: dict[str, list[Backlog]] = defaultdict(list, {app: [] for app in pauses.apps})
    for backlog in found:
        groups[backlog.app].append(backlog)
    return [
        AppBacklog(
            app=app,
            events=sum(each.events for each in its),
            bytes=sum(each.bytes for each in its),
            dead=sum(each.dead for each in its),
            oldest=oldest.get(app),
            configured=apps is None or app in apps,
            paused=pauses.everything or app in pauses.apps,
        )
        for app, its in sorted(groups.items())
    ]


def pauses(connection: sa.Connection) -> Pauses:
    """What is paused."""
    rows = [(row.kind, row.name) for row in connection.execute(sa.select(spool_pause.c.kind, spool_pause.c.name))]
    return Pauses(
        everything=any(kind == "all" for kind, _ in rows),
        upstreams=frozenset(name for kind, name in rows if kind == "upstream"),
        apps=frozenset(name for kind, name in rows if kind == "app"),
    )


# --- soundness ---

_HEADLESS: Final = sa.text(
    "SELECT count(*) FROM (SELECT sum(head) AS heads, min(id) AS first, max(CASE WHEN head = 1 THEN id END) AS its"
    " FROM spool_event WHERE dead = 0 GROUP BY key) AS k WHERE heads <> 1 OR first <> its"
)
_DEAD_HEADS: Final = sa.select(sa.func.count()).where(_EVENT.dead == 1, _EVENT.head == 1)
_MISCOUNTED: Final = sa.text(
    "SELECT count(*) FROM (SELECT app, upstream, sum(events) AS events, sum(bytes) AS bytes, sum(dead) AS dead,"
    " sum(dead_bytes) AS dead_bytes FROM (SELECT app, upstream, -events AS events, -bytes AS bytes, -dead AS dead,"
    " -dead_bytes AS dead_bytes FROM spool_count UNION ALL SELECT app, upstream, 1 - dead, (1 - dead) * size, dead,"
    " dead * size FROM spool_event) AS every GROUP BY app, upstream) AS sums"
    " WHERE events <> 0 OR bytes <> 0 OR dead <> 0 OR dead_bytes <> 0"
)


def inconsistencies(connection: sa.Connection) -> list[str]:
    """What is wrong with what the tables say of each other. Reads every row."""
    found = []
    if keys := connection.scalar(_HEADLESS):
        found.append(f"{keys} keys of the spool have not exactly their first waiting event as the next to be delivered")
    if events := connection.scalar(_DEAD_HEADS):
        found.append(f"{events} dead letters of the spool are marked as the next to be delivered")
    if counts := connection.scalar(_MISCOUNTED):
        found.append(f"{counts} counts of the spool differ from its events")
    return found
