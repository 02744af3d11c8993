"""The vocabulary of an answer: what was decided, by whom, for what reason, and how that is expressed in HTTP.

Only this module knows the status of a verdict. Objects that are made per hook are msgspec structures, here and
elsewhere: they cost a third of a named tuple to make, and half to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from gateway.model.json_edit import Fields


class Verdict(StrEnum):
    """The decision about a hook."""

    ALLOW = "allow"
    REJECT = "reject"
    ERROR = "error"
    """No hook that could be decided: the request itself was refused with a 4xx."""


class Cause(StrEnum):
    """Why a backend gave no verdict; each failure has exactly one cause."""

    TIMEOUT = "timeout"
    """No complete answer within the budget."""
    UNREACHABLE = "unreachable"
    """Refused, reset, closed without an answer, DNS, TLS; or every target is ejected."""
    OVERLOAD = "overload"
    """A limit of the gateway was reached: hooks in flight, rate, or queue."""
    BAD_ANSWER = "bad_answer"
    """A 200 that is not one JSON object, is cut short, malformed HTTP, or too large."""
    ERROR_STATUS = "error_status"
    """Any status other than 200 and 403."""


class Source(StrEnum):
    """Who decided."""

    BACKEND = "backend"
    FALLBACK = "fallback"
    DUPLICATE = "duplicate"
    STATIC = "static"
    RULE = "rule"
    """A rule of the app, without a backend."""
    SPOOL = "spool"
    """The gateway has kept the event, and delivers it later."""
    GATEWAY = "gateway"


class Reason(StrEnum):
    """Why a hook was decided this way: the verdict's own word, a cause, or what was wrong with the request."""

    OK = "ok"
    DENIED = "denied"
    TIMEOUT = Cause.TIMEOUT.value
    UNREACHABLE = Cause.UNREACHABLE.value
    OVERLOAD = Cause.OVERLOAD.value
    BAD_ANSWER = Cause.BAD_ANSWER.value
    ERROR_STATUS = Cause.ERROR_STATUS.value
    BACKLOG = "backlog"
    """An earlier event of the same call waits in the spool: this one is delivered after it."""
    UNKNOWN_APP = "unknown_app"
    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    INTERNAL = "internal"


class ProxyError(StrEnum):
    """The proxy error types of RFC 9209, section 2.3, that a decision can need."""

    DNS_TIMEOUT = "dns_timeout"
    DNS_ERROR = "dns_error"
    DESTINATION_UNAVAILABLE = "destination_unavailable"
    DESTINATION_IP_UNROUTABLE = "destination_ip_unroutable"
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_TERMINATED = "connection_terminated"
    CONNECTION_TIMEOUT = "connection_timeout"
    CONNECTION_LIMIT_REACHED = "connection_limit_reached"
    TLS_PROTOCOL_ERROR = "tls_protocol_error"
    TLS_CERTIFICATE_ERROR = "tls_certificate_error"
    HTTP_REQUEST_ERROR = "http_request_error"
    HTTP_REQUEST_DENIED = "http_request_denied"
    HTTP_RESPONSE_INCOMPLETE = "http_response_incomplete"
    HTTP_RESPONSE_HEADER_SECTION_SIZE = "http_response_header_section_size"
    HTTP_RESPONSE_BODY_SIZE = "http_response_body_size"
    HTTP_RESPONSE_CONTENT_CODING = "http_response_content_coding"
    HTTP_RESPONSE_TIMEOUT = "http_response_timeout"
    HTTP_UPGRADE_FAILED = "http_upgrade_failed"
    HTTP_PROTOCOL_ERROR = "http_protocol_error"
    PROXY_LOOP_DETECTED = "proxy_loop_detected"
    PROXY_INTERNAL_ERROR = "proxy_internal_error"


ALLOW_STATUS: Final = 200
REJECT_STATUS: Final = 403
"""The media server takes exactly 200 as yes; 403 with an empty body is how a backend says no."""


class Failure(NamedTuple):
    """What happened when a backend gave no verdict, for the answer and for the log."""

    cause: Cause
    proxy_error: ProxyError
    detail: str
    """One short line for the operator; never part of a body."""
    received_status: int | None = None


class Annotations(msgspec.Struct, frozen=True, gc=False):
    """Additional facts about a ruling; nearly every ruling has none."""

    rule: str | None = None
    """The name of the rule that matched."""
    repaired: str | None = None
    """What was cut away from the backend's answer: ``bom``, ``before``, ``after``, joined by ``+``."""
    cut: str = ""
    """The text that was cut away, shortened."""
    client_config: str | None = None
    """Of an answer to connect: ``ok``, ``missing``, ``enforced`` or ``unreadable``."""
    ineffective: bool = False
    """A rejection that the media server will only log: the call goes on."""
    failed_over_from: str | None = None
    """The upstream that gave no verdict, so that another was asked."""
    failover_cause: str | None = None
    """Why it gave none: a cause."""
    changed_fields: str | None = None
    """The fields that the fallback's answer changes, separated by commas."""
    ignored_fields: str | None = None
    """Those that the media server ignores: the session's connect answer does not allow them."""
    excluded: tuple[str, ...] = ()
    """For an answer to connect: fields that its restExclude drops but the gateway needs, as ``METHOD.FIELD``."""
    substituted: str | None = None
    """What the backend answered to an event, if the hook's own body was sent instead."""


_NO_ANNOTATIONS: Final = Annotations()


class Ruling(msgspec.Struct, frozen=True, gc=False):
    """The answer to a hook, and the reason."""

    verdict: Verdict
    source: Source
    reason: Reason
    status: int
    body: bytes = b""
    content_type: bytes | None = None
    proxy_status: bytes | None = None
    """Value of the Proxy-Status field (RFC 9209), if the gateway itself decided."""
    error: str = ""
    """A line of explanation for the operator; empty if there is nothing to explain."""
    challenge: bytes | None = None
    """Value of WWW-Authenticate (RFC 9110, section 11.6.1), if the hook lacked valid credentials."""
    annotations: Annotations | None = None

    def annotate(self, **changes: Any) -> Ruling:
        """The same ruling with these fields of its annotations set."""
        annotations = msgspec.structs.replace(self.annotations or _NO_ANNOTATIONS, **changes)
        return msgspec.structs.replace(self, annotations=annotations)

    def with_body(self, body: bytes) -> Ruling:
        """The same ruling with another body."""
        return msgspec.structs.replace(self, body=body)


class Fallback:
    """The verdict per cause when the backend gives none; an *allow* may change fields of the hook."""

    __slots__ = ("_allowed", "_hash", "fields")

    def __init__(
        self, allowed: frozenset[Cause] = frozenset(), fields: Mapping[Cause, Fields] = MappingProxyType({})
    ) -> None:
        """*fields*: changes to the hook, for causes that are allowed too."""
        self._allowed = allowed
        self.fields = fields
        """What the answer changes, per cause."""
        self._hash = hash((allowed, frozenset(fields.items())))

    @property
    def allowed(self) -> frozenset[Cause]:
        """The causes for which a hook is allowed."""
        return self._allowed

    def verdict(self, cause: Cause) -> Verdict:
        """*allow* or *reject* for a hook whose backend failed this way."""
        return Verdict.ALLOW if cause in self._allowed else Verdict.REJECT

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fallback) and self._allowed == other._allowed and self.fields == other.fields

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        fields = f", fields={dict(self.fields)}" if self.fields else ""
        return f"Fallback(allowed={sorted(self._allowed)}{fields})"


JSON_TYPE: Final = b"application/json"
PROBLEM_TYPE: Final = b"application/problem+json"
_BACKLOG: Final = "kept for later delivery: an earlier event of the same call waits"
_DENIED: Final = Ruling(Verdict.REJECT, Source.BACKEND, Reason.DENIED, REJECT_STATUS)


def backend_allow(body: bytes) -> Ruling:
    """The backend's 200: its body is passed on unchanged."""
    return Ruling(Verdict.ALLOW, Source.BACKEND, Reason.OK, ALLOW_STATUS, body, content_type=JSON_TYPE)


def backend_reject() -> Ruling:
    """The backend's 403: a decision, and final."""
    return _DENIED


def fallback_ruling(failure: Failure, fallback: Fallback, request_body: bytes) -> Ruling:
    """The configured verdict for a failure; *allow* echoes the request's body, with the configured changes.

    *request_body* is a hook that has been read: one JSON object.
    """
    reason = Reason(failure.cause.value)
    proxy_status = _proxy_status(failure.proxy_error, failure.received_status)
    if fallback.verdict(failure.cause) is Verdict.ALLOW:
        ruling = Ruling(
            Verdict.ALLOW,
            Source.FALLBACK,
            reason,
            ALLOW_STATUS,
            request_body,
            content_type=JSON_TYPE,
            proxy_status=proxy_status,
            error=failure.detail,
        )
        changes = fallback.fields.get(failure.cause)
        if changes is None:
            return ruling
        return ruling.with_body(changes.put_into(request_body)).annotate(changed_fields=",".join(changes.names))
    return Ruling(
        Verdict.REJECT, Source.FALLBACK, reason, REJECT_STATUS, proxy_status=proxy_status, error=failure.detail
    )


def spool_ruling(cause: Failure | None, request_body: bytes) -> Ruling:
    """The answer to an event that has been kept for later delivery: *allow*, with its own body.

    *cause*: why it could not be delivered; None where an earlier event of its call waits, so that it was not tried.
    """
    if cause is None:
        reason, error, detail = Reason.BACKLOG, ProxyError.DESTINATION_UNAVAILABLE, _BACKLOG
    else:
        reason, error, detail = Reason(cause.cause.value), cause.proxy_error, f"kept for later delivery: {cause.detail}"
    return Ruling(
        Verdict.ALLOW,
        Source.SPOOL,
        reason,
        ALLOW_STATUS,
        request_body,
        content_type=JSON_TYPE,
        proxy_status=_proxy_status(error, None if cause is None else cause.received_status),
        error=detail,
    )


def duplicate_ruling(ruling: Ruling) -> Ruling:
    """The verdict of an earlier hook for its duplicate; of the annotations, only the changed fields stay."""
    annotations = ruling.annotations
    if annotations is not None:
        annotations = (
            None if annotations.changed_fields is None else Annotations(changed_fields=annotations.changed_fields)
        )
    return msgspec.structs.replace(ruling, source=Source.DUPLICATE, annotations=annotations)


def static_ruling(verdict: Verdict, request_body: bytes) -> Ruling:
    """The verdict of an app that has no backend at all."""
    if verdict is Verdict.ALLOW:
        return Ruling(Verdict.ALLOW, Source.STATIC, Reason.OK, ALLOW_STATUS, request_body, content_type=JSON_TYPE)
    return Ruling(
        Verdict.REJECT, Source.STATIC, Reason.DENIED, REJECT_STATUS,
        proxy_status=_proxy_status(ProxyError.HTTP_REQUEST_DENIED),
    )  # fmt: skip


def rule_ruling(verdict: Verdict, request_body: bytes, rule: str) -> Ruling:
    """The verdict of a rule of the app, of this name."""
    ruling = msgspec.structs.replace(static_ruling(verdict, request_body), source=Source.RULE)
    return ruling.annotate(rule=rule)


def _proxy_status(error: ProxyError, received_status: int | None = None) -> bytes:
    text = f"gateway; error={error.value}"
    if received_status is not None:
        text += f"; received-status={received_status}"
    return text.encode("ascii")


def proxy_status(error: ProxyError) -> bytes:
    """The Proxy-Status field's value for an error that the gateway found (RFC 9209, section 2)."""
    return _proxy_status(error)
