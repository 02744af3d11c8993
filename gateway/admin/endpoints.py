"""The admin port's endpoints: metrics, health, reload, the configuration in force. Never on the hook port."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import __version__
from gateway.admin import console
from gateway.admin.events import APP_COUNT_ERROR, DEFAULT_APPS, Events, no_events, parse_app_count
from gateway.admin.fleet_api import FleetApi, asks_fleet, is_fleet_path
from gateway.admin.fleet_merge import merge_activity, merge_hooks
from gateway.admin.lifecycle import Lifecycle, Phase
from gateway.admin.peer_auth import is_signed
from gateway.admin.reload import FailureReason, Reloader
from gateway.admin.rpc import FindDecisions, NoWorkers, WorkerRpc
from gateway.fleet.agent import FleetAgent
from gateway.http.client.resolver import is_address
from gateway.http.server.head import BadRequest
from gateway.http.server.state import Answer
from gateway.model.text import timestamp
from gateway.store.requests import StoreConnection
from gateway.telemetry.decision_view import DecisionFilter
from gateway.telemetry.metrics.exposition import CONTENT_TYPE

_SECURITY_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]

_OPEN_TO_ALL: Final = frozenset({"/-/healthy", "/-/ready"}) | console.PATHS
"""Readable from anywhere without a token. Load balancers and Kubernetes get one word, and a browser needs the console's
page, which contains no data, to ask for the token.
"""

_STATUS: Final = {
    None: 200,
    FailureReason.INVALID: 422,
    FailureReason.MASS_REMOVAL: 422,
    FailureReason.NOT_APPLIED: 500,
}
"""The HTTP status of a reload's answer."""
_MOST_TEXTS: Final = 100
"""The most warnings or problems in an answer."""


@dataclass(frozen=True)
class AdminState:
    """What the admin port needs from the gateway: one process, or a supervisor and its workers."""

    reloader: Reloader
    lifecycle: Lifecycle
    render_metrics: Callable[[], bytes]
    """Returns the metrics as Prometheus text; called in a thread."""
    worker_pids: Callable[[], list[int]] = lambda: [os.getpid()]
    rpc: WorkerRpc = field(default_factory=NoWorkers)
    """Sends requests to the processes that decide hooks."""
    events: Events = field(default_factory=no_events)
    listen: Sequence[str] = ()
    """The addresses of the hook port, as bound."""
    admin: str = ""
    """The address of the admin port."""
    store: StoreConnection | None = None
    """The store; None where none is configured."""
    fleet: FleetAgent | None = None
    """The fleet that this gateway is a member of; None where no state is configured."""


class Guard:
    """Checks access: loopback or the token; every POST needs the token, if one is configured, and so do whole numbers.

    Another gateway of the fleet may read what all views of the fleet show, if it has the same token. Liveness,
    readiness and the console's files are public.
    """

    def __init__(self, app: ASGIApp, state: AdminState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request, and add the security headers to its answer."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}  # the console's page has its own policy
                message["headers"] = [
                    *message["headers"],
                    *(header for header in _SECURITY_HEADERS if header[0] not in given),
                ]
            await send(message)

        error = self._error(scope)
        return await (error or self._app)(scope, receive, with_headers)

    def _error(self, scope: Scope) -> Response | None:
        if scope["path"] in _OPEN_TO_ALL and scope["method"] in ("GET", "HEAD"):
            return None
        configured = self._state.reloader.loaded.config.admin.token
        headers = dict(scope["headers"])
        if configured is not None and _has_token(scope["headers"], configured.get_secret_value()):
            return None
        if configured is not None and self._is_from_fleet(scope, headers, configured.get_secret_value()):
            return None
        client = scope["client"]
        if client is not None and not _is_loopback(client[0]):
            return _text_error(401, "send the admin token (Authorization: Bearer …); only loopback works without it")
        if b"host" in headers and not _is_local_name(headers[b"host"]):
            # A foreign web page can make its name resolve to loopback, but cannot change the Host header or omit it, as
            # the HTTP/1.0 health check of a load balancer does.
            return _text_error(403, "use 127.0.0.1 or localhost, or send the token")
        if scope["method"] in ("GET", "HEAD") and not _is_unmasked(scope):
            return None
        if configured is not None:
            return _text_error(401, "send the admin token (Authorization: Bearer …)")
        # Without a token, a web page open on this machine must still not control the gateway.
        if b"origin" in headers or b"sec-fetch-site" in headers:
            return _text_error(403, "not allowed from a browser without an admin token; set admin.token")
        return None

    def _is_from_fleet(self, scope: Scope, headers: Mapping[bytes, bytes], token: str) -> bool:
        """Whether it is a question of another gateway of the fleet, made for this one."""
        fleet = self._state.fleet
        if fleet is None or scope["method"] != "GET" or not is_fleet_path(scope["path"]):
            return False
        host = headers.get(b"host", b"")
        if host.decode("latin-1") != fleet.describe().admin:
            return False  # made for another gateway, and passed on
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        return is_signed(headers.get(b"authorization", b""), token, host, target, time.time())


def _has_token(headers: Iterable[tuple[bytes, bytes]], token: str) -> bool:
    values = [value for name, value in headers if name == b"authorization"]
    scheme, _, given = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode("utf-8"))


def _is_unmasked(scope: Scope) -> bool:
    """Whether a request is for numbers and bodies as they came."""
    path: str = scope["path"]
    return path == "/api/spool/export" or (path.startswith("/api/spool/events/") and scope["query_string"] != b"")


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _is_local_name(host: bytes) -> bool:
    name = host.decode("latin-1")
    name = name[1 : name.find("]")] if name.startswith("[") else name.partition(":")[0]
    return name.lower() == "localhost" or is_address(name)


def _text_error(status: int, text: str) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return PlainTextResponse(text + "\n", status, headers)


def plain_error(refusal: BadRequest) -> Answer:
    """The admin port's answer to an invalid request."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_SECURITY_HEADERS]
    return Answer(refusal.status, headers, f"{refusal.detail}\n".encode())


class Admin:
    """The endpoints."""

    def __init__(self, state: AdminState, fleet: FleetApi) -> None:
        self._state = state
        self._fleet = fleet

    def routes(self) -> list[BaseRoute]:
        """Paths and their handlers."""
        return [
            Route("/metrics", self.metrics),
            Route("/-/healthy", self.healthy),
            Route("/-/ready", self.ready),
            Route("/-/reload", self.reload, methods=["POST"]),
            Route("/api/status", self.status),
            Route("/api/config", self.config),
            Route("/api/activity", self.activity),
            Route("/api/events", self._state.events.respond),
        ]

    async def metrics(self, request: Request) -> Response:
        """The metrics, for Prometheus."""
        text = await asyncio.to_thread(self._state.render_metrics)
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    async def healthy(self, request: Request) -> Response:
        """Liveness: the process answers."""
        return PlainTextResponse("healthy\n")

    async def ready(self, request: Request) -> Response:
        """Readiness: whether a load balancer should send hooks here. A dead backend does not matter."""
        phase = self._state.lifecycle.phase
        return PlainTextResponse(f"{phase}\n", 200 if phase is Phase.READY else 503)

    async def reload(self, request: Request) -> Response:
        """Reload the configuration: 200 with the changes; 422 or 500 with the problems if nothing changed.

        500 means that the file is valid but could not be applied.
        """
        report = await self._state.reloader.reload("admin")
        return JSONResponse(report.as_json(), _STATUS[report.reason])

    async def status(self, request: Request) -> Response:
        """Version, processes, uptime and configuration; of all gateways with ``fleet=true``."""
        if asks_fleet(request):
            return await self._fleet.status(self._status, merge_hooks)
        return JSONResponse(await self._status())

    async def _status(self) -> dict[str, Any]:
        reloader = self._state.reloader
        loaded, report = reloader.loaded, reloader.last_report
        activity = await self._state.events.sampler.activity()
        replies = await self._state.rpc.ask(FindDecisions(DecisionFilter(until=0.0)))
        return {
            "version": __version__,
            "python": platform.python_version(),
            "workers": self._state.worker_pids(),
            "phase": self._state.lifecycle.phase,
            "started": timestamp(self._state.lifecycle.started_at),
            "uptime_seconds": round(time.time() - self._state.lifecycle.started_at, 3),
            "config": {
                "path": str(loaded.path),
                "apps": len(loaded.config.apps),
                "upstreams": len(loaded.config.upstreams),
                "last_reload_successful": self._state.reloader.last_successful,
                "loaded": timestamp(self._state.reloader.loaded_at),
            },
            "listen": list(self._state.listen),
            "admin": self._state.admin,
            "draining": self._state.lifecycle.phase is Phase.DRAINING,
            "hooks": activity.hooks_as_json(),
            "state": None if self._state.fleet is None else self._state.fleet.status(),
            "journal": {"held": sum(found.held for found in replies.by_pid.values())},
            "warnings": [str(warning) for warning in loaded.warnings[:_MOST_TEXTS]],
            "last_reload": {
                "time": timestamp(reloader.last_at),
                "successful": report.successful,
                "reason": report.reason,
                "problems": [str(problem) for problem in report.problems[:_MOST_TEXTS]],
                "changes": list(report.changes),
            },
        }

    async def activity(self, request: Request) -> Response:
        """The current activity per app; of all gateways with ``fleet=true``."""
        most = parse_app_count(request.query_params.get("apps", str(DEFAULT_APPS)))
        if most is None:
            return PlainTextResponse(APP_COUNT_ERROR, 400)
        if asks_fleet(request):
            merge = partial(merge_activity, most=most)
            return await self._fleet.merged(request, partial(self._activity, most), merge)
        return JSONResponse(await self._activity(most))

    async def _activity(self, most: int) -> dict[str, Any]:
        activity = await self._state.events.sampler.activity()
        return await asyncio.to_thread(activity.as_json, most)

    async def config(self, request: Request) -> Response:
        """The current configuration as it was written, with secrets masked."""
        return JSONResponse(self._state.reloader.loaded.masked)
