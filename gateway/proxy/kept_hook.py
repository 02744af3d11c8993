"""A hook as the spool keeps it, and as it is made again from that to be delivered."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from gateway.model.hooks import field_text, parse_hook
from gateway.model.secret_names import is_secret_name
from gateway.model.trace_context import Trace
from gateway.model.verdicts import REJECT_STATUS, Cause, Failure, ProxyError, Ruling
from gateway.policy.spooling import SpoolSettings, event_value, ordering_key, repeat_digest
from gateway.proxy.context import HookContext
from gateway.proxy.routes import Guard, Route, Table
from gateway.proxy.sessions import session_key
from gateway.store.records import Field, SpooledEvent
from gateway.upstreams import Outcome, Outgoing, Upstream
from gateway.upstreams.headers import Identity, RequestHead, idempotency_line, parse_head, redelivery_header_lines
from gateway.upstreams.outgoing import build_outgoing

BACKLOG: Final = "backlog"
"""The cause of an event that was not tried, since an earlier one of its call waits."""
_REMEMBERED: Final = 256
_AUTHORIZATION: Final = b"authorization"
_HAD_AUTHORIZATION: Final = (_AUTHORIZATION, b"")
_UNAUTHORIZED: Final = Failure(
    Cause.ERROR_STATUS,
    ProxyError.HTTP_REQUEST_DENIED,
    "status 403 to an event without its Authorization, which is not kept: set the app's credentials or signature, or "
    "the upstream's credentials",
    REJECT_STATUS,
)


@lru_cache(_REMEMBERED)
def storable_fields(received: RequestHead) -> tuple[Field, ...]:
    """The header fields of a hook without those that hold secrets; of Authorization, only that there was one."""
    fields = [field for field in received.fields if not is_secret_name(field[0].decode("latin-1"))]
    if any(name == _AUTHORIZATION for name, _ in received.fields):
        fields.append(_HAD_AUTHORIZATION)
    return tuple(fields)


def make_event(context: HookContext, key: bytes, cause: str, error: str, settings: SpoolSettings) -> SpooledEvent:
    """The event to keep for a hook that its upstream did not take, for this *cause*."""
    hook, scope, client = context.hook, context.scope, context.scope.get("client")
    return SpooledEvent(
        key=key,
        digest=repeat_digest(context.app, context.method_name, context.body),
        app=context.app,
        method=context.method_name,
        upstream=context.failed_over_from or context.upstream or "",
        request_id=context.request_id,
        received=time.time() - (time.perf_counter() - context.began),
        query=scope["query_string"],
        client=client[0] if client else "",
        scheme=scope["scheme"],
        fields=storable_fields(context.received),
        body=context.body,
        cause=cause,
        error=error,
        call_id=None if hook is None else field_text(hook.call_id),
        session_id=None if hook is None else field_text(hook.session_id),
        value=event_value(context.method_name),
        max_age=settings.max_age,
        max_size=settings.max_size,
    )


def event_key(context: HookContext) -> bytes:
    """What orders the event among others."""
    return ordering_key(context.app, context.body)


class KeptHook:
    """A kept event as a hook that can be sent; satisfies ``upstreams.outgoing.ReceivedHook``.

    Its head lacks the secrets, which are not kept. What the app's configuration has the media server prove itself with
    is known, so the backend gets it here too (*guard*).
    """

    __slots__ = ("app", "body", "identity", "lacks_authorization", "method_name", "received", "received_at", "scope")

    trace: Trace | None = None

    def __init__(self, event: SpooledEvent, guard: Guard | None) -> None:
        fields = tuple(field for field in event.fields if field != _HAD_AUTHORIZATION)
        self.lacks_authorization = guard is None and len(fields) < len(event.fields)
        """Whether it came with an Authorization that is not known any more."""
        self.received = parse_head(fields if guard is None else (*fields, guard.header(event.body)))
        self.identity = Identity(event.request_id.encode("ascii"), self.received.identity().traceparent)
        self.received_at = event.received
        """Unix time at which the hook came."""
        self.app = event.app
        self.body = event.body
        self.method_name = event.method
        self.scope: dict[str, Any] = {
            "client": (event.client, 0) if event.client else None,
            "scheme": event.scheme,
            "query_string": event.query,
        }


class Destination(NamedTuple):
    """Where a kept event goes by one configuration."""

    route: Route
    upstreams: tuple[str, ...]
    """The one that decides, then those of ``failover``."""


def find_destination(table: Table, event: SpooledEvent) -> Destination | None:
    """Where the event goes now; None where its app is not configured any more, or has no backend.

    Rules and shares are asked again, as at the time at which the event came. A rule's verdict is not: a hook that was
    not answered by a rule then is still owed to its backend.
    """
    if event.app not in table:
        return None
    route = table.route_for(event.app, event.method)
    first = route.upstream
    if not route.is_plain:
        hook = parse_hook(event.body)
        rule = None if route.rules is None else route.rules.match_hook(hook, event.method, event.received)
        if rule is not None and rule.upstream is not None:
            first = rule.upstream
        elif route.split is not None:
            first = route.split.choose(session_key(hook, event.method) or event.request_id)
    if first is None:
        return None
    return Destination(route, (first, *(name for name in route.failover if name != first)))


def build_redelivery(hook: KeptHook, upstream: Upstream, route: Route, attempt: int) -> Outgoing:
    """The event as this upstream gets it, for the attempt of this number, from 1. Raises LoopError."""
    lines = idempotency_line(hook.identity.request_id) + redelivery_header_lines(attempt, hook.received_at)
    return build_outgoing(hook, upstream.policy, route.sign_with, route.response_check).with_lines(lines)


def judge_redelivery(outcome: Outcome, hook: KeptHook, upstream: Upstream, route: Route) -> Outcome:
    """The outcome, unless it is a rejection for which the gateway itself is to blame: that is a failure.

    A backend that checks Authorization rejects an event that lacks it. Taken for a verdict, that would lose the event.
    """
    is_rejected = isinstance(outcome.result, Ruling) and outcome.result.status == REJECT_STATUS
    if not is_rejected or not hook.lacks_authorization or route.sign_with is not None or upstream.policy.authorizes:
        return outcome
    return msgspec.structs.replace(outcome, result=_UNAUTHORIZED)
