"""Finds events that the media server repeats: the same app, method and bytes, within ``policy.spooling.REPEAT_WINDOW``.

A repeat has the key of the event that it repeats, so that the index of keys finds it: in what is kept, thus after a
restart and from another gateway too. A few notes of which ids are how old bound the search.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from gateway.policy.spooling import REPEAT_WINDOW
from gateway.store.records import SpooledEvent
from gateway.store.schema import spool_event
from gateway.store.spool_rows import driver_sql, values_list

_EVERY: Final = 1.0
"""Seconds between two notes."""
_RECENT: Final = 100_000
"""Ids that are looked through at the start, at most."""
_EVENT: Final = spool_event.c


class Known(NamedTuple):
    """What is kept already of an event's kind."""

    waiting: int | None
    """The first event that waits with its key."""
    repeated: int | None
    """The one that it repeats."""


class RepeatFinder:
    """Looks up what is known of events that are to be kept."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._notes: deque[tuple[float, int]] = deque()
        """Monotonic times, and an id that was given then."""

    def look_up(self, connection: sa.Connection, events: Sequence[SpooledEvent]) -> list[Known]:
        """What is known of each of these events."""
        first = self._first_id(connection)
        query = (
            "SELECT (SELECT id FROM spool_event WHERE key = v.column1 AND dead = 0 ORDER BY id LIMIT 1), (SELECT id"  # noqa: S608
            " FROM spool_event WHERE key = v.column1 AND dead IN (0, 1) AND id >= f.first AND digest = v.column2"
            f" AND received >= v.column3 LIMIT 1) FROM {values_list(connection, len(events), 3)},"
            f" (SELECT {driver_sql(connection, 'CAST(? AS BIGINT)')} AS first) f"
        )
        values: list[Any] = []
        for event in events:
            values += (event.key, event.digest, event.received - REPEAT_WINDOW)
        return [Known(row[0], row[1]) for row in connection.exec_driver_sql(query, (*values, first))]

    def note(self, id_: int) -> None:
        """This id is given now."""
        now = time.monotonic()
        if now - self._notes[-1][0] >= _EVERY:
            self._notes.append((now, id_))

    def _first_id(self, connection: sa.Connection) -> int:
        """The id before which no repeat can lie."""
        notes = self._notes
        if not notes:
            notes.append((time.monotonic(), self._first_recent_id(connection)))
        before = time.monotonic() - REPEAT_WINDOW
        while len(notes) > 1 and notes[1][0] < before:
            notes.popleft()
        return notes[0][1]

    def _first_recent_id(self, connection: sa.Connection) -> int:
        last = connection.scalar(sa.select(sa.func.max(_EVENT.id))) or 0
        before = self._clock() - REPEAT_WINDOW
        old = sa.select(_EVENT.id).where(_EVENT.id > last - _RECENT, _EVENT.received < before)
        return (connection.scalar(old.order_by(_EVENT.id.desc()).limit(1)) or last - _RECENT) + 1
