"""The two Starlette applications, each built in one place."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.admin import console
from gateway.admin.api import Api
from gateway.admin.endpoints import Admin, AdminState, Guard
from gateway.admin.fleet_api import FleetApi
from gateway.admin.fleet_view import FleetView
from gateway.admin.overview import Overview
from gateway.admin.spool_api import SpoolApi
from gateway.proxy.endpoint import HookEndpoint


class _HookApp(Starlette):
    """Starlette without what no hook needs: every path leads to the one endpoint, which raises no exceptions.

    Router, error middleware and the calls between them would cost an eighth of a hook's CPU time. If the endpoint ever
    raises, the HTTP server logs it and closes the connection.
    """

    def __init__(self, endpoint: HookEndpoint) -> None:
        super().__init__()
        self._endpoint = endpoint

    def build_middleware_stack(self) -> ASGIApp:
        return self._endpoint

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        return self._endpoint(scope, receive, send)


def hook_app(endpoint: HookEndpoint) -> Starlette:
    """The application for the media server."""
    return _HookApp(endpoint)


def admin_app(state: AdminState) -> Starlette:
    """The application for operators and Prometheus."""
    overview = Overview(state.rpc, lambda: state.reloader.loaded)
    fleet = FleetApi(None if state.fleet is None else FleetView(state.fleet, state.reloader))
    routes = [
        *Admin(state, fleet).routes(),
        *Api(state, overview, fleet).routes(),
        *fleet.routes(),
        *SpoolApi(state).routes(),
        *console.routes(),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, state=state)])
