"""What operators ask of the store, and the answers."""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from gateway.store.records import SpooledEvent, UpstreamBacklog

MAX_PAGE: Final = 1000
"""Events or decisions in one answer, and events that one request changes."""
MAX_PAGE_BYTES: Final = 8 * 2**20
"""Bytes of bodies in one answer, at most, unless its first one alone has more."""


class StoreRequest(msgspec.Struct, frozen=True, tag=True):
    """Any request."""


class EventFilter(msgspec.Struct, frozen=True):
    """Which kept events are meant. None matches anything; every other condition must hold."""

    ids: tuple[int, ...] | None = None
    app: str | None = None
    upstream: str | None = None
    method: str | None = None
    call_id: str | None = None
    dead: bool | None = None
    """True: dead letters alone; False: those that wait alone."""


class SpoolStatus(StoreRequest, frozen=True):
    """How much is kept, for whom; answered with ``SpoolReport``."""


class AppBacklog(msgspec.Struct, frozen=True):
    """What is kept of one app."""

    app: str
    events: int
    bytes: int
    dead: int
    oldest: float | None
    """Unix time."""
    configured: bool
    """Whether the configuration in force has the app; events of others stay until they are dropped by hand."""
    paused: bool


class SpoolReport(msgspec.Struct, frozen=True):
    """The state of the spool."""

    upstreams: list[UpstreamBacklog]
    apps: list[AppBacklog]
    size: int
    """Bytes of the database."""
    paused: bool = False
    """Whether an operator has paused all redelivery."""


class ListEvents(StoreRequest, frozen=True):
    """Kept events in the order of their ids, dead letters among them; answered with ``EventPage``."""

    wanted: EventFilter
    after: int = 0
    """Of the last page: ``next``."""
    limit: int = 100
    """At most; with bodies, a page ends earlier where they would exceed ``MAX_PAGE_BYTES``."""
    bodies: bool = False
    """Whether the events come with their bodies."""


class EventView(msgspec.Struct, frozen=True):
    """A kept event, as shown to operators; numbers in it are masked where it is shown."""

    id: int
    dead: bool
    attempts: int
    due: float | None
    """Unix time of the next attempt; None for dead letters, and while an earlier event of its key waits."""
    last_error: str
    expires: float
    event: SpooledEvent
    """Without its body, unless one event was asked for."""
    size: int
    """Bytes."""


class EventPage(msgspec.Struct, frozen=True):
    """Some of the events."""

    events: list[EventView]
    next: int | None
    """For the next page; None at the end."""


class ShowEvent(StoreRequest, frozen=True):
    """One kept event with its body; answered with ``EventView | None``."""

    id: int


class RetryEvents(StoreRequest, frozen=True):
    """An action: try these now, dead letters too; answered with ``Portion``."""

    wanted: EventFilter
    after: int = 0
    """Of the last portion: ``next``."""
    most: int = MAX_PAGE


class DropEvents(StoreRequest, frozen=True):
    """An action: delete these undelivered; answered with ``Portion``. An empty filter means all."""

    wanted: EventFilter
    after: int = 0
    """Of the last portion: ``next``."""
    most: int = MAX_PAGE


class Portion(msgspec.Struct, frozen=True):
    """A part of an action is done: in the order of ids, at most as many as asked for, so that keeping goes on."""

    events: int
    next: int | None
    """``after`` for the next portion; None: all is done."""


class PauseSpool(StoreRequest, frozen=True):
    """An action: pause or resume redelivery to an upstream, or of an app, or all; answered with ``bool``: changed."""

    paused: bool
    upstream: str | None = None
    app: str | None = None


class HistoryFilter(msgspec.Struct, frozen=True):
    """Which decisions are searched for in the history. None matches anything; every other condition must hold."""

    since: float | None = None
    """Unix time; inclusive."""
    until: float | None = None
    """Unix time; exclusive."""
    app: str | None = None
    method: str | None = None
    verdict: str | None = None
    source: str | None = None
    reason: str | None = None
    upstream: str | None = None
    target: str | None = None
    call_id: str | None = None
    session_id: str | None = None
    request_id: str | None = None
    caller: str | None = None
    """A whole number as somebody writes it; found by its keyed hash."""
    callee: str | None = None
    number: str | None = None
    """A whole number, of the caller or the callee."""
    failures: bool = False


class SearchHistory(StoreRequest, frozen=True):
    """Decisions, the newest first; answered with ``HistoryPage``."""

    wanted: HistoryFilter
    before: int | None = None
    """Of the last page: ``next``."""
    limit: int = 100
    bodies: bool = False
    """Whether the decisions come with the bodies of hook and answer, where these are kept."""


class HistoryPage(msgspec.Struct, frozen=True):
    """Some of the decisions."""

    decisions: list[bytes]
    """Each for ``store.decisions.decode_decision``, the newest first. There may be fewer than asked for,
    even none, although there are more: a page is a bounded amount of work."""
    shadows: list[bytes | None]
    """The result of each one's shadow copy, for ``store.decisions.decode_shadow``."""
    next: int | None
    """For the next page; None at the end. It has 61 bits: more than a number has in JavaScript."""
    oldest: float | None
    """Unix time of the oldest decision that is kept, of those that can match: how far the search looks back."""


class StoreReport(StoreRequest, frozen=True):
    """How the store is; answered with ``StoreState``."""


class StoreState(msgspec.Struct, frozen=True):
    """How the store is."""

    engine: str
    """``sqlite`` or ``postgresql``."""
    up: bool
    error: str | None
    """Why it is not up."""
    history_size: int
    """Bytes."""
    history_oldest: float | None
    """Unix time."""
    spool_size: int


Request = SpoolStatus | ListEvents | ShowEvent | RetryEvents | DropEvents | PauseSpool | SearchHistory | StoreReport

ANSWERS: Final[dict[type[StoreRequest], Any]] = {
    SpoolStatus: SpoolReport,
    ListEvents: EventPage,
    ShowEvent: EventView | None,
    RetryEvents: Portion,
    DropEvents: Portion,
    PauseSpool: bool,
    SearchHistory: HistoryPage,
    StoreReport: StoreState,
}

encode_request = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode


def decode_answer(request: StoreRequest, data: bytes) -> Any:
    """The answer to this request, of the type that ``ANSWERS`` names."""
    return msgspec.msgpack.decode(data, type=ANSWERS[type(request)])


class StoreUnavailable(Exception):
    """The store gives no answer; the message says why: it is down, it takes too long, or what error it reports."""


class StoreConnection(Protocol):
    """What operators' requests go through: ``gateway.store.client``."""

    async def ask(self, request: StoreRequest) -> Any:
        """The answer, of the type that ``ANSWERS`` names. Raises StoreUnavailable."""
