"""The events that the gateway has taken and owes its backends: kept in order, taken when due, settled.

Synchronous, over a connection in a transaction that the caller ends: nothing is confirmed before its commit. The same
for both engines. Nothing is held in memory for an event.

A key's first waiting event is its *head*; only heads are taken. Whatever removes a head makes the next event of its key
the head, in the same transaction. On PostgreSQL one writing transaction at a time, over all gateways, has the spool's
lock, so that ids are in the order of the commits; a head is leased to the gateway that has taken it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

from gateway.store.engine import Database, StoreError
from gateway.store.messages import Settle
from gateway.store.records import Delivery, SpooledEvent, UpstreamBacklog
from gateway.store.requests import EventFilter, EventPage, EventView, SpoolReport

STEP: Final = 500
"""Events that one transaction of a long action changes, at most."""
LEASE: Final = 30.0
"""Seconds for which a gateway on PostgreSQL has a head that it has taken, unless it renews that."""


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


class Pauses(NamedTuple):
    """What an operator has paused."""

    everything: bool
    upstreams: frozenset[str]
    apps: frozenset[str]


class Spool:
    """The spool of one database. One thread at a time writes; every method that reads may run beside it."""

    def __init__(self, database: Database, owner: str = "", clock: Callable[[], float] = time.time) -> None:
        """*owner*: a name of this gateway that no other has, and that it keeps until it ends; *clock*: Unix time."""
        self.database = database
        self.owner = owner

    # --- for a GroupCommit: (connection, items) -> results, in their order ---

    def add(self, connection: sa.Connection, events: Sequence[SpooledEvent]) -> list[Added | StoreError]:
        """Keep these events, in their order; a repeat of one that is kept already is confirmed, and kept once.

        A StoreError instead of a result: that one cannot be kept, since it alone is larger than ``max_size``.
        """
        raise NotImplementedError

    def settle(self, connection: sa.Connection, outcomes: Sequence[Settle]) -> list[Settlement | None]:
        """Put down what became of deliveries; None for an event that is no longer kept. Repeating one is harmless."""
        raise NotImplementedError

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

        On SQLite it only reads: whoever calls keeps in mind what is being delivered, and excludes it. On PostgreSQL it
        leases them to *owner*, in a transaction that must be committed before they are delivered; those that it has
        leased already are given again unless *excluded*. Nothing is taken of what is paused.
        """
        raise NotImplementedError

    def renew(self, connection: sa.Connection, ids: Collection[int]) -> None:
        """PostgreSQL: keep these leases for another ``LEASE`` seconds. Nothing on SQLite."""
        raise NotImplementedError

    def release(self, connection: sa.Connection, ids: Collection[int] | None = None) -> None:
        """PostgreSQL: give these leases back; None: all of *owner*'s. Nothing on SQLite."""
        raise NotImplementedError

    def keys(self, connection: sa.Connection) -> Iterator[tuple[bytes, int]]:
        """Every key that has waiting events, and how many; streamed."""
        raise NotImplementedError

    # --- operators ---

    def backlogs(self, connection: sa.Connection, apps: Collection[str] | None = None) -> list[UpstreamBacklog]:
        """What waits, by upstream. ``due`` is that of *apps* (None: all), without those that are paused."""
        raise NotImplementedError

    def status(self, connection: sa.Connection, apps: Collection[str] | None = None) -> SpoolReport:
        """How much is kept, for whom; *apps*: those that are configured (None: all are)."""
        raise NotImplementedError

    def list_events(
        self, connection: sa.Connection, wanted: EventFilter, *, after: int = 0, limit: int = 100
    ) -> EventPage:
        """Kept events without their bodies, the oldest first."""
        raise NotImplementedError

    def show(self, connection: sa.Connection, id_: int) -> EventView | None:
        """One kept event with its body."""
        raise NotImplementedError

    def retry(self, connection: sa.Connection, wanted: EventFilter, *, after: int = 0, limit: int = STEP) -> Step:
        """Try these now. Dead letters wait again, at their old places, with no attempts counted."""
        raise NotImplementedError

    def drop(self, connection: sa.Connection, wanted: EventFilter, *, after: int = 0, limit: int = STEP) -> Step:
        """Delete these undelivered."""
        raise NotImplementedError

    def pause(
        self, connection: sa.Connection, paused: bool, *, upstream: str | None = None, app: str | None = None
    ) -> bool:
        """Pause or resume an upstream, an app, or everything (resuming everything ends every pause). Whether it
        changed anything."""
        raise NotImplementedError

    def pauses(self, connection: sa.Connection) -> Pauses:
        """What is paused."""
        raise NotImplementedError

    # --- bounds ---

    def expire(self, connection: sa.Connection, apps: Collection[str], *, limit: int = STEP) -> Step:
        """Drop events of these configured apps that are older than their ``max_age``; ``next`` says there are more.

        A dead letter is kept for ``max_age`` from the moment at which it became one.
        """
        raise NotImplementedError

    def enforce(self, connection: sa.Connection, app: str, max_size: int, *, limit: int = STEP) -> Step:
        """Drop events of an app until it has at most *max_size* bytes: dead letters, then the lowest value, then the
        oldest; ``next`` says there are more."""
        raise NotImplementedError
