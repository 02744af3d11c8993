"""The two Starlette applications, each built in one place."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from gateway.admin import Admin, Guard
from gateway.lifecycle import Lifecycle
from gateway.proxy import HookEndpoint, Listener
from gateway.runtime import Runtime


def hook_app(runtime: Runtime, listeners: tuple[Listener, ...]) -> Starlette:
    """What the media server talks to: every path leads to the one endpoint."""
    return Starlette(routes=[Mount("", app=HookEndpoint(runtime, listeners))])


def admin_app(runtime: Runtime, lifecycle: Lifecycle) -> Starlette:
    """What operators and Prometheus talk to."""
    return Starlette(routes=Admin(runtime, lifecycle).routes(), middleware=[Middleware(Guard, runtime=runtime)])
