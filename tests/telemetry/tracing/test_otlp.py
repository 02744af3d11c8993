"""The spans that a collector gets of real hooks, and what they say."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.semconv import attributes as semantic_conventions

from gateway.model.decision import AttemptRecord, Decision
from gateway.model.trace_context import Trace
from gateway.model.verdicts import backend_allow
from gateway.telemetry.tracing.records import make_record
from tests.support.collector import Collector, Export, ReceivedSpan, spans_of
from tests.support.faulty import FaultyBackend, gated_case, refused_port
from tests.support.gateways import LISTEN, RunningGateway, running_gateway, wait_until
from tests.telemetry.tracing.traced import PARENT, configuration, decision, encoder, trace_id, traceparent


class Stage:
    """A gateway that traces, its backend and its collector."""

    def __init__(self, gateway: RunningGateway, backend: FaultyBackend, collector: Collector) -> None:
        self.gateway = gateway
        self.backend = backend
        self.collector = collector
        self._trace = 0

    def hook(self, app: str, method: str = "OnCallEvent", **fields: Any) -> int:
        """Send a hook whose sender traces it; the number of its trace."""
        self._trace += 1
        self.gateway.hook(method, appKey=app, headers=traceparent(self._trace), **fields)
        return self._trace

    def spans(self, number: int, count: int) -> list[ReceivedSpan]:
        """The spans of a trace, once there are *count*."""
        spans: list[ReceivedSpan] = wait_until(lambda: self._spans(number, count))
        assert spans, self.collector.taken
        return spans

    def _spans(self, number: int, count: int) -> list[ReceivedSpan]:
        spans = self.collector.trace(trace_id(number))
        return spans if len(spans) >= count else []


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with FaultyBackend() as backend, Collector() as collector, refused_port() as refused:
        config = configuration(collector.url, backend, refused)
        with running_gateway(config, tmp_path_factory.mktemp("tracing")) as gateway:
            yield Stage(gateway, backend, collector)


def of_kind(spans: list[ReceivedSpan], kind: str) -> list[ReceivedSpan]:
    return [span for span in spans if span.kind == kind]


def test_a_hook_is_a_server_span_in_the_sender_s_trace_and_its_attempt_a_client_span_below(stage: Stage) -> None:
    number = stage.hook("ok", callId="call-1", sessionId="session-1", nodeId="node-1")
    hook, attempt = stage.spans(number, 2)
    assert (hook.kind, hook.name, hook.parent, hook.failed) == ("server", "POST /OnCallEvent", PARENT, False)
    assert (attempt.kind, attempt.name, attempt.parent, attempt.failed) == ("client", "POST", hook.id, False)
    assert (hook.parent_elsewhere, attempt.parent_elsewhere) == (True, False)
    assert hook.began <= attempt.began <= attempt.ended <= hook.ended
    sent = stage.backend.requests_of("ok")[-1]
    line = stage.gateway.access_lines()
    assert hook.attributes == {
        "http.request.method": "POST",
        "http.route": "/OnCallEvent",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "gateway.server.app": "ok",
        "gateway.method": "OnCallEvent",
        "gateway.verdict": "allow",
        "gateway.source": "backend",
        "gateway.reason": "ok",
        "gateway.upstream": "ok",
        "gateway.budget_seconds": 10.0,
        "gateway.request_id": sent.values("x-request-id")[0].decode(),
        "gateway.node_id": "node-1",
        "gateway.session_id": "session-1",
        "gateway.call_id": "call-1",
    }, line
    assert attempt.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.full": f"{stage.backend.url_of('ok')}/OnCallEvent",
        "server.address": "127.0.0.1",
        "server.port": stage.backend.port,
        "gateway.upstream": "ok",
        "gateway.target": f"127.0.0.1:{stage.backend.port}",
        "gateway.outcome": "ok",
    }


def test_the_backend_is_told_the_attempt_as_its_parent(stage: Stage) -> None:
    number = stage.hook("ok")
    (attempt,) = of_kind(stage.spans(number, 2), "client")
    told = [value.decode() for request in stage.backend.requests for value in request.values("traceparent")]
    assert f"00-{trace_id(number)}-{attempt.id}-01" in told


def test_a_hook_without_a_traceparent_begins_a_trace(stage: Stage) -> None:
    stage.gateway.hook(appKey="ok", callId="begins-here")
    (told,) = stage.backend.requests_of("ok")[-1].values("traceparent")
    trace = told.decode().split("-")[1]
    hook, attempt = wait_until(lambda: spans if len(spans := stage.collector.trace(trace)) == 2 else None)
    assert (hook.parent, hook.parent_elsewhere) == ("", False)
    assert attempt.parent == hook.id
    assert hook.attributes["gateway.request_id"] == trace  # which is how a log line leads to its trace


def test_a_hook_that_its_sender_does_not_trace_passes_as_without_tracing(stage: Stage) -> None:
    header = traceparent(0xFFFF, "00")
    stage.gateway.hook(appKey="ok", headers=header)
    assert stage.backend.requests_of("ok")[-1].values("traceparent") == [header["traceparent"].encode()]
    stage.spans(stage.hook("ok"), 2)  # by then the other's would have come
    assert stage.collector.trace(trace_id(0xFFFF)) == []


def test_every_attempt_has_its_span_and_the_backend_that_answers_is_told_the_last_one(stage: Stage) -> None:
    number = stage.hook("second")
    hook, *attempts = stage.spans(number, 3)
    failed, answered = of_kind(attempts, "client")
    assert (hook.failed, failed.failed, answered.failed) == (False, True, False)
    assert failed.attributes["error.type"] == failed.attributes["gateway.outcome"] == "unreachable"
    assert failed.message
    assert "http.response.status_code" not in failed.attributes
    assert answered.attributes["http.request.resend_count"] == 1
    assert failed.ended <= answered.began + 1000  # nanoseconds; both are rounded
    (told,) = stage.backend.requests_of("ok")[-1].values("traceparent")
    assert told.decode().split("-")[2] == answered.id


def test_an_upstream_that_stands_in_is_told_its_own_attempt(stage: Stage) -> None:
    number = stage.hook("gone")
    _, *attempts = stage.spans(number, 4)
    failed, again, answered = of_kind(attempts, "client")
    assert (failed.failed, again.failed, answered.failed) == (True, True, False)
    assert [span.attributes["gateway.upstream"] for span in attempts] == ["gone", "second", "second"]
    (told,) = stage.backend.requests_of("ok")[-1].values("traceparent")
    assert told.decode().split("-")[2] == answered.id


def test_a_request_that_met_a_closed_connection_has_a_span_of_its_own(stage: Stage) -> None:
    stage.hook("stale")
    number = stage.hook("stale")
    hook, lost, answered = stage.spans(number, 3)
    told = [request.values("traceparent")[0].decode() for request in stage.backend.requests_of("close_after_idle")]
    ids = [value.split("-")[2] for value in told if trace_id(number) in value]
    assert ids == [lost.id, answered.id]
    assert (hook.failed, lost.failed, answered.failed) == (False, True, False)


def test_the_wait_for_a_connection_is_a_span_of_its_own(tmp_path: Path) -> None:
    with (
        gated_case("gated_queue") as opened,
        FaultyBackend() as backend,
        Collector() as collector,
        ThreadPoolExecutor(2) as threads,
        running_gateway(
            f"{LISTEN}tracing: {{endpoint: '{collector.url}'}}\n"
            f"upstreams: {{u: {{url: '{backend.url_of('gated_queue')}', max_connections: 1}}}}\n"
            "apps: {a: {upstream: u, timeout: 14s, dedupe: 'off'}}\n",
            tmp_path,
        ) as gateway,
    ):
        sent = [threads.submit(gateway.hook, appKey="a", headers=traceparent(n)) for n in (1, 2)]
        assert wait_until(lambda: gateway.metric("gateway_hooks_in_flight", app="a") == 2)
        assert backend.wait_for_requests(1, "gated_queue", within=5)
        opened.set()
        assert [future.result().status_code for future in sent] == [200, 200]
        assert wait_until(lambda: len(collector.taken) == 5), collector.taken
        (queue,) = of_kind(collector.taken, "internal")
        (attempt,) = [span for span in collector.taken if span.id == queue.parent]
        assert queue.name == "queue"
        assert attempt.kind == "client"
        assert (queue.trace_id, queue.began) == (attempt.trace_id, attempt.began)
        assert queue.began < queue.ended <= attempt.ended
        assert wait_until(lambda: gateway.metric("gateway_spans_exported_total") == 5)


def test_a_failed_backend_marks_hook_and_attempt_as_failed_and_says_why(stage: Stage) -> None:
    hook, attempt = stage.spans(stage.hook("html"), 2)
    assert hook.failed
    assert attempt.failed
    assert hook.message == attempt.message != ""
    assert hook.attributes["error.type"] == attempt.attributes["error.type"] == "bad_answer"
    assert (hook.attributes["gateway.source"], hook.attributes["http.response.status_code"]) == ("fallback", 403)


def test_a_denial_is_no_failure(stage: Stage) -> None:
    hook, attempt = stage.spans(stage.hook("denied"), 2)
    assert not hook.failed
    assert not attempt.failed
    assert attempt.attributes["http.response.status_code"] == 403


def test_a_hook_that_no_backend_is_asked_for_is_one_span(stage: Stage) -> None:
    (static,) = stage.spans(stage.hook("static"), 1)
    assert (static.attributes["gateway.source"], static.failed) == ("static", False)
    (unknown,) = stage.spans(stage.hook("nobody"), 1)
    assert (unknown.attributes["gateway.server.app"], unknown.failed) == ("_unknown", False)
    stage.hook("twice", callId="the same")
    (repeat,) = stage.spans(stage.hook("twice", callId="the same"), 1)
    assert repeat.attributes["gateway.source"] == "duplicate"


def test_a_request_that_is_no_hook_is_traced_under_no_name_of_its_own(stage: Stage) -> None:
    stage.gateway.client.get(f"{stage.gateway.url}/Evil", headers=traceparent(0xE))
    (span,) = stage.spans(0xE, 1)
    assert span.name == "_OTHER /_other"
    assert span.attributes["http.response.status_code"] == 405


def test_a_method_that_nobody_knows_stands_in_no_span(stage: Stage) -> None:
    number = stage.hook("ok", "SomethingOfTheirs")
    spans = stage.spans(number, 2)
    assert "SomethingOfTheirs" not in repr(spans)


def test_no_phone_number_and_no_body_is_in_an_export(stage: Stage) -> None:
    stage.spans(stage.hook("ok", caller="+4930123456", callee="sip:secret", custom="of-the-body"), 2)
    exported = b"".join(export.body for export in stage.collector.exports)
    assert b"4930123456" not in exported
    assert b"sip:secret" not in exported
    assert b"of-the-body" not in exported


def test_an_export_goes_to_the_traces_path_with_the_configured_headers_and_names_the_service(stage: Stage) -> None:
    stage.spans(stage.hook("ok"), 2)
    export: Export = stage.collector.exports[-1]
    assert export.path == "/v1/traces"
    assert export.headers["content-type"] == "application/x-protobuf"
    assert export.headers["x-key"] == "the-secret-key"
    resource = export.spans[0].resource
    assert resource["service.name"] == "gw-7"
    assert {"service.version", "service.instance.id", "host.name", "process.pid"} < resource.keys()


def test_the_collector_s_key_is_shown_nowhere(stage: Stage) -> None:
    assert "the-secret-key" not in stage.gateway.get("/api/config").text
    assert "the-secret-key" not in stage.gateway.log.read_text()


def test_attributes_have_the_names_of_the_semantic_conventions(stage: Stage) -> None:
    stage.spans(stage.hook("second"), 3)
    spans = stage.collector.taken
    used = {name for span in spans for name in (*span.attributes, *span.resource)}
    known = {name for name in used if not name.startswith("gateway.")}
    assert known
    assert known <= conventional_names()


def conventional_names() -> set[str]:
    """Every attribute's name that the semantic conventions have, stable ones and others."""
    directory = Path(next(iter(semantic_conventions.__path__))).parent
    files = [*directory.glob("attributes/*.py"), *directory.glob("_incubating/attributes/*.py")]
    return {line.split('"')[1] for file in files for line in file.read_text().splitlines() if ': Final = "' in line}


def test_a_text_that_is_no_sound_utf_8_still_makes_a_span() -> None:
    trace = Trace(b"1" * 32, b"", 1 << 63)
    attempt = AttemptRecord("u", "t:1", 0.0, 0.1, 0.0, "timeout", "half a pair: \ud83d")
    one = Decision(backend_allow(b"{}"), 1.0, "r", "a", "connect", 1.0, 0.5, "u", "t:1", 1, 0.1, None, 0.0, (attempt,))
    spans = spans_of(encoder().encode([make_record(one, trace)]))
    assert spans[1].message == "half a pair: ?"
    assert spans[1].attributes["server.address"] == "t:1"  # a target that the configuration has no more


def test_a_record_does_not_hold_the_hook_s_body() -> None:
    record = make_record(decision(), Trace(b"1" * 32, b"", 1 << 63))
    assert record.call_id == "\N{TELEPHONE RECEIVER}"
    assert not any(isinstance(getattr(record, name), bytes | memoryview) for name in record.__struct_fields__)
