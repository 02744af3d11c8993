"""What is known of one hook, from its head to its answer."""

from __future__ import annotations

import time

from starlette.types import Scope

from gateway.model.decision import OTHER_METHOD, UNKNOWN_APP, Decision
from gateway.model.hooks import Hook
from gateway.model.trace_context import Sampling, Trace
from gateway.model.verdicts import ProxyError, Ruling
from gateway.policy.access import UnauthorizedError, signed
from gateway.proxy.refusals import RequestRefused, problem, unauthorized_answer
from gateway.proxy.routes import Route
from gateway.proxy.runtime import Snapshot
from gateway.proxy.tenants import Tenant
from gateway.upstreams import Outcome, Outgoing, Upstream
from gateway.upstreams.headers import Identity, LoopError, forward_headers, hook_header_lines, parse_head


class HookContext:
    """One hook so far."""

    __slots__ = (
        "began",
        "body",
        "failed_over_from",
        "failover_cause",
        "hook",
        "identity",
        "method",
        "method_name",
        "outcome",
        "received",
        "route",
        "rule",
        "scope",
        "snapshot",
        "started",
        "tenant",
        "upstream",
    )

    trace: Trace | None = None

    def __init__(self, snapshot: Snapshot, started: float, scope: Scope) -> None:
        self.snapshot = snapshot
        self.started = started  # loop time, for deadlines; uvloop's counts milliseconds
        self.began = time.perf_counter()  # for durations
        self.scope = scope
        self.received = received = parse_head(tuple(scope["headers"]))
        self.identity = received.identity()
        self.method = OTHER_METHOD
        self.method_name = ""
        self.body = b""
        self.hook: Hook | None = None
        self.route: Route | None = None
        self.rule: str | None = None
        self.upstream: str | None = None
        self.tenant: Tenant | None = None
        self.outcome: Outcome | None = None
        self.failed_over_from: str | None = None
        self.failover_cause: str | None = None

    @property
    def request_id(self) -> str:
        """The hook's, as its answer and its log line carry it."""
        return self.identity.request_id.decode("ascii")

    @property
    def app(self) -> str:
        """The configured name of its app; safe as a metric label."""
        return UNKNOWN_APP if self.tenant is None else self.tenant.name

    def enter(self, tenant: Tenant, route: Route) -> None:
        """The hook is inside: it counts among its app's."""
        self.tenant = tenant
        self.route = route
        self.upstream = route.upstream if route.split is None else None  # which of them, is not known yet
        if tenant.in_flight is not None:
            tenant.in_flight.inc()

    def leave(self) -> None:
        """The hook is decided."""
        if self.tenant is not None and self.tenant.in_flight is not None:
            self.tenant.in_flight.inc(-1.0)

    def prove(self) -> None:
        """Look whether the hook proves whose it is. Raises Refused."""
        route = self.route
        if route is None or route.guard is None:
            return
        try:
            route.guard.check(self.scope["headers"], self.body)
        except UnauthorizedError as exc:
            raise RequestRefused(unauthorized_answer(exc)) from exc

    def outgoing(self, route: Route, upstream: Upstream) -> Outgoing:
        """The hook as this upstream gets it. Raises Refused where it has been through this very gateway before."""
        scope, policy, received = self.scope, upstream.policy, self.received
        query: bytes = scope["query_string"]
        path = f"/{self.method_name}?{query.decode('latin-1')}" if query else f"/{self.method_name}"
        client = scope["client"]
        resigned = route.sign_with is not None
        try:
            head = forward_headers(received, policy, client[0] if client else None, scope["scheme"], resigned=resigned)
        except LoopError as exc:
            raise RequestRefused(problem(400, str(exc), error=ProxyError.PROXY_LOOP_DETECTED)) from exc
        head += hook_header_lines(self.identity)
        if route.sign_with is not None:
            head += b"%b: %b\r\n" % signed(self.body, route.sign_with)
        return Outgoing(path, policy.host(received), head, self.body, self.app, self.trace, 0, route.response_check)

    def annotate(self, ruling: Ruling) -> Ruling:
        """The ruling, annotated with the rule that chose the upstream and the upstream that gave no verdict."""
        if self.rule is None and self.failed_over_from is None:
            return ruling
        return ruling.annotate(
            rule=self.rule, failed_over_from=self.failed_over_from, failover_cause=self.failover_cause
        )

    def decision(self, ruling: Ruling) -> Decision:
        """The record of this hook's fate."""
        route, outcome, body = self.route, self.outcome, self.body
        duration = time.perf_counter() - self.began
        return Decision(
            ruling,
            time.time() - duration,
            self.identity.request_id.decode("ascii"),
            self.app,
            self.method,
            route.budget if route is not None and self.upstream is not None else None,
            duration,
            self.upstream,
            outcome.target if outcome is not None else None,
            outcome.attempts if outcome is not None else 0,
            outcome.duration if outcome is not None else 0.0,
            self.hook,
            outcome.began - self.began if outcome is not None else 0.0,
            outcome.story if outcome is not None else (),
            len(body) + (0 if ruling.body is body else len(ruling.body)),
            self.trace,
            body,
            self.method_name,
            route is not None
            and route.split is not None
            and self.upstream is not None
            and self.rule is None
            and self.failed_over_from is None,
            self.tenant,
        )


class TracedHookContext(HookContext):
    """The same where tracing is on."""

    __slots__ = ("trace",)

    def __init__(self, sampling: Sampling, snapshot: Snapshot, started: float, scope: Scope) -> None:
        super().__init__(snapshot, started, scope)
        request_id, traceparent = self.identity.request_id, self.identity.traceparent
        self.trace = trace = sampling.trace(traceparent, begins=self.received.traceparent is None)
        if trace is not None:
            self.identity = Identity(request_id, trace.traceparent())
