"""The hook endpoint of a gateway that is one of several: it differs only where ``state`` is configured.

The local look for duplicates comes first, here and in the gateway's other workers: only the one worker that has the
hook claims it in the fleet.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any, Final

from gateway.fleet.claims import ClaimOwnerLost, FleetClaims, HookClaim, SharedVerdict
from gateway.fleet.hooks import FleetHooks
from gateway.model.decision import Decision
from gateway.model.hooks import MethodType, method_type
from gateway.model.verdicts import (
    ALLOW_STATUS,
    Cause,
    Failure,
    ProxyError,
    Ruling,
    duplicate_ruling,
    fallback_ruling,
)
from gateway.proxy.context import HookContext
from gateway.proxy.dedupe import Flight
from gateway.proxy.endpoint import HookEndpoint, Listener, ask_other_workers
from gateway.proxy.fleet_sessions import LateAnnotations, WrittenSessions
from gateway.proxy.routes import Route
from gateway.proxy.runtime import Runtime
from gateway.proxy.sessions import Sessions
from gateway.store.client import EventKeeper
from gateway.upstreams import Outgoing, Upstream

logger = logging.getLogger(__name__)

CLAIMED: Final = frozenset({MethodType.CONNECT, MethodType.INCOMING})
"""The types of methods whose hooks are decided once in the whole fleet, where ``state.dedupe`` is on."""
_NO_VERDICT: Final = Failure(
    Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "the same hook, in flight at another replica, came to no verdict"
)
_CUT_OFF: Final = Failure(
    Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "the same hook, in flight at another replica, was cut off there"
)


class FleetEndpoint(HookEndpoint):
    """Decides hooks as one of several gateways, which share sessions through *fleet*."""

    def __init__(
        self,
        runtime: Runtime,
        listeners: tuple[Listener, ...],
        sessions: Sessions,
        fleet: FleetHooks,
        *,
        keeper: EventKeeper | None = None,
    ) -> None:
        super().__init__(runtime, listeners, WrittenSessions(sessions, fleet.sessions), keeper)
        self._late = LateAnnotations(sessions, fleet.sessions, self._tell_listeners)

    async def settle(self) -> None:
        """Publish the decisions that wait for what the fleet knows of their sessions."""
        await self._late.settle()

    def _publish(self, context: HookContext, ruling: Ruling) -> Decision:
        """Build the decision and hand it to every listener, at once or when its session is known."""
        if ruling.status == ALLOW_STATUS and ruling.annotations is None:
            return super()._publish(context, ruling)
        session = self._late.unknown_session(context, ruling)
        if session is None:
            return super()._publish(context, ruling)
        decision = context.build(ruling)
        self._late.publish_later(session, context, decision)
        return decision

    def _tell_listeners(self, decision: Decision) -> None:
        for listener in self._listeners:
            try:
                listener(decision)
            except Exception:
                logger.exception("a listener failed; its hook was answered all the same")


class ClaimingEndpoint(FleetEndpoint):
    """The same where a hook that reaches several replicas is decided once: each hook is claimed before it is asked."""

    def __init__(
        self,
        runtime: Runtime,
        listeners: tuple[Listener, ...],
        sessions: Sessions,
        fleet: FleetHooks,
        *,
        claims: FleetClaims,
        keeper: EventKeeper | None = None,
    ) -> None:
        super().__init__(runtime, listeners, sessions, fleet, keeper=keeper)
        self._claims = claims

    def _ask(
        self, context: HookContext, route: Route, upstream: Upstream, outgoing: Outgoing
    ) -> Coroutine[Any, Any, Ruling]:
        """As without a fleet, but for hooks that must be decided once."""
        flight = context.flight
        if flight is None or method_type(context.method_name, context.snapshot.config.hook_types) not in CLAIMED:
            return super()._ask(context, route, upstream, outgoing)
        return self._ask_once(context, route, upstream, outgoing, flight=flight)

    async def _ask_once(
        self, context: HookContext, route: Route, upstream: Upstream, outgoing: Outgoing, *, flight: Flight
    ) -> Ruling:
        """The verdict of another worker or replica, else the one that this gateway gets, for all who wait for it."""
        if self._has_other_workers:
            elsewhere = await ask_other_workers(context, route, flight)
            if elsewhere is not None:
                return elsewhere
        found = await self._ask_other_replicas(context, route, flight)
        if isinstance(found, Ruling):
            return found
        try:
            ruling = await super()._ask(context, route, upstream, outgoing)
        except BaseException:
            self._claims.drop(found)
            raise
        was_seen = context.outcome is not None and context.outcome.seen
        self._claims.finish(found, context.body, ruling, route.dedupe if was_seen else None)
        return ruling

    async def _ask_other_replicas(self, context: HookContext, route: Route, flight: Flight) -> Ruling | HookClaim:
        """The verdict that another replica has of the same hook, or gets in time; the claim: this one is to ask."""
        try:
            found = await self._claims.take(context.method_name, context.body, context.started + route.budget)
        except (TimeoutError, ClaimOwnerLost) as exc:
            failure = _CUT_OFF if isinstance(exc, ClaimOwnerLost) else _NO_VERDICT
            flight.abandon(fallback := fallback_ruling(failure, route.fallback, context.body))
            return fallback
        except BaseException:
            flight.leave()
            raise
        if isinstance(found, SharedVerdict):
            flight.finish(found.ruling, self._loop.time(), found.keep)
            return duplicate_ruling(found.ruling)
        return found


def fleet_endpoint(
    runtime: Runtime,
    listeners: tuple[Listener, ...],
    sessions: Sessions,
    fleet: FleetHooks,
    *,
    keeper: EventKeeper | None = None,
) -> FleetEndpoint:
    """The endpoint of one of several gateways, as far as they are configured to share."""
    if fleet.claims is None:
        return FleetEndpoint(runtime, listeners, sessions, fleet, keeper=keeper)
    return ClaimingEndpoint(runtime, listeners, sessions, fleet, claims=fleet.claims, keeper=keeper)
