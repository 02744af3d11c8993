"""The hook endpoint: a hook's life, told as a list of steps.

A plain ASGI callable, without request and response objects: this is the path that every call takes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from starlette.types import Receive, Scope, Send

from gateway.forwarding import Headers, Identity, LoopError, forwarded, identify
from gateway.hooks import BadHookError, parse_hook
from gateway.metrics.catalogue import UNKNOWN_APP
from gateway.requests import ClientLeftError, Refused, method_of, problem, read_body, unknown_app
from gateway.routing import OTHER_METHOD, Route
from gateway.runtime import Runtime, Snapshot
from gateway.upstreams import Outcome, Outgoing, Upstream
from gateway.verdicts import (
    REJECT_STATUS,
    Cause,
    Decision,
    Failure,
    ProxyError,
    Reason,
    Ruling,
    Source,
    Verdict,
    by_fallback,
    by_static,
    proxy_status,
)

logger = logging.getLogger(__name__)

Listener = Callable[[Decision], None]

_CLIENT_LEFT_STATUS: Final = 499
"""In the log only, as nginx writes it: nobody was there to be answered."""
_SHUTTING_DOWN: Final = Failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "the gateway had to stop first")
_DEFECT: Final = Ruling(
    Verdict.REJECT, Source.GATEWAY, Reason.INTERNAL, REJECT_STATUS,
    proxy_status=proxy_status(ProxyError.PROXY_INTERNAL_ERROR), error="a defect of the gateway; its log says more",
)  # fmt: skip


class HookEndpoint:
    """Decides hooks: allow or reject, once each, in time; then tells the *listeners*."""

    def __init__(self, runtime: Runtime, listeners: tuple[Listener, ...]) -> None:
        self._runtime = runtime
        self._listeners = listeners
        self._loop = asyncio.get_running_loop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One hook, from its head to its answer."""
        life = _Life(self._runtime.snapshot, self._loop.time(), identify(scope["headers"]))
        close = False
        try:
            ruling = await self._decide(life, scope, receive)
        except Refused as refusal:
            ruling, close = refusal.ruling, refusal.close
        except ClientLeftError:
            ruling = problem(400, "the client left before its request was whole")
            return self._tell(life, ruling._replace(status=_CLIENT_LEFT_STATUS))
        except asyncio.CancelledError:  # the end of the drain: even now the hook gets its answer
            fallback = life.route.fallback if life.route is not None else None
            ruling = _DEFECT if fallback is None else by_fallback(_SHUTTING_DOWN, fallback, life.body)
        except Exception:
            logger.exception("a hook met a defect of the gateway", extra={"fields": {"request_id": life.request_id}})
            ruling = _DEFECT
        finally:
            life.leave()
        await _answer(send, ruling, life.identity.request_id, close=close)
        return self._tell(life, ruling)

    async def _decide(self, life: _Life, scope: Scope, receive: Receive) -> Ruling:
        snapshot = life.snapshot
        server = snapshot.config.server
        method = method_of(scope)
        life.method = snapshot.table.method_label(method)
        life.body = body = await read_body(scope, receive, server.max_body, server.read_timeout)
        app_key = _app_key(body)
        route = snapshot.table.find(app_key, method)
        if route is None:
            raise Refused(unknown_app(app_key))
        life.enter(route)
        if route.upstream is None:
            return by_static(route.static or Verdict.REJECT, body)
        upstream = snapshot.upstreams[route.upstream]
        outgoing = Outgoing(_path(method, scope), _headers(scope, upstream, life.identity), body)
        life.outcome = outcome = await upstream.ask(outgoing, life.started + route.budget)
        if isinstance(outcome.result, Failure):
            return by_fallback(outcome.result, route.fallback, body)
        return outcome.result

    def _tell(self, life: _Life, ruling: Ruling) -> None:
        decision = life.decision(ruling)
        for listener in self._listeners:
            try:
                listener(decision)
            except Exception:
                logger.exception("a listener failed; its hook was answered all the same")


class _Life:
    """What is known of one hook so far."""

    __slots__ = ("began", "body", "identity", "method", "outcome", "route", "snapshot", "started")

    def __init__(self, snapshot: Snapshot, started: float, identity: Identity) -> None:
        self.snapshot = snapshot
        self.started = started  # loop time, for deadlines; uvloop's counts milliseconds
        self.began = time.perf_counter()  # for durations
        self.identity = identity
        self.method = OTHER_METHOD
        self.body = b""
        self.route: Route | None = None
        self.outcome: Outcome | None = None

    @property
    def request_id(self) -> str:
        return self.identity.request_id.decode("ascii")

    def enter(self, route: Route) -> None:
        self.route = route
        self.snapshot.in_flight[route.app].inc()

    def leave(self) -> None:
        if self.route is not None:
            self.snapshot.in_flight[self.route.app].inc(-1.0)

    def decision(self, ruling: Ruling) -> Decision:
        route, outcome = self.route, self.outcome
        duration = time.perf_counter() - self.began
        return Decision(
            ruling,
            time.time() - duration,
            self.request_id,
            route.app if route is not None else UNKNOWN_APP,
            self.method,
            route.budget if route is not None and route.upstream is not None else None,
            duration,
            route.upstream if route is not None else None,
            outcome.target if outcome is not None else None,
            outcome.attempts if outcome is not None else 0,
            outcome.duration if outcome is not None else 0.0,
            self.body,
        )


def _app_key(body: bytes) -> str:
    try:
        return parse_hook(body).app_key
    except BadHookError as exc:
        raise Refused(problem(400, str(exc))) from exc


def _path(method: str, scope: Scope) -> str:
    query: bytes = scope["query_string"]
    return f"/{method}?{query.decode('latin-1')}" if query else f"/{method}"


def _headers(scope: Scope, upstream: Upstream, identity: Identity) -> Headers:
    client = scope["client"]
    try:
        return forwarded(
            scope["headers"], upstream.policy, identity, client[0] if client else None,
            scope["scheme"], upstream.target.host_header,
        )  # fmt: skip
    except LoopError as exc:
        raise Refused(problem(400, str(exc), error=ProxyError.PROXY_LOOP_DETECTED)) from exc


async def _answer(send: Send, ruling: Ruling, request_id: bytes, *, close: bool) -> None:
    headers = [(b"content-length", b"%d" % len(ruling.body)), (b"x-request-id", request_id)]
    if ruling.content_type is not None:
        headers.append((b"content-type", ruling.content_type))
    if ruling.proxy_status is not None:
        headers.append((b"proxy-status", ruling.proxy_status))
    if ruling.status == 405:
        headers.append((b"allow", b"POST"))
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": ruling.status, "headers": headers})
    await send({"type": "http.response.body", "body": ruling.body})
