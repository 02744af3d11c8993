"""A hook as a backend gets it: its path, its header lines, and the body byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from gateway.model.trace_context import Trace
from gateway.policy.access import signature_header
from gateway.policy.event_answers import EventCheck
from gateway.policy.repair import ResponseCheck
from gateway.upstreams.headers import (
    CompiledPolicy,
    Identity,
    RequestHead,
    forward_headers,
    hook_header_lines,
)


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A hook on its way to a backend."""

    path: str
    """Appended to the target's URL: ``/<Method>`` and the query."""
    host: bytes | None
    """The Host to send; None = each target's own."""
    head: bytes
    """The header lines that every target gets alike."""
    body: bytes
    tenant: str
    """The app in whose name the backend is asked."""
    trace: Trace | None = None
    """Its place in a trace, where it is traced: *head* names the span of the request that carries it."""
    sent: int = 0
    """Requests that have carried it to backends before."""
    check: ResponseCheck | EventCheck = ResponseCheck.STRICT
    """What an answer must be to count as a verdict."""

    def with_sent(self, sent: int) -> Outgoing:
        """The same hook for the request that comes after *sent* others."""
        if self.trace is None:
            return self
        head = self.trace.renumber(self.head, self.sent + 1, sent + 1)
        return msgspec.structs.replace(self, head=head, sent=sent)

    def with_lines(self, lines: bytes) -> Outgoing:
        """The same hook with more header lines, each with its line end."""
        return msgspec.structs.replace(self, head=self.head + lines)


class ReceivedHook(Protocol):
    """A hook as the gateway received it."""

    @property
    def scope(self) -> Mapping[str, Any]:
        """Of ASGI: ``client``, ``scheme`` and ``query_string`` are read."""

    @property
    def received(self) -> RequestHead:
        """Its header fields."""

    @property
    def identity(self) -> Identity:
        """Its request id and trace context, as the backend gets them."""

    @property
    def method_name(self) -> str:
        """The method as the media server named it."""

    @property
    def body(self) -> bytes:
        """All of it."""

    @property
    def app(self) -> str:
        """The configured name of its app."""

    @property
    def trace(self) -> Trace | None:
        """Its place in a trace, where it is traced."""


def build_outgoing(
    hook: ReceivedHook, policy: CompiledPolicy, sign_with: bytes | None, check: ResponseCheck | EventCheck
) -> Outgoing:
    """The hook for an upstream with this header policy, signed with the key *sign_with* if there is one.

    Raises LoopError where the hook has been through this gateway before.
    """
    scope, received, body = hook.scope, hook.received, hook.body
    query: bytes = scope["query_string"]
    path = f"/{hook.method_name}?{query.decode('latin-1')}" if query else f"/{hook.method_name}"
    client = scope["client"]
    resigned = sign_with is not None
    head = forward_headers(received, policy, client[0] if client else None, scope["scheme"], resigned=resigned)
    head += hook_header_lines(hook.identity)
    if sign_with is not None:
        head += b"%b: %b\r\n" % signature_header(body, sign_with)
    return Outgoing(
        path=path,
        host=policy.host(received),
        head=head,
        body=body,
        tenant=hook.app,
        trace=hook.trace,
        sent=0,
        check=check,
    )
