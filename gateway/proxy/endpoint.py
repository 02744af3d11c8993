"""The hook endpoint: what happens to a hook, as a list of steps.

A plain ASGI callable, without request and response objects: every hook takes this path.
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

from gateway.http.server.exchange import EXCHANGE, Exchange
from gateway.http.server.head import BadRequest
from gateway.http.server.state import Answer
from gateway.model.decision import Decision
from gateway.model.hooks import BadHookError, Hook, HookReader
from gateway.model.trace_context import Sampling
from gateway.model.verdicts import (
    ALLOW_STATUS,
    REJECT_STATUS,
    Cause,
    Failure,
    ProxyError,
    Reason,
    Ruling,
    Source,
    Verdict,
    duplicate_ruling,
    fallback_ruling,
    proxy_status,
    rule_ruling,
    static_ruling,
)
from gateway.policy.retry import MIN_LEFT
from gateway.proxy.context import HookContext, TracedHookContext
from gateway.proxy.dedupe import MIN_WAITING, Flight, OwnerLost, TooManyRepeats, WaitingRepeats, hook_key
from gateway.proxy.effects import Effects, KnownSessions
from gateway.proxy.limits import FleetLimits, Limits
from gateway.proxy.refusals import (
    RequestRefused,
    answer_bad_request,
    problem,
    read_body,
    read_method,
    unknown_app_answer,
)
from gateway.proxy.routes import Route
from gateway.proxy.runtime import Runtime, Snapshot
from gateway.proxy.sessions import Sessions, session_key
from gateway.proxy.spooling import Spooling
from gateway.store.client import EventKeeper
from gateway.upstreams import Outcome, Outgoing, Upstream

logger = logging.getLogger(__name__)

Listener = Callable[[Decision], None]

_CUT_OFF: Final = Failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "the gateway had to stop first")
_NO_VERDICT: Final = Failure(
    Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "the same hook, in flight at another worker, came to no verdict"
)
_TOO_MANY_REPEATS: Final = Failure(
    Cause.OVERLOAD, ProxyError.CONNECTION_LIMIT_REACHED, "too many repeats of hooks in flight wait for their verdicts"
)
_DEFECT: Final = Ruling(
    Verdict.REJECT, Source.GATEWAY, Reason.INTERNAL, REJECT_STATUS,
    proxy_status=proxy_status(ProxyError.PROXY_INTERNAL_ERROR), error="a defect of the gateway; its log says more",
)  # fmt: skip
_NO_STORE: Final = (b"cache-control", b"no-store")
"""A verdict is for this hook alone (RFC 9111, section 5.2.2.5)."""


class HookEndpoint:
    """Decides hooks: allow or reject, once each, in time; then publishes the decision to the *listeners*."""

    def __init__(
        self,
        runtime: Runtime,
        listeners: tuple[Listener, ...],
        sessions: KnownSessions | None = None,
        keeper: EventKeeper | None = None,
    ) -> None:
        """*keeper* keeps events for methods that spool; None where no store is configured."""
        self._runtime = runtime
        self._listeners = self._permanent_listeners = listeners
        self._tracers: tuple[Listener, ...] = ()
        self._recorders: tuple[Listener, ...] = ()
        self._historians: tuple[Listener, ...] = ()
        self._new_context: Callable[[Snapshot, float, Scope], HookContext] = HookContext
        self._loop = asyncio.get_running_loop()
        self._hook_reader = HookReader()
        self._limits = Limits(runtime) if runtime.shares is None else FleetLimits(runtime, runtime.shares)
        self._waiting = WaitingRepeats()
        self._has_other_workers = runtime.duplicates.claims is not None
        self._effects = Effects(Sessions() if sessions is None else sessions)
        self._spooling = Spooling(keeper)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one hook from its head to its answer."""
        context = self._new_context(self._runtime.snapshot, self._loop.time(), scope)
        exchange: Exchange | None = scope.get("extensions", {}).get(EXCHANGE)
        try:
            context.body = exchange.body if exchange is not None else await read_body(receive)
            hook = self._read_hook(context)
            route = _find_route(context, hook)
            ruling = None if route.is_plain else _apply_rules(context, route, hook)
            if ruling is None:
                upstream = context.snapshot.upstreams[context.upstream or ""]
                # Before duplicates are looked for: a hook that has come back through a loop would wait for itself.
                outgoing = context.outgoing(route, upstream)
                ruling = None if route.dedupe is None else self._find_duplicate(context, route)
                if ruling is None:
                    ruling = await self._ask(context, route, upstream, outgoing)
            if ruling.status != ALLOW_STATUS or ruling.annotations is not None or route.connects:
                ruling = self._effects.annotate(context, ruling)
        except RequestRefused as refusal:
            ruling = refusal.ruling
        except asyncio.CancelledError:  # the end of the drain: even now the hook gets its answer
            ruling = await self._cut_off(context)
        except Exception:
            logger.exception("a hook met a defect of the gateway", extra={"fields": {"request_id": context.request_id}})
            ruling = _DEFECT
        finally:
            context.leave()
        headers = _answer_headers(ruling, context.identity.request_id)
        if exchange is None or not exchange.answer(ruling.status, headers, ruling.body):
            await send({"type": "http.response.start", "status": ruling.status, "headers": headers})
            await send({"type": "http.response.body", "body": ruling.body})
        decision = self._publish(context, ruling)
        if context.route is not None and context.route.shadow is not None:
            prepare = partial(context.outgoing, context.route)
            self._runtime.shadows.offer(context.route.shadow, decision, context.outcome, prepare)

    # --- the steps, in call order ---

    def _read_hook(self, context: HookContext) -> Hook:
        """The hook that the request carries. Raises RequestRefused."""
        context.method_name = method = read_method(context.scope)
        context.method = context.snapshot.table.method_label(method)
        if context.received.coded:
            raise RequestRefused(problem(400, "a hook's body is plain JSON, not compressed"))
        try:
            context.hook = hook = self._hook_reader.read(context.body)
        except BadHookError as exc:
            raise RequestRefused(problem(400, str(exc))) from exc
        return hook

    def _find_duplicate(self, context: HookContext, route: Route) -> Ruling | None:
        """The verdict that the same hook got before; None: this one joins it in flight, or is the first."""
        duplicates, body = self._runtime.duplicates, context.body
        claims, method = duplicates.claims, context.method_name
        key = hook_key(method, body) if claims is None else claims.hook_key(method, body)
        try:
            earlier = duplicates.find(key, body, self._loop.time())
        except TooManyRepeats:
            return fallback_ruling(_TOO_MANY_REPEATS, route.fallback, body)
        if earlier is None:
            context.flight = duplicates.begin(key, body)
        elif isinstance(earlier, Ruling):
            return duplicate_ruling(earlier)
        else:
            context.original = earlier
        return None

    async def _ask(self, context: HookContext, route: Route, upstream: Upstream, outgoing: Outgoing) -> Ruling:
        """The verdict of the same hook in flight, else the backend's or the fallback, for all who join this one."""
        if context.original is not None:
            return await self._join(context, route, context.original)
        flight, tenant = context.flight, context.tenant
        if flight is not None and self._has_other_workers:
            elsewhere = await ask_other_workers(context, route, flight)
            if elsewhere is not None:
                return elsewhere
        self._limits.count(tenant, 1)
        try:
            result: Ruling | Failure | None = self._limits.exceeded(tenant, route, context.snapshot.max_in_flight)
            if route.spool is not None and result is None:
                result = self._spooling.behind(context)
            if result is None:
                budget = route.upstream_budget if route.first_budget is None else _first_budget(context, route)
                retry = upstream.retry if route.inherits_retry else route.retry
                outcome = await upstream.ask(outgoing, context.started + budget, retry)
                if route.failover and outcome.should_fail_over(route.failover_on):
                    outcome = await _ask_failover(context, route, outcome)
                context.outcome, result = outcome, outcome.result
            ruling = await self._stand_in(context, route, result) if isinstance(result, Failure) else result
            ruling = context.annotate(ruling)
            if flight is not None:
                was_seen = context.outcome is not None and context.outcome.seen
                flight.finish(ruling, self._loop.time(), route.dedupe if was_seen else None)
        except BaseException:
            if flight is not None:
                flight.leave()
            raise
        finally:
            self._limits.count(tenant, -1)
        return ruling

    async def _join(self, context: HookContext, route: Route, original: asyncio.Future[Ruling]) -> Ruling:
        """The verdict of the same hook, byte for byte, in flight here; repeats do not count as active hooks."""
        app = context.app
        if not self._waiting.enter(app, max(MIN_WAITING, context.snapshot.max_in_flight)):
            original.cancel()
            return fallback_ruling(_TOO_MANY_REPEATS, route.fallback, context.body)
        try:
            return duplicate_ruling(await original)
        except OwnerLost:
            return fallback_ruling(_CUT_OFF, route.fallback, context.body)
        finally:
            self._waiting.leave(app)

    async def _stand_in(self, context: HookContext, route: Route, failure: Failure) -> Ruling:
        """The answer in place of the backend's: the spool's for an event that it keeps, else the fallback's."""
        if route.spool is not None:
            return await self._spooling.keep(context, route, failure)
        return fallback_ruling(failure, route.fallback, context.body)

    async def _cut_off(self, context: HookContext) -> Ruling:
        """The ruling for a hook that the gateway's end cuts off."""
        route = context.route
        if route is None:
            return _DEFECT
        if route.spool is not None:
            return await self._spooling.keep_at_last(context, route, _CUT_OFF)
        ruling = fallback_ruling(_CUT_OFF, route.fallback, context.body)
        return self._effects.annotate(context, ruling)

    def _publish(self, context: HookContext, ruling: Ruling) -> Decision:
        """Build the decision and hand it to every listener."""
        decision = context.build(ruling)
        for listener in self._listeners:
            try:
                listener(decision)
            except Exception:
                logger.exception("a listener failed; its hook was answered all the same")
        return decision

    # --- what else the endpoint does ---

    async def settle(self) -> None:
        """At the end, when no hook is in flight any more: publish the decisions that still wait. Here, none do."""

    def trace_with(self, sampling: Sampling | None, listener: Listener | None) -> None:
        """Trace the hooks that *sampling* picks from now on, for the *listener* too; None: trace nothing."""
        self._new_context = HookContext if sampling is None else partial(TracedHookContext, sampling)
        self._tracers = () if listener is None else (listener,)
        self._join_listeners()

    def record_with(self, listener: Listener | None) -> None:
        """Hand every decision to this *listener* too from now on, to be recorded; None: record nothing."""
        self._recorders = () if listener is None else (listener,)
        self._join_listeners()

    def keep_with(self, listener: Listener | None) -> None:
        """Hand every decision to this *listener* too from now on, for the history; None: keep none."""
        self._historians = () if listener is None else (listener,)
        self._join_listeners()

    def _join_listeners(self) -> None:
        self._listeners = (*self._permanent_listeners, *self._tracers, *self._recorders, *self._historians)

    def refuse(self, refusal: BadRequest) -> Answer:
        """The answer to what never became a request; the front door asks for it, and writes it."""
        ruling, head = answer_bad_request(refusal), refusal.head
        scope = {"headers": head.headers if head is not None else (), "client": refusal.client}
        context = self._new_context(self._runtime.snapshot, self._loop.time(), scope)
        if head is not None:
            with contextlib.suppress(RequestRefused):
                context.method_name = read_method({"method": head.method, "raw_path": head.path})
                context.method = context.snapshot.table.method_label(context.method_name)
        self._publish(context, ruling)
        return Answer(ruling.status, _answer_headers(ruling, context.identity.request_id), ruling.body)


def _find_route(context: HookContext, hook: Hook) -> Route:
    """The route of the hook, which proves whose it is where it must. Raises RequestRefused."""
    found = context.snapshot.table.find(hook.app_key, context.method_name)
    if found is None:
        raise RequestRefused(unknown_app_answer(hook.app_key))
    tenant, route = found
    context.enter(tenant, route)
    if route.guard is not None:
        context.authenticate(route.guard)
    return route


def _apply_rules(context: HookContext, route: Route, hook: Hook) -> Ruling | None:
    """The verdict that needs no backend; None: the hook's upstream is chosen."""
    if route.rules is not None and (rule := route.rules.match_hook(hook, context.method_name, time.time())) is not None:
        context.rule = rule.name
        if rule.verdict is not None:
            context.upstream = None
            return rule_ruling(rule.verdict, context.body, rule.name)
        context.upstream = rule.upstream
    elif route.split is not None:
        # Without a session each hook goes its own way.
        context.upstream = route.split.choose(session_key(hook, context.method_name) or context.request_id)
        context.split = True
    return static_ruling(route.static or Verdict.REJECT, context.body) if context.upstream is None else None


async def ask_other_workers(context: HookContext, route: Route, flight: Flight) -> Ruling | None:
    """The verdict that another worker has of the same hook, or gets in time; None: this one is to ask."""
    try:
        ruling = await flight.await_other_worker(context.started + route.budget)
    except TimeoutError:
        flight.abandon(fallback := fallback_ruling(_NO_VERDICT, route.fallback, context.body))
        return fallback
    except BaseException:
        flight.leave()
        raise
    return None if ruling is None else duplicate_ruling(ruling)


def _first_budget(context: HookContext, route: Route) -> float:
    """Seconds for the first upstream, where others are to have time left."""
    is_alone = all(name == context.upstream for name in route.failover)
    return route.upstream_budget if is_alone or route.first_budget is None else route.first_budget


async def _ask_failover(context: HookContext, route: Route, outcome: Outcome) -> Outcome:
    """Ask the upstreams that may stand in for one that gave no verdict, one after the other."""
    first, causes, loop = context.upstream, route.failover_on, asyncio.get_running_loop()
    cause = outcome.result.cause if isinstance(outcome.result, Failure) else None
    others = [name for name in route.failover if name != first]
    deadline = context.started + route.upstream_budget
    for remaining, name in zip(range(len(others), 0, -1), others, strict=True):
        left = deadline - loop.time()
        if left < MIN_LEFT:
            break
        if Cause.TIMEOUT in causes:
            left /= remaining  # each its share: what a fast failure leaves over goes to those after it
        upstream = context.snapshot.upstreams[name]
        context.upstream, context.failed_over_from, context.failover_cause = name, first, cause
        context.split = False
        outgoing = context.outgoing(route, upstream).with_sent(outcome.attempts)
        retry = upstream.retry if route.inherits_retry else route.retry
        latest = await upstream.ask(outgoing, loop.time() + left, retry)
        outcome = outcome.merge_with(latest, name)
        if not latest.should_fail_over(causes):
            break
    return outcome


def _answer_headers(ruling: Ruling, request_id: bytes) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-length", b"%d" % len(ruling.body)), _NO_STORE, (b"x-request-id", request_id)]
    if ruling.content_type is not None:
        headers.append((b"content-type", ruling.content_type))
    if ruling.proxy_status is not None:
        headers.append((b"proxy-status", ruling.proxy_status))
    if ruling.challenge is not None:
        headers.append((b"www-authenticate", ruling.challenge))
    if ruling.status == 405:
        headers.append((b"allow", b"POST"))
    return headers
