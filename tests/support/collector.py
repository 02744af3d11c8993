"""An OTLP receiver for the tests: takes what a collector takes over HTTP, and answers as a test says."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections import deque
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status

Value = str | int | float | bool


class ReceivedSpan(NamedTuple):
    """A span as it came, its ids in hexadecimal."""

    trace_id: str
    id: str
    parent: str
    name: str
    kind: str
    began: int
    """Unix time in nanoseconds, as is *ended*."""
    ended: int
    attributes: dict[str, Value]
    parent_elsewhere: bool
    failed: bool
    message: str
    resource: dict[str, Value]


class Export(NamedTuple):
    """A request as it came."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    spans: list[ReceivedSpan]


class Reply(NamedTuple):
    """What the collector answers to one request."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    rejected: int = 0
    """Spans that it says it has rejected."""


class Collector:
    """``with Collector() as collector:`` listens on 127.0.0.1 until the block ends; *replies* come first, then 200."""

    def __init__(self, replies: Iterable[Reply] = (), tls: ssl.SSLContext | None = None) -> None:
        self.exports: list[Export] = []
        """Every request in the order of arrival, with any answer."""
        self.taken: list[ReceivedSpan] = []
        """The spans of the requests that were answered with 200."""
        self.connections = 0
        self.open = threading.Event()
        """While it is not set, requests wait for their answer."""
        self.open.set()
        self._replies = deque(replies)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="collector", daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        """The spans of a trace that have been taken, by the time they began."""
        return sorted((span for span in self.taken if span.trace_id == trace_id), key=lambda span: span.began)

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                spans = spans_of(body)
                collector.exports.append(Export(self.path, headers, body, spans))
                collector.open.wait(20)
                reply = collector._replies.popleft() if collector._replies else Reply()
                if reply.status == 200:
                    collector.taken += spans
                answer = ExportTraceServiceResponse()
                if reply.rejected:
                    answer.partial_success.rejected_spans = reply.rejected
                    answer.partial_success.error_message = "over the quota"
                content = answer.SerializeToString()
                self.send_response(reply.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(content)))
                for name, value in reply.headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def handle(self) -> None:
                collector.connections += 1
                with contextlib.suppress(OSError):  # the gateway has ended meanwhile
                    super().handle()

            def log_message(self, *args: object) -> None:
                pass

        return Handler


def spans_of(body: bytes) -> list[ReceivedSpan]:
    """The spans in an OTLP request's body."""
    return [
        _received(span, _values(resource_spans.resource.attributes))
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


def _received(span: Span, resource: dict[str, Value]) -> ReceivedSpan:
    return ReceivedSpan(
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.name,
        Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
        bool(span.flags & SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK),
        span.status.code == Status.STATUS_CODE_ERROR,
        span.status.message,
        resource,
    )


def _values(attributes: Iterable[KeyValue]) -> dict[str, Value]:
    found = [(attribute.key, _value(attribute.value)) for attribute in attributes]
    assert len(dict(found)) == len(found), "an attribute stands twice"
    return dict(found)


def _value(value: AnyValue) -> Value:
    kind = value.WhichOneof("value")
    assert kind in ("string_value", "int_value", "double_value", "bool_value"), kind
    found: Value = getattr(value, kind)
    return found
