"""The hook endpoint: a hook's life, told as a list of steps.

A plain ASGI callable, without request and response objects: this is the path that every call takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from starlette.types import Receive, Scope, Send

from gateway.access import UnauthorizedError, signed
from gateway.dedupe import OwnerLost
from gateway.forwarding import CompiledPolicy, Identity, LoopError, Received, forwarded, own_lines, read
from gateway.front.head import BadRequest
from gateway.front.protocol import Answer
from gateway.hooks import BadHookError, Hook, parse_hook
from gateway.metrics.catalogue import UNKNOWN_APP
from gateway.metrics.cells import Value
from gateway.requests import (
    Refused,
    body_of,
    method_of,
    problem,
    refused_at_the_door,
    unauthorized,
    unknown_app,
)
from gateway.routing import OTHER_METHOD, Guard, Route
from gateway.runtime import Runtime, Snapshot
from gateway.tracecontext import Sampling, Trace
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
    as_duplicate,
    by_fallback,
    by_static,
    proxy_status,
)

logger = logging.getLogger(__name__)

Listener = Callable[[Decision], None]

_CUT_OFF: Final = Failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "the gateway had to stop first")
_TOO_MANY: Final = Failure(
    Cause.OVERLOAD, ProxyError.CONNECTION_LIMIT_REACHED, "server.max_in_flight hooks are inside the gateway already"
)
_TOO_MANY_OF_APP: Final = Failure(
    Cause.OVERLOAD, ProxyError.CONNECTION_LIMIT_REACHED, "the app's max_in_flight hooks are inside already"
)
_DEFECT: Final = Ruling(
    Verdict.REJECT, Source.GATEWAY, Reason.INTERNAL, REJECT_STATUS,
    proxy_status=proxy_status(ProxyError.PROXY_INTERNAL_ERROR), error="a defect of the gateway; its log says more",
)  # fmt: skip


class HookEndpoint:
    """Decides hooks: allow or reject, once each, in time; then tells the *listeners*."""

    def __init__(self, runtime: Runtime, listeners: tuple[Listener, ...]) -> None:
        self._runtime = runtime
        self._listeners = self._always_told = listeners
        self._life_of: Callable[[Snapshot, float, Received], _Life] = _Life
        self._loop = asyncio.get_running_loop()
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One hook, from its head to its answer."""
        life = self._life_of(self._runtime.snapshot, self._loop.time(), read(tuple(scope["headers"])))
        self._inside += 1
        try:
            ruling = await self._decide(life, scope, receive)
        except Refused as refusal:
            ruling = refusal.ruling
        except asyncio.CancelledError:  # the end of the drain: even now the hook gets its answer
            fallback = life.route.fallback if life.route is not None else None
            ruling = _DEFECT if fallback is None else by_fallback(_CUT_OFF, fallback, life.body)
        except Exception:
            logger.exception("a hook met a defect of the gateway", extra={"fields": {"request_id": life.request_id}})
            ruling = _DEFECT
        finally:
            self._inside -= 1
            life.leave()
        headers = _answer_headers(ruling, life.identity.request_id)
        await send({"type": "http.response.start", "status": ruling.status, "headers": headers})
        await send({"type": "http.response.body", "body": ruling.body})
        self._tell(life, ruling)

    def trace_with(self, sampling: Sampling | None, listener: Listener | None) -> None:
        """From now on trace the hooks that *sampling* picks, and tell *listener* too; None: trace nothing."""
        self._life_of = _Life if sampling is None else partial(_TracedLife, sampling)
        self._listeners = self._always_told if listener is None else (*self._always_told, listener)

    def refuse(self, refusal: BadRequest) -> Answer:
        """The answer to what never became a request; the front door asks for it, and writes it."""
        ruling, head = refused_at_the_door(refusal), refusal.head
        life = self._life_of(self._runtime.snapshot, self._loop.time(), read(head.headers if head is not None else ()))
        if head is not None:
            with contextlib.suppress(Refused):
                method = method_of({"method": head.method, "raw_path": head.path})
                life.method = life.snapshot.table.method_label(method)
        self._tell(life, ruling)
        return Answer(ruling.status, _answer_headers(ruling, life.identity.request_id), ruling.body)

    async def _decide(self, life: _Life, scope: Scope, receive: Receive) -> Ruling:
        snapshot = life.snapshot
        method = method_of(scope)
        life.method = snapshot.table.method_label(method)
        life.body = body = await body_of(receive, coded=life.received.coded)
        life.hook = hook = _parsed(body)
        route = snapshot.table.find(hook.app_key, method)
        if route is None:
            raise Refused(unknown_app(hook.app_key))
        life.enter(route)
        if route.guard is not None:
            _check(route.guard, scope, body)
        if route.upstream is None:
            return by_static(route.static or Verdict.REJECT, body)
        upstream = snapshot.upstreams[route.upstream]
        # Before duplicates are looked for: a hook that has come back through a loop would wait for itself.
        outgoing = _outgoing(scope, method, upstream.policy, life, route)
        if route.dedupe is None:
            return await self._ask(life, route, upstream, outgoing)
        return await self._ask_once(life, route, method, upstream, outgoing)

    async def _ask_once(self, life: _Life, route: Route, method: str, upstream: Upstream, outgoing: Outgoing) -> Ruling:
        """The verdict of the same hook, byte for byte, that is in flight or was decided lately; else ask."""
        duplicates = self._runtime.duplicates
        key = (method, life.body)
        earlier = duplicates.find(key, self._loop.time())
        if isinstance(earlier, Ruling):
            return as_duplicate(earlier)
        if earlier is not None:
            try:
                return as_duplicate(await earlier)
            except OwnerLost:
                return by_fallback(_CUT_OFF, route.fallback, life.body)
        flight = duplicates.begin(key)
        try:
            ruling = await self._ask(life, route, upstream, outgoing)
            seen = life.outcome is not None and life.outcome.seen
            flight.finish(ruling, self._loop.time(), route.dedupe if seen else None)
        except BaseException:
            flight.leave()
            raise
        return ruling

    async def _ask(self, life: _Life, route: Route, upstream: Upstream, outgoing: Outgoing) -> Ruling:
        """The backend's verdict, or the one that stands in for it."""
        if (excess := life.excess(self._inside)) is not None:
            return by_fallback(excess, route.fallback, life.body)
        life.outcome = outcome = await upstream.ask(outgoing, life.started + route.budget, route.retry)
        if isinstance(outcome.result, Failure):
            return by_fallback(outcome.result, route.fallback, life.body)
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

    __slots__ = (
        "began",
        "body",
        "hook",
        "identity",
        "in_flight",
        "method",
        "outcome",
        "received",
        "route",
        "snapshot",
        "started",
    )

    trace: Trace | None = None

    def __init__(self, snapshot: Snapshot, started: float, received: Received) -> None:
        self.snapshot = snapshot
        self.started = started  # loop time, for deadlines; uvloop's counts milliseconds
        self.began = time.perf_counter()  # for durations
        self.received = received
        self.identity = received.identity()
        self.method = OTHER_METHOD
        self.body = b""
        self.hook: Hook | None = None
        self.route: Route | None = None
        self.in_flight: Value | None = None
        self.outcome: Outcome | None = None

    @property
    def request_id(self) -> str:
        return self.identity.request_id.decode("ascii")

    def enter(self, route: Route) -> None:
        """The hook is inside: it counts among its app's."""
        self.route = route
        self.in_flight = in_flight = self.snapshot.in_flight[route.app]
        in_flight.inc()

    def leave(self) -> None:
        """The hook is decided."""
        if self.in_flight is not None:
            self.in_flight.inc(-1.0)

    def excess(self, inside: int) -> Failure | None:
        """The limit that this hook is one too many for, if there is one; *inside* counts all hooks."""
        route, in_flight = self.route, self.in_flight
        if inside > self.snapshot.max_in_flight:
            return _TOO_MANY
        if route is None or route.max_in_flight is None or in_flight is None:
            return None
        return _TOO_MANY_OF_APP if in_flight.get() > route.max_in_flight else None

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
            self.hook,
            outcome.began - self.began if outcome is not None else 0.0,
            outcome.story if outcome is not None else (),
            len(self.body) + (0 if ruling.body is self.body else len(ruling.body)),
            trace=self.trace,
        )


class _TracedLife(_Life):
    """The same where tracing is on."""

    __slots__ = ("trace",)

    def __init__(self, sampling: Sampling, snapshot: Snapshot, started: float, received: Received) -> None:
        super().__init__(snapshot, started, received)
        request_id, traceparent = self.identity.request_id, self.identity.traceparent
        self.trace = trace = sampling.trace(traceparent, begins=received.traceparent is None)
        if trace is not None:
            self.identity = Identity(request_id, trace.traceparent())


def _check(guard: Guard, scope: Scope, body: bytes) -> None:
    try:
        guard.check(scope["headers"], body)
    except UnauthorizedError as exc:
        raise Refused(unauthorized(exc)) from exc


def _parsed(body: bytes) -> Hook:
    try:
        return parse_hook(body)
    except BadHookError as exc:
        raise Refused(problem(400, str(exc))) from exc


def _outgoing(scope: Scope, method: str, policy: CompiledPolicy, life: _Life, route: Route) -> Outgoing:
    query: bytes = scope["query_string"]
    path = f"/{method}?{query.decode('latin-1')}" if query else f"/{method}"
    client = scope["client"]
    resigned = route.sign_with is not None
    try:
        head = forwarded(life.received, policy, client[0] if client else None, scope["scheme"], resigned=resigned)
    except LoopError as exc:
        raise Refused(problem(400, str(exc), error=ProxyError.PROXY_LOOP_DETECTED)) from exc
    head += own_lines(life.identity)
    if route.sign_with is not None:
        head += b"%b: %b\r\n" % signed(life.body, route.sign_with)
    return Outgoing(path, policy.host(life.received), head, life.body, route.app, life.trace)


def _answer_headers(ruling: Ruling, request_id: bytes) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-length", b"%d" % len(ruling.body)), (b"x-request-id", request_id)]
    if ruling.content_type is not None:
        headers.append((b"content-type", ruling.content_type))
    if ruling.proxy_status is not None:
        headers.append((b"proxy-status", ruling.proxy_status))
    if ruling.challenge is not None:
        headers.append((b"www-authenticate", ruling.challenge))
    if ruling.status == 405:
        headers.append((b"allow", b"POST"))
    return headers
