"""``/api/fleet``, and the answers of all gateways together to what one is asked with ``fleet=true``.

Every such answer has ``replicas``: each gateway of the fleet with its name and, where its part is missing, the reason
(``error``). It comes within seconds, whatever the others do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.admin.fleet_decisions import ReplicaPage, merge_pages
from gateway.admin.fleet_merge import Json, Named
from gateway.admin.fleet_view import SELF, FleetAnswers, FleetView
from gateway.admin.peers import ASK_TIME, SEARCH_TIME

NO_STATE: Final = "no state is configured: this gateway knows no others; see docs/fleet.md\n"
"""What a question about the fleet is answered without one."""
_FLAG: Final = "fleet"
_PLACES: Final = "places"
"""The parameter by which a gateway asks another for what it needs to merge pages."""
_TRUE: Final = ("1", "true")
_PATHS: Final = frozenset({SELF, "/api/status", "/api/activity", "/api/upstreams", "/api/decisions"})


def is_fleet_path(path: str) -> bool:
    """Whether another gateway of the fleet asks for this path."""
    return path in _PATHS or path.startswith("/api/decisions/")


def asks_fleet(request: Request) -> bool:
    """Whether a request is for all gateways."""
    return request.query_params.get(_FLAG) in _TRUE


def asks_places(request: Request) -> bool:
    """Whether a request for decisions is another gateway's."""
    return request.query_params.get(_PLACES) in _TRUE


def own_parameters(request: Request) -> list[tuple[str, str]]:
    """The parameters without those of this module."""
    return [(name, value) for name, value in request.query_params.multi_items() if name not in (_FLAG, _PLACES)]


class FleetApi:
    """The endpoints; *view* is None where no state is configured."""

    def __init__(self, view: FleetView | None) -> None:
        self._view = view

    def routes(self) -> list[BaseRoute]:
        """Paths and their handlers."""
        return [Route("/api/fleet", self.overview), Route(SELF, self.describe_self)]

    async def overview(self, request: Request) -> Response:
        """The gateways of the fleet, who is behind, and the orders in force."""
        if self._view is None:
            return _json({"configured": False, "replicas": [], "orders": [], "more_orders": 0})
        return _json(await self._view.overview())

    async def describe_self(self, request: Request) -> Response:
        """How this gateway is, for the others."""
        return PlainTextResponse(NO_STATE, 409) if self._view is None else _json(self._view.describe_self())

    async def merged(
        self,
        request: Request,
        own: Callable[[], Awaitable[Json]],
        merge: Callable[[Sequence[Named]], dict[str, Any]],
    ) -> Response:
        """All gateways' answers to this request, merged; *own*: makes this gateway's."""
        if self._view is None:
            return PlainTextResponse(NO_STATE, 409)
        found = await self._view.ask_all(own(), request.url.path, own_parameters(request), ASK_TIME)
        _leave_out_strange(found, lambda answer: merge([answer]))
        return _json({**merge(list(found.answers.values())), "replicas": found.replicas})

    async def status(self, own: Callable[[], Awaitable[Json]], merge: Callable[[Sequence[Json]], Json]) -> Response:
        """The status of each gateway, with the hooks of all."""
        if self._view is None:
            return PlainTextResponse(NO_STATE, 409)
        found = await self._view.ask_all(own(), "/api/status")
        _leave_out_strange(found, lambda answer: merge([answer.content["hooks"]]))
        replicas = [
            {**replica, "status": found.answers[replica["id"]].content if replica["id"] in found.answers else None}
            for replica in found.replicas
        ]
        hooks = merge([answer.content["hooks"] for answer in found.answers.values()])
        return _json({"hooks": hooks, "replicas": replicas})

    async def decisions(self, request: Request, own: Callable[[], Awaitable[Json]], limit: int) -> Response:
        """The decisions of all gateways, the newest first."""
        if self._view is None:
            return PlainTextResponse(NO_STATE, 409)
        query = [*own_parameters(request), (_PLACES, "1")]
        found = await self._view.ask_all(own(), request.url.path, query, SEARCH_TIME)
        _leave_out_strange(found, lambda answer: merge_pages([ReplicaPage(*answer)], limit))
        for replica in found.replicas:
            answer = found.answers.get(replica["id"])
            replica["incomplete"] = [] if answer is None else answer.content["incomplete"]
        page = merge_pages([ReplicaPage(*answer) for answer in found.answers.values()], limit)
        return _json({**page, "replicas": found.replicas})

    async def decision(self, request_id: str) -> tuple[Json | None, str]:
        """The decision with this request id, at whichever other gateway it is; else why perhaps none has it."""
        if self._view is None:
            return None, ""
        path = f"/api/decisions/{quote(request_id, safe='')}"
        silent: list[str] = []
        for answer in await self._view.ask_others(path, SEARCH_TIME):
            if answer.error is None:
                return {**answer.content, "replica": answer.peer.name}, ""
            if not answer.knows_nothing:
                silent.append(f"{answer.peer.name} ({answer.error})")
        return None, f"; no answer from {', '.join(silent)}" if silent else ""


def _leave_out_strange(found: FleetAnswers, merge: Callable[[Named], object]) -> None:
    """Leave out answers that cannot be merged: of a version further apart, or of what is no gateway."""
    for replica in found.replicas:
        answer = found.answers.get(replica["id"])
        if answer is None or replica["here"]:
            continue
        try:
            merge(answer)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            del found.answers[replica["id"]]
            replica["error"] = "its answer is not that of a gateway of this version"


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
