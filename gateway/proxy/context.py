"""What is known of one hook, from its head to its answer."""

from __future__ import annotations

import asyncio

from starlette.types import Scope

from gateway.model.decision import DecisionBuilder
from gateway.model.trace_context import Sampling, Trace
from gateway.model.verdicts import ProxyError, Ruling
from gateway.policy.access import UnauthorizedError
from gateway.proxy.dedupe import Flight
from gateway.proxy.refusals import RequestRefused, problem, unauthorized_answer
from gateway.proxy.routes import Guard, Route
from gateway.proxy.runtime import Snapshot
from gateway.proxy.tenants import Tenant
from gateway.upstreams import Outcome, Outgoing, Upstream
from gateway.upstreams.headers import Identity, LoopError, idempotency_line, parse_head
from gateway.upstreams.outgoing import build_outgoing


class HookContext(DecisionBuilder):
    """One hook, what applies to it and what has become of it so far."""

    __slots__ = (
        "failed_over_from",
        "failover_cause",
        "flight",
        "identity",
        "original",
        "received",
        "route",
        "rule",
        "scope",
        "snapshot",
        "started",
        "tenant",
    )

    outcome: Outcome | None

    def __init__(self, snapshot: Snapshot, started: float, scope: Scope) -> None:
        """*started*: loop time, for deadlines; uvloop's counts whole milliseconds, so durations have their own."""
        self.received = received = parse_head(tuple(scope["headers"]))
        self.identity = identity = received.identity()
        super().__init__(identity.request_id.decode("ascii"), scope.get("client"))
        self.snapshot = snapshot
        """In force when the hook came; it keeps it to its end."""
        self.started = started
        self.scope = scope
        self.route: Route | None = None
        self.tenant: Tenant | None = None
        self.rule: str | None = None
        """The name of the rule that matched."""
        self.failed_over_from: str | None = None
        self.failover_cause: str | None = None
        self.flight: Flight | None = None
        """Its own, for repeats of it to join."""
        self.original: asyncio.Future[Ruling] | None = None
        """The verdict of the same hook, in flight, that it has joined."""

    def enter(self, tenant: Tenant, route: Route) -> None:
        """Count the hook among its app's hooks, under this route."""
        self.tenant = self.app_cache = tenant
        self.app = tenant.name
        self.route = route
        self.budget = route.budget
        self.upstream = route.upstream if route.split is None else None  # a split has yet to choose
        if tenant.in_flight is not None:
            tenant.in_flight.inc()

    def leave(self) -> None:
        """Count it no longer: it is decided."""
        if self.tenant is not None and self.tenant.in_flight is not None:
            self.tenant.in_flight.inc(-1.0)

    def authenticate(self, guard: Guard) -> None:
        """Check that the hook comes from the app's media server. Raises RequestRefused."""
        try:
            guard.check(self.scope["headers"], self.body)
        except UnauthorizedError as exc:
            raise RequestRefused(unauthorized_answer(exc)) from exc

    def outgoing(self, route: Route, upstream: Upstream) -> Outgoing:
        """The hook as this upstream gets it. Raises RequestRefused where it has been through this gateway before."""
        try:
            outgoing = build_outgoing(self, upstream.policy, route.sign_with, route.response_check)
        except LoopError as exc:
            raise RequestRefused(problem(400, str(exc), error=ProxyError.PROXY_LOOP_DETECTED)) from exc
        if route.spool is None:
            return outgoing
        return outgoing.with_lines(idempotency_line(self.identity.request_id))

    def annotate(self, ruling: Ruling) -> Ruling:
        """The ruling, annotated with the rule that chose the upstream and the upstream that gave no verdict."""
        if self.rule is None and self.failed_over_from is None:
            return ruling
        return ruling.annotate(
            rule=self.rule, failed_over_from=self.failed_over_from, failover_cause=self.failover_cause
        )


class TracedHookContext(HookContext):
    """The same where tracing is on."""

    __slots__ = ("trace",)

    def __init__(self, sampling: Sampling, snapshot: Snapshot, started: float, scope: Scope) -> None:
        super().__init__(snapshot, started, scope)
        request_id, traceparent = self.identity.request_id, self.identity.traceparent
        self.trace: Trace | None = sampling.trace(traceparent, begins=self.received.traceparent is None)
        if self.trace is not None:
            self.identity = Identity(request_id, self.trace.traceparent())
