"""Keeps events that their upstreams do not take, to be delivered later: what the endpoint does for methods that spool.

Of the spool itself, only the face that hooks need is known here: whether a call has a backlog, and "commit this".
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.model.verdicts import Cause, Failure, ProxyError, Ruling, fallback_ruling, spool_ruling
from gateway.policy.spooling import RESERVE
from gateway.proxy.context import HookContext
from gateway.proxy.kept_hook import BACKLOG, event_key, make_event
from gateway.proxy.routes import Route
from gateway.store.client import EventKeeper

BEHIND: Final = Failure(
    Cause.UNREACHABLE, ProxyError.DESTINATION_UNAVAILABLE, "an earlier event of the same call waits in the spool"
)
"""The upstream was not asked: the order within the call comes first."""
_NO_STORE: Final = "this process has no store"


class Spooling:
    """The way of events into the spool; *keeper* is None where no store is configured."""

    def __init__(self, keeper: EventKeeper | None = None) -> None:
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()

    def behind(self, context: HookContext) -> Failure | None:
        """``BEHIND`` where the event must queue behind earlier ones of its call; None: its upstream may be asked."""
        if self._keeper is None or not self._keeper.has_backlog(event_key(context)):
            return None
        return BEHIND

    async def keep(self, context: HookContext, route: Route, failure: Failure) -> Ruling:
        """Keep the event within its budget, and answer it; where that is not confirmed, the fallback decides."""
        return await self._keep(context, route, failure, context.started + route.budget)

    async def keep_at_last(self, context: HookContext, route: Route, failure: Failure) -> Ruling:
        """The same for a hook that the gateway's end cuts off: there is little time."""
        return await self._keep(context, route, failure, self._loop.time() + RESERVE)

    async def _keep(self, context: HookContext, route: Route, failure: Failure, deadline: float) -> Ruling:
        reason: str | None = _NO_STORE
        if self._keeper is not None and route.spool is not None:
            cause = BACKLOG if failure is BEHIND else failure.cause.value
            event = make_event(context, event_key(context), cause, failure.detail, route.spool)
            reason = await self._keeper.keep(event, deadline)
        if reason is None:
            return spool_ruling(None if failure is BEHIND else failure, context.body)
        lost = failure._replace(detail=f"{failure.detail}; it could not be kept: {reason}")
        return fallback_ruling(lost, route.fallback, context.body)
