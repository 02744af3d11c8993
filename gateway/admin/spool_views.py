"""The spool as shown to operators: the fields of ``/api/spool…``. Times are RFC 3339 in UTC, durations in seconds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from gateway.model.hooks import BadHookError, field_text, parse_hook
from gateway.model.secret_names import is_secret_name
from gateway.model.text import mask_number, shorten, timestamp
from gateway.recording.format import VERSION
from gateway.recording.masking import STARS, Mask, hide_secrets
from gateway.recording.pseudonyms import Key, Pseudonyms
from gateway.store.records import SpooledEvent, UpstreamBacklog
from gateway.store.requests import AppBacklog, EventPage, EventView, SpoolReport, StoreState

MAX_SHOWN_BODY: Final = 256 * 1024
"""Bytes of a body; a larger one is shown only unmasked, because masking it would take too long."""
_RATE_WINDOW: Final = 30.0
"""Seconds that a rate covers at most."""
_RATE_STEP: Final = 0.5
"""Seconds between two readings, at least."""
_FIELD: Final = 256
_NUMBER: Final = 64


class StoreView(msgspec.Struct, frozen=True):
    """How the store is."""

    configured: bool
    up: bool
    error: str | None
    """Why it is not up."""
    engine: str | None = None
    spool_bytes: int | None = None
    history_bytes: int | None = None
    history_oldest: str | None = None


class UpstreamView(msgspec.Struct, frozen=True):
    """What is kept for one upstream."""

    upstream: str
    events: int
    """Those that wait."""
    bytes: int
    dead: int
    oldest: str | None
    oldest_age_seconds: float | None
    next_attempt: str | None
    paused: bool
    change_per_second: float | None
    """How fast the number of waiting events changes: below 0 while it shrinks. None before there are two readings."""
    empty_in_seconds: float | None
    """At this rate; None where the backlog does not shrink."""


class AppView(msgspec.Struct, frozen=True):
    """What is kept of one app."""

    app: str
    events: int
    bytes: int
    dead: int
    oldest: str | None
    oldest_age_seconds: float | None
    configured: bool
    """False: the configuration no longer has the app; its events stay until they are dropped by hand."""
    paused: bool


class SpoolView(msgspec.Struct, frozen=True):
    """The answer of ``GET /api/spool``. Without an answer of the store, its numbers are null and its lists empty."""

    time: str
    store: StoreView
    events: int | None = None
    bytes: int | None = None
    dead: int | None = None
    oldest: str | None = None
    oldest_age_seconds: float | None = None
    paused: bool | None = None
    """Whether an operator has paused all redelivery."""
    change_per_second: float | None = None
    empty_in_seconds: float | None = None
    upstreams: list[UpstreamView] = []
    """Largest backlog first."""
    apps: list[AppView] = []


class EventSummary(msgspec.Struct, frozen=True):
    """A kept event in a list."""

    id: int
    state: str
    """``waiting``: tried at ``next_attempt``; ``queued``: behind an earlier event of its call; ``dead``."""
    app: str
    method: str
    upstream: str
    """The one that was to get it first; redelivery asks the configuration again."""
    request_id: str
    call_id: str | None
    session_id: str | None
    received: str
    age_seconds: float
    expires: str
    size: int
    """Bytes that it takes."""
    cause: str
    error: str
    attempts: int
    """Failures of its own."""
    last_error: str
    next_attempt: str | None


class EventDetail(EventSummary, frozen=True):
    """The answer of ``GET /api/spool/events/{id}``."""

    client: str
    query: str
    caller: str | None
    callee: str | None
    headers: list[tuple[str, str]]
    """Without those that hold secrets: these are not kept."""
    body: str | None
    """None where it is too large to be masked."""
    masked: bool
    """Whether numbers and secrets in it are replaced, as in recordings."""


class EventList(msgspec.Struct, frozen=True):
    """The answer of ``GET /api/spool/events``."""

    events: list[EventSummary]
    """In the order of their ids, the oldest first."""
    next: int | None
    """The ``cursor`` of the next page; null at the end."""


class BacklogTrend:
    """How fast backlogs change, from the readings of the last seconds; made only while somebody asks."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, Mapping[str, int]]] = deque()

    def read(self, now: float, events: Mapping[str, int]) -> Mapping[str, float]:
        """Note how many events wait, by upstream, and return each one's change per second, as far as it is known.

        *now* is in seconds of a monotonic clock.
        """
        readings = self._readings
        while readings and now - readings[0][0] > _RATE_WINDOW:
            readings.popleft()
        changes: dict[str, float] = {}
        if readings and (seconds := now - readings[0][0]) >= _RATE_STEP:
            before = readings[0][1]
            changes = {name: (count - before.get(name, 0)) / seconds for name, count in events.items()}
        if not readings or now - readings[-1][0] >= _RATE_STEP:
            readings.append((now, dict(events)))
        return changes


def time_until_empty(events: int, change_per_second: float | None) -> float | None:
    """Seconds until nothing waits; None where that is unknown or not in sight."""
    if not events:
        return 0.0
    if change_per_second is None or change_per_second >= 0:
        return None
    seconds = events / -change_per_second
    return round(seconds, 1) if math.isfinite(seconds) else None


def no_spool(configured: bool, error: str | None, now: float) -> SpoolView:
    """The answer where there is no store, or where it gives none."""
    return SpoolView(timestamp(now), StoreView(configured=configured, up=False, error=error))


def spool_view(report: SpoolReport, state: StoreState, trend: Mapping[str, float], now: float) -> SpoolView:
    """The state of the spool; *trend* is the upstreams' change per second, *now* Unix time."""
    backlogs = sorted(report.upstreams, key=lambda each: (-each.events, -each.dead, each.upstream))
    upstreams = [_upstream_view(each, trend.get(each.upstream), now) for each in backlogs]
    oldest = min((each.oldest for each in backlogs if each.oldest is not None), default=None)
    events = sum(each.events for each in backlogs)
    change = round(sum(trend.values()), 3) if trend or not backlogs else None
    return SpoolView(
        time=timestamp(now),
        store=store_view(state),
        events=events,
        bytes=sum(each.bytes for each in backlogs),
        dead=sum(each.dead for each in backlogs),
        oldest=_time(oldest),
        oldest_age_seconds=_age(oldest, now),
        paused=report.paused,
        change_per_second=change,
        empty_in_seconds=time_until_empty(events, change),
        upstreams=upstreams,
        apps=[
            _app_view(each, now) for each in sorted(report.apps, key=lambda each: (-each.events, -each.dead, each.app))
        ],
    )


def store_view(state: StoreState) -> StoreView:
    """How the store is."""
    return StoreView(
        configured=True,
        up=state.up,
        error=state.error,
        engine=state.engine,
        spool_bytes=state.spool_size,
        history_bytes=state.history_size,
        history_oldest=_time(state.history_oldest),
    )


def _upstream_view(backlog: UpstreamBacklog, change: float | None, now: float) -> UpstreamView:
    return UpstreamView(
        upstream=backlog.upstream,
        events=backlog.events,
        bytes=backlog.bytes,
        dead=backlog.dead,
        oldest=_time(backlog.oldest),
        oldest_age_seconds=_age(backlog.oldest, now),
        next_attempt=_time(backlog.due),
        paused=backlog.paused,
        change_per_second=None if change is None else round(change, 3),
        empty_in_seconds=time_until_empty(backlog.events, change),
    )


def _app_view(backlog: AppBacklog, now: float) -> AppView:
    return AppView(
        app=backlog.app,
        events=backlog.events,
        bytes=backlog.bytes,
        dead=backlog.dead,
        oldest=_time(backlog.oldest),
        oldest_age_seconds=_age(backlog.oldest, now),
        configured=backlog.configured,
        paused=backlog.paused,
    )


def event_list(page: EventPage, now: float) -> EventList:
    """A page of events."""
    return EventList([EventSummary(**_summary(each, now)) for each in page.events], page.next)


def event_detail(view: EventView, mask: EventMask | None, now: float) -> EventDetail:
    """One event; *mask* None shows it as it came. Takes long for large bodies: not for the event loop."""
    event = view.event
    caller, callee = _numbers(event.body)
    return EventDetail(
        **_summary(view, now),
        client=event.client,
        query=_latin(event.query) if mask is None else _query_without_secrets(_latin(event.query)),
        caller=caller if mask is None else mask.number("caller", caller),
        callee=callee if mask is None else mask.number("callee", callee),
        headers=[
            (_latin(name), _latin(value) if mask is None else hide_secrets(_latin(value)))
            for name, value in event.fields
        ],
        body=event.body.decode("utf-8", "replace") if mask is None else mask.body(event.body),
        masked=mask is not None,
    )


class EventMask:
    """Masks numbers as ``log.mask`` says, and bodies as recordings are. For one thread at a time."""

    def __init__(self, fields: Collection[str], key: Key) -> None:
        """*fields*: the configuration's ``log.mask``; *key*: of the pseudonyms in bodies."""
        self._fields = frozenset(fields)
        self._mask = Mask(fields, Pseudonyms(key))

    def number(self, field: str, number: str | None) -> str | None:
        """A phone number as the log shows it."""
        return mask_number(number) if number is not None and field in self._fields else number

    def body(self, body: bytes) -> str | None:
        """A body with pseudonyms for numbers and stars for secrets; None if it is too large for that."""
        return self._mask.apply(body).decode("utf-8", "replace") if len(body) <= MAX_SHOWN_BODY else None


def export_line(view: EventView) -> bytes:
    """An event as a line of a recording, unmasked, so that ``gateway replay`` can send it; with what the spool knows.

    Line breaks between the tokens of its body become spaces; every other byte stays.
    """
    event = view.event
    line = {
        "v": VERSION,
        "run": "",
        "time": timestamp(event.received),
        "request_id": event.request_id,
        "app": event.app,
        "appKey": _app_key(event),
        "method": event.method,
        "hook": msgspec.Raw(event.body.replace(b"\n", b" ").replace(b"\r", b" ")),
        "verdict": "allow",
        "source": "spool",
        "reason": event.cause,
        "error": shorten(event.error),
        "status": 200,
        "answer": "same",
        "upstream": event.upstream,
        "target": None,
        "duration_ms": 0.0,
        "upstream_ms": 0.0,
        "spool": {
            "id": view.id,
            "dead": view.dead,
            "attempts": view.attempts,
            "last_error": shorten(view.last_error),
            "expires": timestamp(view.expires),
            "client": event.client,
            "query": _latin(event.query),
            "headers": [(_latin(name), _latin(value)) for name, value in event.fields],
        },
    }
    return msgspec.json.encode(line) + b"\n"


def export_lines(views: Iterable[EventView]) -> bytes:
    """The lines of a page."""
    return b"".join(map(export_line, views))


def _summary(view: EventView, now: float) -> dict[str, Any]:
    event = view.event
    return {
        "id": view.id,
        "state": "dead" if view.dead else "queued" if view.due is None else "waiting",
        "app": event.app,
        "method": event.method,
        "upstream": event.upstream,
        "request_id": event.request_id,
        "call_id": event.call_id,
        "session_id": event.session_id,
        "received": timestamp(event.received),
        "age_seconds": round(max(0.0, now - event.received), 3),
        "expires": timestamp(view.expires),
        "size": view.size,
        "cause": event.cause,
        "error": shorten(event.error),
        "attempts": view.attempts,
        "last_error": shorten(view.last_error),
        "next_attempt": None if view.dead else _time(view.due),
    }


def _app_key(event: SpooledEvent) -> str:
    try:
        return str(parse_hook(event.body).app_key)
    except BadHookError:
        return event.app


def _numbers(body: bytes) -> tuple[str | None, str | None]:
    try:
        hook = parse_hook(body)
    except BadHookError:
        return None, None
    return field_text(hook.caller, _NUMBER), field_text(hook.callee, _NUMBER)


def _query_without_secrets(query: str) -> str:
    if not query:
        return ""
    pairs = parse_qsl(query, keep_blank_values=True)
    return "&".join(f"{name}={STARS if is_secret_name(name) else hide_secrets(value)}" for name, value in pairs)


def _latin(data: bytes) -> str:
    return data.decode("latin-1")


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(seconds)


def _age(seconds: float | None, now: float) -> float | None:
    return None if seconds is None else round(max(0.0, now - seconds), 3)
