"""The admin port's endpoints: metrics, health, reload, the configuration in force. Never on the hook port."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import __version__
from gateway.admin import console
from gateway.admin.events import APPS_WANTED, DEFAULT_APPS, Events, number_of_apps, silence
from gateway.admin.lifecycle import Lifecycle, Phase
from gateway.admin.reload import FailureReason, Reloader
from gateway.admin.rpc import FindDecisions, NoWorkers, WorkerRpc
from gateway.http.client.resolver import is_address
from gateway.http.server.head import BadRequest
from gateway.http.server.state import Answer
from gateway.model.text import timestamp
from gateway.telemetry.journal import DecisionFilter
from gateway.telemetry.metrics.exposition import CONTENT_TYPE

_SECURITY_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]

_OPEN_TO_ALL: Final = frozenset({"/-/healthy", "/-/ready"}) | console.PATHS
"""Read without a token from anywhere: balancers and Kubernetes ask from elsewhere, and learn one word; and a browser
needs the console's page, which tells nothing of this gateway, to ask its user for the token.
"""

_STATUS: Final = {
    None: 200,
    FailureReason.INVALID: 422,
    FailureReason.MASS_REMOVAL: 422,
    FailureReason.NOT_APPLIED: 500,
}
"""Of a reload's answer."""
_MOST_TEXTS: Final = 100
"""Warnings, or problems, told at most."""


@dataclass(frozen=True)
class AdminState:
    """What the admin port speaks for: one process, or a supervisor and its workers."""

    reloader: Reloader
    lifecycle: Lifecycle
    render_metrics: Callable[[], bytes]
    """Prometheus's text; called in a thread."""
    worker_pids: Callable[[], list[int]] = lambda: [os.getpid()]
    rpc: WorkerRpc = field(default_factory=NoWorkers)
    """Sends requests to the processes that decide hooks."""
    events: Events = field(default_factory=silence)
    listen: Sequence[str] = ()
    """Where hooks are taken, by the addresses that were really got."""
    admin: str = ""
    """Where this port is."""


class Guard:
    """Lets in who is on loopback or has the token; POST asks everyone for the token where there is one.

    Whether the process lives and takes hooks is told to all, and the console's files are given to all.
    """

    def __init__(self, app: ASGIApp, state: AdminState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request, and add the security headers to whatever answers it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}  # the console's page has a policy of its own
                message["headers"] = [
                    *message["headers"],
                    *(header for header in _SECURITY_HEADERS if header[0] not in given),
                ]
            await send(message)

        refusal = self._refusal(scope)
        return await (refusal or self._app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["path"] in _OPEN_TO_ALL and scope["method"] in ("GET", "HEAD"):
            return None
        configured = self._state.reloader.loaded.config.admin.token
        headers = dict(scope["headers"])
        if configured is not None and _has_token(scope["headers"], configured.get_secret_value()):
            return None
        client = scope["client"]
        if client is not None and not _is_loopback(client[0]):
            return _say(401, "the admin port asks for its token (Authorization: Bearer …) from all but loopback")
        if b"host" in headers and not _is_local_name(headers[b"host"]):
            # A web page elsewhere can have its name resolve to loopback; it cannot choose the Host that is sent, nor
            # leave it out, as the HTTP/1.0 of a balancer's health check does.
            return _say(403, "from loopback without a token, ask by address or as localhost")
        if scope["method"] in ("GET", "HEAD"):
            return None
        if configured is not None:
            return _say(401, "this asks for the admin token (Authorization: Bearer …)")
        # Without a token, a web page open on this machine must still not be able to steer the gateway.
        if b"origin" in headers or b"sec-fetch-site" in headers:
            return _say(403, "browsers may not do this without an admin token; set admin.token")
        return None


def _has_token(headers: Iterable[tuple[bytes, bytes]], token: str) -> bool:
    values = [value for name, value in headers if name == b"authorization"]
    scheme, _, given = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode("utf-8"))


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


def _say(status: int, text: str) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return PlainTextResponse(text + "\n", status, headers)


def refuse_plainly(refusal: BadRequest) -> Answer:
    """The admin port's answer to what is no request."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_SECURITY_HEADERS]
    return Answer(refusal.status, headers, f"{refusal.detail}\n".encode())


class Admin:
    """The endpoints."""

    def __init__(self, state: AdminState) -> None:
        self._state = state

    def routes(self) -> list[BaseRoute]:
        """Paths and who answers them."""
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
        """Everything counted, for Prometheus."""
        text = await asyncio.to_thread(self._state.render_metrics)
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    async def healthy(self, request: Request) -> Response:
        """The process lives."""
        return PlainTextResponse("healthy\n")

    async def ready(self, request: Request) -> Response:
        """Whether a balancer should send hooks here; a dead backend is no reason not to."""
        phase = self._state.lifecycle.phase
        return PlainTextResponse(f"{phase}\n", 200 if phase is Phase.READY else 503)

    async def reload(self, request: Request) -> Response:
        """Load the configuration again: 200 with what changed; with nothing changed, 422 or 500 with the problems.

        500 where the file is right, as far as can be seen, and could not be put in force.
        """
        report = await self._state.reloader.reload("admin")
        return JSONResponse(report.as_json(), _STATUS[report.reason])

    async def status(self, request: Request) -> Response:
        """What runs, since when, with which configuration."""
        reloader = self._state.reloader
        loaded, report = reloader.loaded, reloader.last_report
        activity = await self._state.events.sampler.activity()
        replies = await self._state.rpc.ask(FindDecisions(DecisionFilter(until=0.0)))
        return JSONResponse(
            {
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
        )

    async def activity(self, request: Request) -> Response:
        """What is being decided now, per app."""
        most = number_of_apps(request.query_params.get("apps", str(DEFAULT_APPS)))
        if most is None:
            return PlainTextResponse(APPS_WANTED, 400)
        activity = await self._state.events.sampler.activity()
        return JSONResponse(await asyncio.to_thread(activity.as_json, most))

    async def config(self, request: Request) -> Response:
        """The configuration in force, as it was written, secrets masked."""
        return JSONResponse(self._state.reloader.loaded.masked)
