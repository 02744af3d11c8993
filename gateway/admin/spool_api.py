"""The admin API of the spool: what is kept, one event in full, an export; and an operator's actions.

``GET /api/spool`` is a ``SpoolView``, also without a store (``store.configured`` is false then) and while it is down
(``store.up`` is false, ``store.error`` says why): totals, then ``upstreams`` and ``apps`` with their backlogs.
``GET /api/spool/events`` is an ``EventList``, ``GET /api/spool/events/{id}`` an ``EventDetail`` (``spool_views``).
Actions (POST ``/api/spool/retry``, ``drop``, ``pause``, ``resume``) answer with ``result`` and what was changed; of
many events, with ``next``: what is left is done by the same request with this ``cursor``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from gateway.admin.endpoints import AdminState
from gateway.admin.spool_filter import (
    ACTION_NAMES,
    EXPORT_NAMES,
    LIST_NAMES,
    MAX_BODY,
    PAUSE_NAMES,
    SpoolQuery,
    parse_spool_body,
    parse_spool_query,
)
from gateway.admin.spool_views import (
    BacklogTrend,
    EventMask,
    SpoolView,
    event_detail,
    event_list,
    export_lines,
    no_spool,
    spool_view,
)
from gateway.admin.store_asking import ask_within
from gateway.model.text import plural
from gateway.policy.orders import SpoolOrder
from gateway.recording.settings import THIS_RUN
from gateway.store.requests import (
    DropEvents,
    EventFilter,
    EventPage,
    EventView,
    ListEvents,
    PauseSpool,
    Portion,
    RetryEvents,
    ShowEvent,
    SpoolReport,
    SpoolStatus,
    StoreConnection,
    StoreReport,
    StoreRequest,
    StoreState,
    StoreUnavailable,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

NO_STORE: Final = "no store is configured: nothing is kept; see store and spool in the configuration reference"
"""What a request for the spool is answered without one."""
ACTION_TIME: Final = 2.0
"""Seconds that one action takes at most; what is left is done by the next request."""
STATUS_TIME: Final = 2.0
"""Seconds that the store has to say how it is; the first answer missing, it is not asked for the second."""
_EXPORT_PAGE: Final = 200
_EXPORT_TYPE: Final = [(b"content-type", b"application/x-ndjson"), (b"x-accel-buffering", b"no")]
_SHOW_NAMES: Final = ("unmasked",)
_ALL_AND_FILTERS: Final = "use either all or filters, not both"
_NO_FILTERS: Final = (
    "say which events: id, app, upstream, method, call_id, dead=1; or all=1 for everything that is kept"
)


class SpoolError(Exception):
    """A request cannot be answered; carries the HTTP status, and a message for its author."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class SpoolApi:
    """The endpoints."""

    def __init__(self, state: AdminState, clock: Callable[[], float] = time.monotonic) -> None:
        self._state = state
        self._clock = clock
        self._trend = BacklogTrend()

    def routes(self) -> list[BaseRoute]:
        """Paths and their handlers."""
        return [
            Route("/api/spool", self.status),
            Route("/api/spool/events", self._answer(self.events)),
            Route("/api/spool/events/{id}", self._answer(self.event)),
            Route("/api/spool/export", self._answer(self.export)),
            Route("/api/spool/retry", self._answer(self.retry), methods=["POST"]),
            Route("/api/spool/drop", self._answer(self.drop), methods=["POST"]),
            Route("/api/spool/pause", self._answer(self.pause), methods=["POST"]),
            Route("/api/spool/resume", self._answer(self.resume), methods=["POST"]),
        ]

    async def status(self, request: Request) -> Response:
        """How much is kept for whom, and how the store is."""
        return _json(await self.view())

    async def view(self) -> SpoolView:
        """The content of ``GET /api/spool``."""
        store, now = self._state.store, time.time()
        if store is None:
            return no_spool(configured=False, error=None, now=now)
        try:
            state: StoreState = await ask_within(STATUS_TIME, store, StoreReport())
            report: SpoolReport = await ask_within(STATUS_TIME, store, SpoolStatus())
        except StoreUnavailable as exc:
            return no_spool(configured=True, error=str(exc), now=now)
        trend = self._trend.read(self._clock(), {each.upstream: each.events for each in report.upstreams})
        return spool_view(report, state, trend, now)

    async def events(self, request: Request) -> Response:
        """The kept events that match, the oldest first."""
        asked = _parse(lambda: parse_spool_query(request.query_params.multi_items(), LIST_NAMES))
        page: EventPage = await self._ask(ListEvents(asked.wanted, asked.after, asked.limit))
        return await asyncio.to_thread(_encode_list, page)

    async def event(self, request: Request) -> Response:
        """One event with headers and body; masked, unless asked for unmasked."""
        unmasked = _parse(lambda: _parse_unmasked(request.query_params.multi_items()))
        number = request.path_params["id"]
        if not (number.isascii() and number.isdigit() and len(number) <= 18):
            raise SpoolError(404, "no such event; GET /api/spool/events lists all events")
        view: EventView | None = await self._ask(ShowEvent(int(number)))
        if view is None:
            raise SpoolError(404, "no such event: it was delivered or dropped, or never kept")
        return await asyncio.to_thread(_encode_detail, view, None if unmasked else self._mask())

    async def export(self, request: Request) -> Response:
        """The matching events in full, as the lines of a recording."""
        asked = _parse(lambda: parse_spool_query(request.query_params.multi_items(), EXPORT_NAMES))
        if request.method == "HEAD":
            return Response(headers={name.decode(): value.decode() for name, value in _EXPORT_TYPE})
        first: EventPage = await self._ask(ListEvents(asked.wanted, 0, _EXPORT_PAGE, bodies=True))
        filters = _log_fields(asked.wanted)
        logger.warning("kept events are exported unmasked", extra={"fields": {"event": "spool_export", **filters}})
        return _Export(self._pages(asked.wanted, first))

    async def retry(self, request: Request) -> Response:
        """Try the matching events now, dead letters too."""
        asked = await self._choice(request)
        events, after = await self._in_portions(lambda after: RetryEvents(asked.wanted, after), asked.after)
        self._log_action("spool_retry", f"{plural(events, 'kept event')} retried by an operator", events, asked.wanted)
        return _json({"result": "retried", "events": events, "next": after})

    async def drop(self, request: Request) -> Response:
        """Delete the matching events undelivered."""
        asked = await self._choice(request)
        events, after = await self._in_portions(lambda after: DropEvents(asked.wanted, after), asked.after)
        self._log_action("spool_drop", f"{plural(events, 'kept event')} dropped by an operator", events, asked.wanted)
        return _json({"result": "dropped", "events": events, "next": after})

    async def pause(self, request: Request) -> Response:
        """Pause redelivery to an upstream, or of an app, or all; events are still kept."""
        return await self._set_paused(request, paused=True)

    async def resume(self, request: Request) -> Response:
        """End a pause."""
        return await self._set_paused(request, paused=False)

    async def _set_paused(self, request: Request, *, paused: bool) -> Response:
        asked = await self._action(request, PAUSE_NAMES)
        upstream, app = asked.wanted.upstream, asked.wanted.app
        if upstream is not None and app is not None:
            raise SpoolError(400, "name an upstream or an app, not both")
        await self._check_names(upstream, app)
        changed: bool = await self._ask(PauseSpool(paused, upstream, app))
        result = ("paused" if paused else "resumed") if changed else "unchanged"
        if changed:
            what = f"to {upstream}" if upstream is not None else f"of {app}" if app is not None else "of all events"
            fields = {"event": "spool_pause" if paused else "spool_resume", **_log_fields(asked.wanted)}
            logger.warning("redelivery %s is %s by an operator", what, result, extra={"fields": fields})
        answer: dict[str, Any] = {"result": result, "upstream": upstream, "app": app}
        if self._state.fleet is not None:
            error = await self._state.fleet.orders.give(SpoolOrder(upstream, app), on=paused)
            answer["fleet"] = {"published": error is None, "error": error}
        return _json(answer)

    async def _check_names(self, upstream: str | None, app: str | None) -> None:
        """Raises SpoolError if there is no such upstream or app, in the configuration or in the spool."""
        config = self._state.reloader.loaded.config
        if (upstream is None or upstream in config.upstreams) and (app is None or app in config.apps):
            return
        report: SpoolReport = await self._ask(SpoolStatus())
        if upstream is not None and upstream not in {each.upstream for each in report.upstreams}:
            raise SpoolError(404, "no such upstream; GET /api/upstreams lists all upstreams")
        if app is not None and app not in {each.app for each in report.apps}:
            raise SpoolError(404, "no such app in the configuration or in the spool")

    async def _ask(self, request: StoreRequest) -> Any:
        return await _store(self._state).ask(request)

    async def _in_portions(self, request: Callable[[int], StoreRequest], after: int) -> tuple[int, int | None]:
        """How many events were changed, and where to go on: a million events must not keep one request busy."""
        store = _store(self._state)
        events, until = 0, self._clock() + ACTION_TIME
        while True:
            portion: Portion = await store.ask(request(after))
            events += portion.events
            if portion.next is None or self._clock() >= until:
                return events, portion.next
            after = portion.next

    async def _action(self, request: Request, names: Iterable[str]) -> SpoolQuery:
        """What an action is asked for, in its query or its body."""
        _store(self._state)
        body = await _read_body(request)
        if not body:
            return _parse(lambda: parse_spool_query(request.query_params.multi_items(), names))
        if request.query_params:
            raise SpoolError(400, "use either the query or the body, not both")
        return _parse(lambda: parse_spool_body(body, names))

    async def _choice(self, request: Request) -> SpoolQuery:
        """The events that an action is for: some of them, or all where it says so."""
        asked = await self._action(request, ACTION_NAMES)
        if asked.names_events == asked.everything:
            raise SpoolError(400, _ALL_AND_FILTERS if asked.everything else _NO_FILTERS)
        return asked

    async def _pages(self, wanted: EventFilter, page: EventPage) -> AsyncIterator[list[EventView]]:
        while True:
            yield page.events
            if page.next is None:
                return
            page = await self._ask(ListEvents(wanted, page.next, _EXPORT_PAGE, bodies=True))

    def _mask(self) -> EventMask:
        config = self._state.reloader.loaded.config
        record = config.record
        fields = (*config.log.mask, *(() if record is None else record.mask))
        return EventMask(fields, THIS_RUN if record is None else record.key)

    def _log_action(self, event: str, text: str, events: int, wanted: EventFilter) -> None:
        logger.warning("%s", text, extra={"fields": {"event": event, "events": events, **_log_fields(wanted)}})

    def _answer(self, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        """The handler, with its errors as answers in plain words."""

        async def answer(request: Request) -> Response:
            try:
                response: Response = await handler(request)
            except SpoolError as exc:
                return PlainTextResponse(f"{exc}\n", exc.status)
            except StoreUnavailable as exc:
                return PlainTextResponse(f"the store gives no answer: {exc}\n", 503)
            return response

        return answer


class _Export(Response):
    """The lines of all pages. Where the store fails midway, the answer stays incomplete: no client takes it for all."""

    def __init__(self, pages: AsyncIterator[list[EventView]]) -> None:
        super().__init__()
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send one page after the other, each read only when the one before has been taken."""
        await send({"type": "http.response.start", "status": 200, "headers": _EXPORT_TYPE})
        try:
            async for events in self._pages:
                data = await asyncio.to_thread(export_lines, events)
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except StoreUnavailable as exc:
            fields = {"event": "spool_export_failed"}
            logger.warning("the export of kept events is incomplete: %s", exc, extra={"fields": fields})
            return
        await send({"type": "http.response.body"})


def _store(state: AdminState) -> StoreConnection:
    if state.store is None:
        raise SpoolError(409, NO_STORE)
    return state.store


def _parse(parse: Callable[[], T]) -> T:
    try:
        return parse()
    except ValueError as exc:
        raise SpoolError(400, str(exc)) from exc


def _parse_unmasked(parameters: Iterable[tuple[str, str]]) -> bool:
    unmasked = False
    for name, value in parameters:
        if name not in _SHOW_NAMES:
            raise ValueError("unknown parameter; known parameters: unmasked")
        if value not in ("0", "1"):
            raise ValueError("unmasked must be 1 or 0")
        unmasked = value == "1"
    return unmasked


async def _read_body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise SpoolError(413, f"the body is larger than {MAX_BODY >> 10} KiB")
    return body.strip()


def _log_fields(wanted: EventFilter) -> dict[str, Any]:
    """The filters of an action, for the log."""
    fields = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not None}
    ids = fields.pop("ids", None)
    return {**fields, **({} if ids is None else {"ids": list(ids[:20])})}


def _encode_list(page: EventPage) -> Response:
    return _json(event_list(page, time.time()))


def _encode_detail(view: EventView, mask: EventMask | None) -> Response:
    return _json(event_detail(view, mask, time.time()))


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
