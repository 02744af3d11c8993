"""Sessions where several gateways are one: remembered here, written behind to the fleet, looked up after the answer.

A balancer keeps a session at one replica, so what is known here is nearly always enough. Where it is not, the answer to
a hook never waits: only the record of its decision does, until the fleet has said what the session's connect set.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.fleet.encoding import FoundSession
from gateway.fleet.sessions import FleetSessions
from gateway.model.decision import Decision
from gateway.model.hooks import MethodType, method_type
from gateway.model.verdicts import ALLOW_STATUS, Ruling, Source
from gateway.policy.rest_client_config import MethodSettings, SessionSettings, ignored_fields, ineffective
from gateway.proxy.context import HookContext
from gateway.proxy.sessions import Sessions, session_key

logger = logging.getLogger(__name__)

MAX_WAITING: Final = 1000
"""Decisions that may wait for what the fleet knows of their sessions; past it, they are published as they are."""
END_LIMIT: Final = 0.2
"""Seconds at the end for those that still wait."""
_NOTHING_SET: Final = MethodSettings()


class WrittenSessions:
    """This gateway's sessions, each of which the other replicas get to know too."""

    def __init__(self, local: Sessions, fleet: FleetSessions) -> None:
        self.stops = local.stops
        self.settings = local.settings
        self._local = local
        self._fleet = fleet

    def remember(self, session: str | None, failing: frozenset[str], settings: SessionSettings | None = None) -> None:
        """Store what the session's answer to connect set, here and for the fleet."""
        self._local.remember(session, failing, settings)
        if session is not None:
            self._fleet.write(session, failing, settings)


class LateAnnotations:
    """Decisions that wait until the fleet has said what their sessions' answers to connect set; then it *publish*es."""

    def __init__(self, local: Sessions, fleet: FleetSessions, publish: Callable[[Decision], None]) -> None:
        self._local = local
        self._fleet = fleet
        self._publish = publish
        self._waiting: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<LateAnnotations {len(self._waiting)} waiting>"

    def unknown_session(self, context: HookContext, ruling: Ruling) -> str | None:
        """The hook's session, if what the media server makes of this ruling depends on it and it is not known here."""
        route, hook = context.route, context.hook
        if hook is None or route is None or route.client_config is None or route.connects:
            return None
        if ruling.source is Source.GATEWAY or len(self._waiting) >= MAX_WAITING:
            return None
        session = session_key(hook, context.method_name)
        return session if session is not None and self._is_in_doubt(context, session, ruling) else None

    def publish_later(self, session: str, context: HookContext, decision: Decision) -> None:
        """Publish the decision once it is known what the session's answer to connect set, or that nobody knows."""
        kind = _kind(context)
        task = asyncio.create_task(self._look_up(session, context.method_name, kind, decision))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def settle(self) -> None:
        """Publish all that still waits: at the end of the drain."""
        if not self._waiting:
            return
        _, late = await asyncio.wait(self._waiting, timeout=END_LIMIT)
        for task in late:
            task.cancel()
        await asyncio.gather(*late)

    def _is_in_doubt(self, context: HookContext, session: str, ruling: Ruling) -> bool:
        method, kind = context.method_name, _kind(context)
        if ruling.status != ALLOW_STATUS:
            return ineffective(kind, False, method) and self._local.stops(session, method) is None
        changed = _changed_fields(ruling)
        return bool(ignored_fields(kind, _NOTHING_SET, changed)) and self._local.settings(session, method) is None

    async def _look_up(self, session: str, method: str, kind: MethodType, decision: Decision) -> None:
        try:
            found = await self._fleet.find(session)
            if found is not None:
                self._local.remember(session, found.failing, found.settings)
                ruling = annotate_found(decision.ruling, method, kind, found)
                decision = msgspec.structs.replace(decision, ruling=ruling)
        except asyncio.CancelledError:
            pass  # it is published now, as it is
        except Exception:
            logger.exception("a look-up of a session failed; its hook was answered before")
        self._publish(decision)


def annotate_found(ruling: Ruling, method: str, kind: MethodType, found: FoundSession) -> Ruling:
    """The ruling, annotated with what the media server makes of it in a session that another replica knows."""
    if ruling.status != ALLOW_STATUS:
        return ruling.annotate(ineffective=True) if ineffective(kind, method in found.failing, method) else ruling
    if found.settings is None:
        return ruling
    ignored = ignored_fields(kind, found.settings.get(method, _NOTHING_SET), _changed_fields(ruling))
    return ruling.annotate(ignored_fields=",".join(ignored)) if ignored else ruling


def _changed_fields(ruling: Ruling) -> list[str]:
    changed = None if ruling.annotations is None else ruling.annotations.changed_fields
    return [] if changed is None else changed.split(",")


def _kind(context: HookContext) -> MethodType:
    return method_type(context.method_name, context.snapshot.config.hook_types)
