"""Spans as OTLP: the only module that needs the packages of the extra ``otel``.

It is imported by name, and only where tracing is configured. Attributes have the names of OpenTelemetry's semantic
conventions where there is one; the others start with ``gateway.``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from gateway import __version__
from gateway.model.decision import OTHER_METHOD
from gateway.telemetry.tracing.records import HookRecord, Kind

_STATUSES: Final = {"ok": 200, "denied": 403}
"""The status of a backend's answer, by the attempt's outcome; that of a failure is not known here."""
_METHOD_REFUSED: Final = 405
_FLAGS: Final = 0x101
"""Sampled (W3C Trace Context, section 3.2.3.3), and OTLP's SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK."""
_PARENT_ELSEWHERE: Final = 0x200
"""OTLP's SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK: the parent is a span of the hook's sender."""
_AT_ONCE: Final = 8
"""Hooks whose spans are made before the thread yields the interpreter to the event loop."""
_PAUSE: Final = 50e-6
"""Seconds; without it, a busy thread would keep the interpreter for a millisecond each time."""
_PATTERNS: Final = 1024
"""Patterns of spans that are kept; hooks need few."""

Value = str | int | float | None


class Encoder:
    """Encodes records as the body of an OTLP request.

    Spans are copies of patterns, with what is their own added: that takes a third of the time.
    """

    def __init__(self, resource: Mapping[str, str | int], scheme: str, urls: Mapping[tuple[str, str], str]) -> None:
        """*scheme* of the hooks: http or https; *urls*: of the targets, by upstream and target."""
        self._resource = Resource(attributes=_attributes(resource))
        self._scope = InstrumentationScope(name="wcs-gateway", version=__version__)
        self._scheme = scheme
        self._urls = urls
        self._hook_pattern = lru_cache(_PATTERNS)(self._new_hook_pattern)
        self._attempt_pattern = lru_cache(_PATTERNS)(self._new_attempt_pattern)

    def encode(self, records: Sequence[HookRecord]) -> bytes:
        """The body of a request with the spans of these hooks."""
        scope = ScopeSpans(scope=self._scope)
        for number, record in enumerate(records, 1):
            self._add(record, scope)
            if number % _AT_ONCE == 0:
                time.sleep(_PAUSE)
        resource_spans = ResourceSpans(resource=self._resource, scope_spans=[scope])
        return ExportTraceServiceRequest(resource_spans=[resource_spans]).SerializeToString()

    def rejected(self, answer: bytes) -> tuple[int, str]:
        """How many spans the collector has rejected, and the reason (OTLP, "Partial Success")."""
        try:
            partial = ExportTraceServiceResponse.FromString(answer).partial_success
        except DecodeError:
            return 0, ""
        return partial.rejected_spans, partial.error_message

    def _add(self, record: HookRecord, scope: ScopeSpans) -> None:
        """Add a hook's spans to the *scope*."""
        trace, began = record.trace, record.time
        trace_id = bytes.fromhex(trace.trace_id.decode())
        own_id, parent = trace.span.to_bytes(8, "big"), bytes.fromhex(trace.parent.decode())

        def add(pattern: Span, span_id: bytes, parent: bytes, start: float, duration: float, error: str | None) -> Span:
            """*start* in seconds after that of the hook; *error*: None where there is none."""
            span = scope.spans.add()
            span.CopyFrom(pattern)
            span.trace_id, span.span_id, span.parent_span_id = trace_id, span_id, parent
            span.start_time_unix_nano = begin = int((began + start) * 1e9)
            span.end_time_unix_nano = begin + int(duration * 1e9)
            if error is not None:
                span.status.code, span.status.message = Status.STATUS_CODE_ERROR, _without_surrogates(error)
            return span

        error = record.error if record.failed else None
        hook = add(self._hook_pattern(record.kind), own_id, parent, 0.0, record.duration, error)
        if parent:
            hook.flags = _FLAGS | _PARENT_ELSEWHERE
        hook.attributes.extend(
            _attributes(
                {
                    "gateway.request_id": record.request_id,
                    "gateway.node_id": record.node_id,
                    "gateway.session_id": record.session_id,
                    "gateway.call_id": record.call_id,
                }
            )
        )
        for number, attempt in enumerate(record.attempts, 1):
            start = record.asked_after + attempt.began
            pattern = self._attempt_pattern(attempt.upstream, attempt.target, record.kind.method, attempt.outcome)
            attempt_id = trace.attempt(number).to_bytes(8, "big")
            error = None if attempt.outcome in _STATUSES else attempt.error
            span = add(pattern, attempt_id, own_id, start, attempt.duration, error)
            if number > 1:
                span.attributes.extend(_attributes({"http.request.resend_count": number - 1}))
            if attempt.queued > 0.0:
                add(_QUEUE, trace.queue(number).to_bytes(8, "big"), attempt_id, start, attempt.queued, None)

    def _new_hook_pattern(self, kind: Kind) -> Span:
        verb = "_OTHER" if kind.status == _METHOD_REFUSED else "POST"
        attributes: dict[str, Value] = {
            "http.request.method": verb,
            "http.route": f"/{kind.method}",
            "http.response.status_code": kind.status,
            "url.scheme": self._scheme,
            "error.type": kind.reason if kind.failed else None,
            "gateway.server.app": kind.app,
            "gateway.method": kind.method,
            "gateway.verdict": kind.verdict,
            "gateway.source": kind.source,
            "gateway.reason": kind.reason,
            "gateway.upstream": kind.upstream,
            "gateway.budget_seconds": kind.budget,
        }
        return _pattern(f"{verb} /{kind.method}", Span.SPAN_KIND_SERVER, attributes)

    def _new_attempt_pattern(self, upstream: str, target: str, method: str, outcome: str) -> Span:
        url = self._urls.get((upstream, target))
        address, port, full = target, None, None
        if url is not None:
            parts = urlsplit(url)
            address, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
            full = url if method == OTHER_METHOD else f"{url}/{method}"  # the name of such a method is not known here
        attributes: dict[str, Value] = {
            "http.request.method": "POST",
            "http.response.status_code": _STATUSES.get(outcome),
            "url.full": full,
            "server.address": address,
            "server.port": port,
            "error.type": None if outcome in _STATUSES else outcome,
            "gateway.upstream": upstream,
            "gateway.target": target,
            "gateway.outcome": outcome,
        }
        return _pattern("POST", Span.SPAN_KIND_CLIENT, attributes)


def _pattern(name: str, kind: Span.SpanKind.ValueType, attributes: Mapping[str, Value]) -> Span:
    return Span(name=name, kind=kind, flags=_FLAGS, attributes=_attributes(attributes))


def _attributes(values: Mapping[str, Value]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in values.items() if value is not None]


def _value(value: str | float) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=_without_surrogates(value))
    return AnyValue(int_value=value) if isinstance(value, int) else AnyValue(double_value=value)


def _without_surrogates(text: str) -> str:
    """The text without lone surrogates, which protobuf rejects."""
    return text.encode("utf-8", "replace").decode("utf-8")


_QUEUE: Final = _pattern("queue", Span.SPAN_KIND_INTERNAL, {})
