"""What of a request goes on to a backend: end-to-end header fields as they came, the gateway's own in their place.

RFC 9110, section 7.6 (hop-by-hop fields, Via); RFC 9110, section 7.2 (Host); W3C Trace Context (traceparent).
"""

from __future__ import annotations

import os
import re
import secrets
from base64 import b64encode
from collections.abc import Iterable, Mapping
from random import getrandbits
from typing import Final, NamedTuple

Headers = list[tuple[bytes, bytes]]

PSEUDONYM: Final = b"wcs-gateway-" + (os.environ.get("WCS_GATEWAY_INSTANCE") or secrets.token_hex(4)).encode()
"""This instance's name in Via: two gateways may stand in a row, but no hook passes the same one twice."""

_VIA: Final = b"1.1 " + PSEUDONYM

HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
        b"http2-settings",
    )
)
_REPLACED: Final = frozenset(
    (
        b"host",
        b"content-length",
        b"via",
        b"x-request-id",
        b"traceparent",
        b"x-request-timeout-ms",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"forwarded",
        b"accept-encoding",  # the gateway reads the answer, and nobody behind it could undo a coding
        b"set-cookie",
    )
)
_DROPPED: Final = HOP_BY_HOP | _REPLACED
_STATE: Final = frozenset((b"tracestate",))

_sane_id = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch
_traceparent = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}").fullmatch


class LoopError(Exception):
    """The hook has passed this gateway before: a target leads back to it."""


class Identity(NamedTuple):
    """A hook's names for tracing: kept where the client's are sane, made where not."""

    request_id: bytes
    traceparent: bytes


class Policy(NamedTuple):
    """An upstream's own header rules."""

    host: str = "target"
    """The Host to send: ``target`` = each target's own, ``preserve`` = the client's, else literally this."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Set on every request, in place of the client's of that name."""
    credentials: tuple[str, str] | None = None
    """User name and password for HTTP Basic (RFC 7617), in place of the client's Authorization."""


class CompiledPolicy:
    """A Policy with everything prepared that no request changes."""

    def __init__(self, policy: Policy) -> None:
        static = [(name.lower(), value) for name, value in policy.headers]
        if policy.credentials is not None:
            userpass = ":".join(policy.credentials).encode("utf-8")
            static.append((b"authorization", b"Basic " + b64encode(userpass)))
        self._preserve = policy.host == "preserve"
        self._literal = None if policy.host in ("preserve", "target") else policy.host.encode("ascii")
        self.static: Headers = static
        self.dropped = _DROPPED | {name for name, _ in static}

    def host(self, headers: Headers) -> bytes | None:
        """The Host to send for a request with these headers; None = the target's own."""
        if self._preserve:
            return next((value for name, value in headers if name == b"host"), None)
        return self._literal


def identify(headers: Iterable[tuple[bytes, bytes]]) -> Identity:
    """The request id and trace context of a request."""
    request_id = traceparent = None
    for name, value in headers:
        if name == b"x-request-id" and request_id is None and _sane_id(value):
            request_id = value
        elif name == b"traceparent" and traceparent is None and _traceparent(value):
            traceparent = value
    if request_id is None:
        request_id = b"%032x" % getrandbits(128)
    if traceparent is None:
        traceparent = b"00-%032x-%016x-00" % (getrandbits(128) or 1, getrandbits(64) or 1)
    return Identity(request_id, traceparent)


def forwarded(headers: Headers, policy: CompiledPolicy, identity: Identity, client: str | None, scheme: str) -> Headers:
    """The header fields for the backend, but for Host and what else each attempt sets itself.

    Raises LoopError if Via says that this very gateway has had the hook already.
    """
    dropped = policy.dropped
    kept = [(name, value) for name, value in headers if name not in dropped]
    via: list[bytes] = []
    listed: set[bytes] = set()
    for name, value in headers:
        if name == b"connection":
            listed.update(token.strip().lower() for token in value.split(b","))
        elif name == b"via":
            via.append(value)
    if (b"traceparent", identity.traceparent) not in headers:
        listed |= _STATE  # what belongs to a trace that is not gone on with (W3C Trace Context, section 3.4)
    if listed - HOP_BY_HOP - _PLAIN_CONNECTION:  # fields that Connection names are for this hop only
        kept = [(name, value) for name, value in kept if name not in listed]
    if via and any(PSEUDONYM in value for value in via):
        raise LoopError("this hook has passed this gateway already: an upstream's url leads back to it")
    return [
        *kept,
        *policy.static,
        (b"via", b", ".join((*via, _VIA)) if via else _VIA),
        (b"x-forwarded-for", client.encode("ascii", "replace") if client else b"unknown"),
        (b"x-forwarded-proto", scheme.encode("ascii")),
        (b"x-request-id", identity.request_id),
        (b"traceparent", identity.traceparent),
    ]


_PLAIN_CONNECTION: Final = frozenset((b"keep-alive", b"close"))


def encoded(headers: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    """Configured header fields as bytes."""
    return tuple((name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers.items())
