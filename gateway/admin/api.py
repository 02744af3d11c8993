"""The admin API: decisions, insights and upstreams, and an operator's actions: eject, restore, drain."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.admin.decision_filter import parse_filter
from gateway.admin.decision_search import DecisionSearch, detail_json
from gateway.admin.endpoints import AdminState
from gateway.admin.events import APP_COUNT_ERROR, DEFAULT_APPS, parse_app_count
from gateway.admin.fleet_api import FleetApi, asks_fleet, asks_places, own_parameters
from gateway.admin.fleet_merge import merge_upstreams
from gateway.admin.overview import ConfiguredTarget, Overview
from gateway.admin.rpc import Drain
from gateway.model.text import timestamp
from gateway.policy.orders import TargetOrder
from gateway.telemetry.decision_view import DecisionFilter

logger = logging.getLogger(__name__)

_JSON: Final = "application/json"


class Api:
    """The endpoints."""

    def __init__(self, state: AdminState, overview: Overview, fleet: FleetApi) -> None:
        self._state = state
        self._fleet = fleet
        self._overview = overview
        self._decisions = DecisionSearch(state.rpc, state.store, lambda: state.reloader.loaded.config)

    def routes(self) -> list[BaseRoute]:
        """Paths and their handlers."""
        return [
            Route("/api/decisions", self.decisions),
            Route("/api/decisions/{request_id:path}", self.decision),
            Route("/api/insights", self.insights),
            Route("/api/upstreams", self.upstreams),
            Route("/api/upstreams/{upstream}/{target:path}/eject", self.eject, methods=["POST"]),
            Route("/api/upstreams/{upstream}/{target:path}/restore", self.restore, methods=["POST"]),
            Route("/-/drain", self.drain, methods=["POST"]),
            Route("/-/undrain", self.undrain, methods=["POST"]),
        ]

    async def decisions(self, request: Request) -> Response:
        """The matching decisions, newest first; of all gateways with ``fleet=true``."""
        try:
            asked = parse_filter(own_parameters(request), time.time())
        except ValueError as exc:
            return PlainTextResponse(f"{exc}\n", 400)
        if asks_fleet(request):
            return await self._fleet.decisions(request, partial(self._page, asked), asked.limit)
        return _json(await self._decisions.page(asked, places=asks_places(request)))

    async def _page(self, asked: DecisionFilter) -> dict[str, Any]:
        page: dict[str, Any] = msgspec.to_builtins(await self._decisions.page(asked, places=True))
        return page

    async def decision(self, request: Request) -> Response:
        """One decision, by its request id; with ``fleet=true``, at whichever gateway it is."""
        view, detail, history = await self._decisions.one(request.path_params["request_id"])
        elsewhere = ""
        if view is None and asks_fleet(request):
            found, elsewhere = await self._fleet.decision(request.path_params["request_id"])
            if found is not None:
                return _json(found)
        if view is None:
            where = "the journal (it keeps only the most recent)" + (" or the history" if history.configured else "")
            missing = "" if history.error is None else f"; the history was not searched: {history.error}"
            return PlainTextResponse(f"request not in {where}{missing}{elsewhere}; search the log\n", 404)
        return _json(detail_json(view, detail))

    async def insights(self, request: Request) -> Response:
        """Ineffective rejections, repaired answers, candidates, splits, rules and limits, per app."""
        most = parse_app_count(request.query_params.get("apps", str(DEFAULT_APPS)))
        if most is None:
            return PlainTextResponse(APP_COUNT_ERROR, 400)
        activity = await self._state.events.sampler.activity()
        shown = await asyncio.to_thread(self._overview.insights, activity.insights, most)
        return _json({"time": timestamp(activity.time), **shown})

    async def upstreams(self, request: Request) -> Response:
        """Every upstream and the state of its targets; of all gateways with ``fleet=true``."""
        if asks_fleet(request):
            return await self._fleet.merged(request, self._overview.upstreams, merge_upstreams)
        return _json(await self._overview.upstreams())

    async def eject(self, request: Request) -> Response:
        """Eject a target until it is restored."""
        return await self._set_ejected(request, ejected=True)

    async def restore(self, request: Request) -> Response:
        """Send hooks to a target again."""
        return await self._set_ejected(request, ejected=False)

    async def drain(self, request: Request) -> Response:
        """Become not ready and close connections after their answer; hooks are still decided."""
        return await self._drain(on=True)

    async def undrain(self, request: Request) -> Response:
        """End a drain."""
        return await self._drain(on=False)

    async def _set_ejected(self, request: Request, *, ejected: bool) -> Response:
        upstream, name = request.path_params["upstream"], request.path_params["target"]
        target = await self._overview.find_target(upstream, name)
        ordered = self._find_ordered(upstream, name) if target is None and not ejected else None
        target = target or ordered
        if target is None:
            return PlainTextResponse("no such target; GET /api/upstreams lists all targets\n", 404)
        done = await self._overview.set_ejected(target, ejected=ejected)
        result = "ejected" if ejected else "restored"
        changed = done.changed or ordered is not None
        if changed:
            words = "ejected by an operator, until it is restored" if ejected else "restored by an operator"
            fields = {"event": result, "upstream": upstream, "target": name}
            logger.warning("%s: target %s is %s", upstream, name, words, extra={"fields": fields})
        answer = {
            "result": result if changed else "unchanged",
            "upstream": upstream,
            "target": name,
            "incomplete": list(done.incomplete),
        }
        if self._state.fleet is not None:
            order = TargetOrder(upstream, target.url)
            error = await self._state.fleet.orders.give(order, on=ejected)
            answer["fleet"] = {"published": error is None, "error": error}
        if ejected and not done.others_up:
            answer["warning"] = f"No other target of {upstream} is up: the fallback decides its hooks until one is."
        return _json(answer)

    def _find_ordered(self, upstream: str, name: str) -> ConfiguredTarget | None:
        """A target that the configuration has no more, but that the fleet remembers as ejected."""
        order = None if self._state.fleet is None else self._state.fleet.orders.ejection(upstream, name)
        return None if order is None else ConfiguredTarget(upstream, name, order.url)

    async def _drain(self, *, on: bool) -> Response:
        lifecycle = self._state.lifecycle
        if lifecycle.ending:
            return PlainTextResponse("the gateway is already stopping\n", 409)
        if lifecycle.drained != on:
            words = "drained by an operator: not ready, connections close after their answer" if on else "ready again"
            logger.warning("%s", words, extra={"fields": {"event": "drain" if on else "undrain"}})
        lifecycle.drain_for_operator(on=on)
        await self._state.rpc.ask(Drain(on))
        return _json({"result": lifecycle.phase})


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type=_JSON)
