"""The header fields for a backend: end-to-end fields as they came, and the gateway's own.

A media server's heads differ only in the body's length, so the work on one is cached for the next:
``parse_head`` and ``forward_headers`` are pure, and cached.

RFC 9110, section 7.6 (hop-by-hop fields, Via); RFC 9110, section 7.2 (Host); W3C Trace Context (traceparent).
"""

from __future__ import annotations

import os
import re
import secrets
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from gateway.http.lines import breaks_lines
from gateway.upstreams.header_names import may_pass, php_name

Headers = tuple[tuple[bytes, bytes], ...]

PSEUDONYM: Final = b"wcs-gateway-" + (os.environ.get("WCS_GATEWAY_INSTANCE") or secrets.token_hex(4)).encode()
"""This instance's name in Via: a hook may pass two gateways in a row, but never the same one twice."""

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
        b"idempotency-key",  # the gateway's own says whether an event came before: a client's could deny that
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"forwarded",
        b"accept-encoding",  # the gateway reads the answer, and the media server could not decode it
        b"set-cookie",
    )
)
_DROPPED: Final = HOP_BY_HOP | _REPLACED
_STATE: Final = frozenset((b"tracestate",))
_REMEMBERED: Final = 256
"""Heads, at most; each may have the 32 KiB that the front door allows."""

_AT_ONCE: Final = 128

_sane_id = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch
_traceparent = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}").fullmatch


def _random_digits() -> Iterator[bytes]:
    """Yields 48 hexadecimal digits at a time, for a trace id and a span id. Neither may be all zeros.

    (W3C Trace Context, section 3.2.2: 64 random bits never are.) Made in batches, since each is a system call.
    """
    while True:
        digits = os.urandom(24 * _AT_ONCE).hex().encode("ascii")
        for start in range(0, len(digits), 48):
            yield digits[start : start + 48]


_digits = _random_digits()


class LoopError(Exception):
    """The hook has passed this gateway before: an upstream's url leads back to it."""


class Identity(msgspec.Struct, frozen=True, gc=False):
    """A hook's request id and trace context: the client's where they are valid, else new ones."""

    request_id: bytes
    traceparent: bytes


class Policy(NamedTuple):
    """An upstream's own header rules."""

    host: str = "target"
    """The Host to send: ``target`` = each target's own, ``preserve`` = the client's, else this literal."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Set on every request, in place of the client's of that name."""
    credentials: tuple[str, str] | None = None
    """User name and password for HTTP Basic (RFC 7617), in place of the client's Authorization."""
    keep_underscores: bool = False
    """Whether the client's header names with an underscore are forwarded (see header_names.py)."""


class CompiledPolicy:
    """A Policy with all that is the same for every request prepared."""

    def __init__(self, policy: Policy) -> None:
        static = [(name.lower(), value) for name, value in policy.headers]
        if policy.credentials is not None:
            userpass = ":".join(policy.credentials).encode("utf-8")
            static.append((b"authorization", b"Basic " + b64encode(userpass)))
        self._preserve = policy.host == "preserve"
        self._literal = None if policy.host in ("preserve", "target") else policy.host.encode("ascii")
        self.static: Headers = tuple(static)
        self.authorizes = any(name == b"authorization" for name, _ in static)
        """Whether requests get an Authorization of the upstream's configuration."""
        self.dropped = _DROPPED | {php_name(name) for name, _ in static}
        self.keep_underscores = policy.keep_underscores

    def host(self, received: RequestHead) -> bytes | None:
        """The Host to send for a request with this head; None = the target's own."""
        return received.host if self._preserve else self._literal


class RequestHead:
    """A request's header fields, and what the gateway itself reads in them."""

    __slots__ = ("coded", "fields", "host", "request_id", "traceparent")

    def __init__(self, fields: Headers) -> None:
        self.fields = fields
        self.host: bytes | None = None
        self.request_id: bytes | None = None
        """The client's, if it is valid."""
        self.traceparent: bytes | None = None
        """The client's, if it is valid (W3C Trace Context, section 3.2)."""
        self.coded = False
        """Whether the body has a content coding (RFC 9110, section 8.4)."""
        for name, value in fields:
            if name == b"host" and self.host is None:
                self.host = value
            elif name == b"x-request-id" and self.request_id is None and _sane_id(value):
                self.request_id = value
            elif name == b"traceparent" and self.traceparent is None and _traceparent(value):
                self.traceparent = value
            elif name == b"content-encoding" and value.lower() != b"identity":
                self.coded = True

    def identity(self) -> Identity:
        """The request id and trace context of a hook with this head: the client's, or new ones of one random number."""
        if self.request_id is not None and self.traceparent is not None:
            return Identity(self.request_id, self.traceparent)
        digits = next(_digits)
        trace = digits[:32]
        return Identity(self.request_id or trace, self.traceparent or b"00-%b-%b-00" % (trace, digits[32:]))


@lru_cache(_REMEMBERED)
def parse_head(fields: Headers) -> RequestHead:
    """The parsed header *fields*, whose names are in lower case."""
    return RequestHead(fields)


@lru_cache(_REMEMBERED)
def forward_headers(
    received: RequestHead, policy: CompiledPolicy, client: str | None, scheme: str, *, resigned: bool = False
) -> bytes:
    """The header lines that all hooks with this head share; ``hook_header_lines`` has those of each hook.

    They lack Host, what each attempt sets itself, and, if the hook is signed again (*resigned*), its Authorization.
    Raises LoopError if Via names this gateway: the hook has passed it already.
    """
    listed: set[bytes] = set()
    via: list[bytes] = []
    for name, value in received.fields:
        if name == b"connection":
            listed.update(token.strip().lower() for token in value.split(b","))
        elif name == b"via":
            via.append(value)
    if any(PSEUDONYM in value for value in via):
        raise LoopError("this hook has passed this gateway already: an upstream's url leads back to it")
    dropped = policy.dropped | listed  # fields that Connection names are for this hop only
    if received.traceparent is None:
        dropped |= _STATE  # it belongs to a trace that is not continued (W3C Trace Context, section 3.4)
    keep = policy.keep_underscores
    lines = [
        *(
            (name, value)
            for name, value in received.fields
            if name not in dropped and may_pass(name, policy.dropped, keep_odd=keep)
        ),
        *policy.static,
        (b"via", b", ".join((*via, _VIA))),
        (b"x-forwarded-for", client.encode("ascii", "replace") if client else b"unknown"),
        (b"x-forwarded-proto", scheme.encode("ascii")),
    ]
    if resigned:
        lines = [line for line in lines if line[0] != b"authorization"]
    return _serialize(lines)


def hook_header_lines(identity: Identity) -> bytes:
    """The header lines for the backend that differ for each hook."""
    return b"x-request-id: %b\r\ntraceparent: %b\r\n" % (identity.request_id, identity.traceparent)


def idempotency_line(request_id: bytes) -> bytes:
    """The header line by which a backend recognises an event that it has processed already."""
    return b"idempotency-key: %b\r\n" % request_id


def redelivery_header_lines(attempt: int, event_time: float) -> bytes:
    """The header lines that a kept event has besides: the number of the attempt, from 1, and the hook's Unix time.

    The time is written as RFC 3339 has it, in UTC, to the millisecond.
    """
    written = datetime.fromtimestamp(event_time, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
    return b"x-gateway-redelivery: %d\r\nx-gateway-event-time: %bZ\r\n" % (attempt, written.encode("ascii"))


def _serialize(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines = [b"%b: %b\r\n" % field for field in fields]
    written = b"".join(lines)
    if breaks_lines(written, len(lines)) or b"\0" in written:
        raise ValueError("a header field would break into two lines")
    return written


def encode_headers(headers: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    """Configured header fields as bytes."""
    return tuple((name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers.items())
