"""The hook endpoint: a hook's life, told as a list of steps.

A plain ASGI callable, without request and response objects: this is the path that every call takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from gateway.http.server.exchange import EXCHANGE, Exchange
from gateway.http.server.head import BadRequest
from gateway.http.server.state import Answer
from gateway.model.decision import Decision
from gateway.model.hooks import BadHookError, Hook, HookReader, method_type
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
from gateway.policy.rest_client_config import examine, excluded_fields, ignored_fields, ineffective, session_settings
from gateway.policy.retry import MIN_LEFT
from gateway.proxy.context import HookContext, TracedHookContext
from gateway.proxy.dedupe import MIN_WAITING, Flight, OwnerLost, TooManyRepeats, WaitingRepeats, hook_key
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
from gateway.proxy.tenants import Tenant
from gateway.upstreams import Outcome, Outgoing, Upstream

logger = logging.getLogger(__name__)

Listener = Callable[[Decision], None]

_CUT_OFF: Final = Failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "the gateway had to stop first")
_TOO_MANY: Final = Failure(
    Cause.OVERLOAD, ProxyError.CONNECTION_LIMIT_REACHED, "server.max_in_flight hooks are inside the gateway already"
)
_TOO_MANY_OF_APP: Final = Failure(
    Cause.OVERLOAD, ProxyError.CONNECTION_LIMIT_REACHED, "the app's max_in_flight hooks are inside already"
)
_TOO_FAST: Final = Failure(
    Cause.OVERLOAD, ProxyError.CONNECTION_LIMIT_REACHED, "the app's hooks come faster than its rate_limit"
)
_NO_WORD: Final = Failure(
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
    """Decides hooks: allow or reject, once each, in time; then tells the *listeners*."""

    def __init__(self, runtime: Runtime, listeners: tuple[Listener, ...], sessions: Sessions | None = None) -> None:
        self._runtime = runtime
        self._listeners = self._always_told = listeners
        self._traced: tuple[Listener, ...] = ()
        self._recorded: tuple[Listener, ...] = ()
        self._sessions = Sessions() if sessions is None else sessions
        self._life_of: Callable[[Snapshot, float, Scope], HookContext] = HookContext
        self._loop = asyncio.get_running_loop()
        self._asking = 0
        """Hooks that a backend is asked for: each has a place under the limits."""
        self._waiting = WaitingRepeats()
        self._hook_reader = HookReader()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One hook, from its head to its answer."""
        life = self._life_of(self._runtime.snapshot, self._loop.time(), scope)
        exchange: Exchange | None = scope.get("extensions", {}).get(EXCHANGE)
        try:
            life.body = exchange.body if exchange is not None else await read_body(receive)
            step = self._decide(life)
            ruling = step if isinstance(step, Ruling) else await step
            if (
                ruling.status != ALLOW_STATUS
                or ruling.annotations is not None
                or (life.route is not None and life.route.connects)
            ):
                ruling = self._weighed(life, ruling)
        except RequestRefused as refusal:
            ruling = refusal.ruling
        except asyncio.CancelledError:  # the end of the drain: even now the hook gets its answer
            fallback = life.route.fallback if life.route is not None else None
            ruling = _DEFECT
            if fallback is not None:
                ruling = self._weighed(life, fallback_ruling(_CUT_OFF, fallback, life.body))
        except Exception:
            logger.exception("a hook met a defect of the gateway", extra={"fields": {"request_id": life.request_id}})
            ruling = _DEFECT
        finally:
            life.leave()
        headers = _answer_headers(ruling, life.identity.request_id)
        if exchange is None or not exchange.answer(ruling.status, headers, ruling.body):
            await send({"type": "http.response.start", "status": ruling.status, "headers": headers})
            await send({"type": "http.response.body", "body": ruling.body})
        decision = self._tell(life, ruling)
        if life.route is not None and life.route.shadow is not None:
            self._runtime.shadows.offer(life.route.shadow, decision, life.outcome, partial(life.outgoing, life.route))

    def trace_with(self, sampling: Sampling | None, listener: Listener | None) -> None:
        """From now on trace the hooks that *sampling* picks, and tell *listener* too; None: trace nothing."""
        self._life_of = HookContext if sampling is None else partial(TracedHookContext, sampling)
        self._traced = () if listener is None else (listener,)
        self._listeners = (*self._always_told, *self._traced, *self._recorded)

    def record_with(self, listener: Listener | None) -> None:
        """From now on tell *listener* of every hook that is to be recorded; None: record nothing."""
        self._recorded = () if listener is None else (listener,)
        self._listeners = (*self._always_told, *self._traced, *self._recorded)

    def refuse(self, refusal: BadRequest) -> Answer:
        """The answer to what never became a request; the front door asks for it, and writes it."""
        ruling, head = answer_bad_request(refusal), refusal.head
        scope = {"headers": head.headers if head is not None else ()}
        life = self._life_of(self._runtime.snapshot, self._loop.time(), scope)
        if head is not None:
            with contextlib.suppress(RequestRefused):
                life.method_name = read_method({"method": head.method, "raw_path": head.path})
                life.method = life.snapshot.table.method_label(life.method_name)
        self._tell(life, ruling)
        return Answer(ruling.status, _answer_headers(ruling, life.identity.request_id), ruling.body)

    def _decide(self, life: HookContext) -> Ruling | Coroutine[Any, Any, Ruling]:
        """What can be decided at once, or else the asking of a backend."""
        snapshot, body = life.snapshot, life.body
        life.method_name = method = read_method(life.scope)
        life.method = snapshot.table.method_label(method)
        if life.received.coded:
            raise RequestRefused(problem(400, "a hook's body is plain JSON, not compressed"))
        life.hook = hook = _parsed(self._hook_reader, body)
        found = snapshot.table.find(hook.app_key, method)
        if found is None:
            raise RequestRefused(unknown_app_answer(hook.app_key))
        tenant, route = found
        life.enter(tenant, route)
        if route.guard is not None:
            life.prove()
        if not route.is_plain and (ruling := _screened(life, route, hook)) is not None:
            return ruling
        upstream = snapshot.upstreams[life.upstream or ""]
        # Before duplicates are looked for: a hook that has come back through a loop would wait for itself.
        outgoing = life.outgoing(route, upstream)
        if route.dedupe is None:
            return self._ask(life, route, upstream, outgoing, None)
        duplicates = self._runtime.duplicates
        key = hook_key(method, body) if duplicates.claims is None else duplicates.claims.key_of(method, body)
        try:
            earlier = duplicates.find(key, body, self._loop.time())
        except TooManyRepeats:
            return fallback_ruling(_TOO_MANY_REPEATS, route.fallback, body)
        if earlier is None:
            flight = duplicates.begin(key, body)
            ask = self._ask if duplicates.claims is None else self._ask_once
            return ask(life, route, upstream, outgoing, flight)
        return duplicate_ruling(earlier) if isinstance(earlier, Ruling) else self._joined(life, route, earlier)

    async def _joined(self, life: HookContext, route: Route, earlier: asyncio.Future[Ruling]) -> Ruling:
        """The verdict of the same hook, byte for byte, that is in flight; the repeat itself takes no place."""
        app = life.app
        if not self._waiting.enter(app, max(MIN_WAITING, life.snapshot.max_in_flight)):
            earlier.cancel()
            return fallback_ruling(_TOO_MANY_REPEATS, route.fallback, life.body)
        try:
            return duplicate_ruling(await earlier)
        except OwnerLost:
            return fallback_ruling(_CUT_OFF, route.fallback, life.body)
        finally:
            self._waiting.leave(app)

    async def _ask_once(
        self, life: HookContext, route: Route, upstream: Upstream, outgoing: Outgoing, flight: Flight
    ) -> Ruling:
        """The verdict that another worker has of the same hook, or gets while this one waits; else the backend's."""
        try:
            ruling = await flight.await_other_worker(life.started + route.budget)
        except TimeoutError:
            flight.abandon(ruling := fallback_ruling(_NO_WORD, route.fallback, life.body))
            return ruling
        except BaseException:
            flight.leave()
            raise
        if ruling is not None:
            return duplicate_ruling(ruling)
        return await self._ask(life, route, upstream, outgoing, flight)

    async def _ask(
        self, life: HookContext, route: Route, upstream: Upstream, outgoing: Outgoing, flight: Flight | None
    ) -> Ruling:
        """The backend's verdict, or the one that stands in for it; whoever has joined the *flight* gets it too."""
        tenant = life.tenant
        self._count(tenant, 1)
        try:
            excess = self._excess(life, route)
            if excess is None:
                budget = route.budget if route.first_budget is None else _first_budget(life, route)
                outcome = await upstream.ask(
                    outgoing, life.started + budget, upstream.retry if route.inherits_retry else route.retry
                )
                if route.failover and outcome.should_fail_over(route.failover_on):
                    outcome = await _fail_over(life, route, outcome)
                life.outcome, result = outcome, outcome.result
            else:
                result = excess
            ruling = fallback_ruling(result, route.fallback, life.body) if isinstance(result, Failure) else result
            ruling = life.annotate(ruling)
            if flight is not None:
                seen = life.outcome is not None and life.outcome.seen
                flight.finish(ruling, self._loop.time(), route.dedupe if seen else None)
        except BaseException:
            if flight is not None:
                flight.leave()
            raise
        finally:
            self._count(tenant, -1)
        return ruling

    def _count(self, tenant: Tenant | None, more: int) -> None:
        """A hook takes its place, or leaves it; noted first, then looked at: so the sum is never too small."""
        self._asking = active_hooks = self._asking + more
        if self._runtime.places is not None:
            self._runtime.places.note(active_hooks)
        if tenant is not None:
            tenant.active_hooks += more
            if tenant.places is not None:
                tenant.places.note(tenant.active_hooks)

    def _excess(self, life: HookContext, route: Route) -> Failure | None:
        """The limit that this hook is one too many for, if there is one."""
        most, places = life.snapshot.max_in_flight, self._runtime.places
        if self._asking > most or (places is not None and places.total(self._asking) > most):
            return _TOO_MANY
        tenant = life.tenant
        if tenant is None:
            return None
        if (of_app := route.max_in_flight) is not None:
            places = tenant.places
            if tenant.active_hooks > of_app or (places is not None and places.total(tenant.active_hooks) > of_app):
                return _TOO_MANY_OF_APP
        if tenant.limiter is not None and not tenant.limiter.take(self._loop.time()):
            self._runtime.count_rate_limited(tenant.name)
            return _TOO_FAST
        return None

    def _weighed(self, life: HookContext, ruling: Ruling) -> Ruling:
        """A refusal, a changed hook or an answer to connect, in the light of what the media server will make of it."""
        route, hook = life.route, life.hook
        if route is None or hook is None or route.client_config is None:
            return ruling
        session = session_key(hook, life.method_name)
        if route.connects:
            if ruling.status != ALLOW_STATUS:
                return ruling
            answer = examine(ruling.body, route.client_config)
            settings = session_settings(answer.body)
            self._sessions.remember(session, answer.failing, settings)
            excluded = excluded_fields(settings, _reader(life), life.snapshot.table.method_label)
            return ruling.with_body(answer.body).annotate(client_config=answer.outcome, excluded=excluded)
        kind = method_type(life.method_name, life.snapshot.config.hook_types)
        if ruling.status == ALLOW_STATUS:
            changed = None if ruling.annotations is None else ruling.annotations.changed_fields
            if changed is None:
                return ruling
            ignored = ignored_fields(kind, self._sessions.settings(session, life.method_name), changed.split(","))
            return ruling.annotate(ignored_fields=",".join(ignored)) if ignored else ruling
        if not ineffective(kind, self._sessions.stops(session, life.method_name), life.method_name):
            return ruling
        return ruling.annotate(ineffective=True)

    def _tell(self, life: HookContext, ruling: Ruling) -> Decision:
        decision = life.decision(ruling)
        for listener in self._listeners:
            try:
                listener(decision)
            except Exception:
                logger.exception("a listener failed; its hook was answered all the same")
        return decision


def _parsed(reader: HookReader, body: bytes) -> Hook:
    try:
        return reader.read(body)
    except BadHookError as exc:
        raise RequestRefused(problem(400, str(exc))) from exc


def _screened(life: HookContext, route: Route, hook: Hook) -> Ruling | None:
    """The verdict that needs no backend; None where there is none, and the hook knows its upstream."""
    if route.rules is not None and (rule := route.rules.meet(hook, life.method_name, time.time())) is not None:
        life.rule = rule.name
        if rule.verdict is not None:
            life.upstream = None
            return rule_ruling(rule.verdict, life.body, rule.name)
        life.upstream = rule.upstream
    elif route.split is not None:
        # Without a session each hook goes its own way.
        life.upstream = route.split.choose(session_key(hook, life.method_name) or life.request_id)
    return static_ruling(route.static or Verdict.REJECT, life.body) if life.upstream is None else None


def _reader(life: HookContext) -> Callable[[str, str], bool]:
    """Tells which fields the app's rules read, by field and method: each method has the rules of its own route."""
    table, app_key = life.snapshot.table, life.hook.app_key if life.hook is not None else ""

    def reads(field: str, method: str) -> bool:
        found = table.find(app_key, method)
        rules = None if found is None else found[1].rules
        return rules is not None and rules.reads(field, method)

    return reads


def _first_budget(life: HookContext, route: Route) -> float:
    """Seconds for the upstream that decides, where the others are to have time left."""
    is_alone = all(name == life.upstream for name in route.failover)
    return route.budget if is_alone or route.first_budget is None else route.first_budget


async def _fail_over(life: HookContext, route: Route, outcome: Outcome) -> Outcome:
    """Ask, of the upstreams that may stand in for one that gave no verdict, one after the other."""
    first, causes, loop = life.upstream, route.failover_on, asyncio.get_running_loop()
    cause = outcome.result.cause if isinstance(outcome.result, Failure) else None
    others = [name for name in route.failover if name != first]
    deadline = life.started + route.budget
    for waiting, name in zip(range(len(others), 0, -1), others, strict=True):
        left = deadline - loop.time()
        if left < MIN_LEFT:
            break
        if Cause.TIMEOUT in causes:
            left /= waiting  # each its share: what a fast failure leaves over goes to those after it
        upstream = life.snapshot.upstreams[name]
        life.upstream, life.failed_over_from, life.failover_cause = name, first, cause
        outgoing = life.outgoing(route, upstream).with_sent(outcome.attempts)
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
