"""The two Starlette applications, each built in one place."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import URLPath
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from gateway.admin import Admin, AdminState, Guard
from gateway.proxy import HookEndpoint


class _EveryPath(BaseRoute):
    """Leads all requests to one endpoint; a pattern of Starlette's would not match a line feed."""

    def __init__(self, endpoint: HookEndpoint) -> None:
        self._endpoint = endpoint

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return Match.FULL, {}

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._endpoint(scope, receive, send)


def hook_app(endpoint: HookEndpoint) -> Starlette:
    """What the media server talks to: every path leads to the one endpoint."""
    return Starlette(routes=[_EveryPath(endpoint)])


def admin_app(state: AdminState) -> Starlette:
    """What operators and Prometheus talk to."""
    return Starlette(routes=Admin(state).routes(), middleware=[Middleware(Guard, state=state)])
