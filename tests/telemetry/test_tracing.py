"""Tracing: the spans that a collector gets of real hooks, and that no hook ever waits or fails for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
from opentelemetry.semconv import attributes as semantic_conventions

from gateway.config import Config, loads
from gateway.model.decision import AttemptRecord, Decision
from gateway.model.hooks import parse_hook
from gateway.model.trace_context import Sampling, Trace
from gateway.model.verdicts import Verdict, backend_allow, static_ruling
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing import Tracing
from gateway.telemetry.tracing import exporter as exporter_module
from gateway.telemetry.tracing.exporter import QUEUE, Exporter
from gateway.telemetry.tracing.otlp import Encoder
from gateway.telemetry.tracing.records import make_record
from tests.support.collector import Collector, Export, ReceivedSpan, Reply, spans_of
from tests.support.faulty import FaultyBackend, gated_case, make_certificates, refused_port
from tests.support.gateways import LISTEN, ROOT, RunningGateway, running_gateway, wait_until

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = "00f067aa0ba902b7"


def traceparent(number: int, flags: str = "01") -> dict[str, str]:
    """The header of a sender whose trace has this number."""
    return {"traceparent": f"00-{trace_id(number)}-{PARENT}-{flags}"}


def trace_id(number: int) -> str:
    return f"{TRACE[:24]}{number:08x}"


def configuration(collector: str, backend: FaultyBackend, refused: int) -> str:
    url = backend.url_of
    upstreams: dict[str, dict[str, Any]] = {
        "ok": {"url": url("ok")},
        "denied": {"url": url("denied")},
        "html": {"url": url("body_notice_before")},
        "second": {"targets": [{"url": f"http://127.0.0.1:{refused}"}, {"url": url("ok"), "backup": True}]},
        "stale": {"url": url("close_after_idle")},
        "gone": {"url": f"http://127.0.0.1:{refused}", "breaker": "off", "retry": {"attempts": 1}},
    }
    apps: dict[str, dict[str, Any]] = {
        name: {"upstream": name, "timeout": "10s", "dedupe": "off"} for name in upstreams
    }
    apps["gone"]["failover"] = ["second"]
    apps["static"] = {"static": "allow"}
    apps["twice"] = {"upstream": "ok", "dedupe": "10s"}
    sections = {
        "tracing": {
            "endpoint": collector,
            "sample": 1,
            "service_name": "gw-7",
            "headers": {"X-Key": "the-secret-key"},
        },
        "upstreams": upstreams,
        "apps": apps,
    }
    return LISTEN + "".join(f"{key}: {json.dumps(section)}\n" for key, section in sections.items())


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


# --- what the spans say ---


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


# --- on, off and over ---


def test_without_tracing_nothing_of_opentelemetry_is_loaded_and_no_header_is_changed(tmp_path: Path) -> None:
    header = traceparent(1)
    with FaultyBackend() as backend:
        without = f"upstreams: {{u: {{url: '{backend.url_of('ok')}'}}}}\napps: {{a: {{upstream: u}}}}\n"
        with Collector() as collector, running_gateway(LISTEN + without, tmp_path) as gateway:

            def told() -> bytes:
                gateway.hook("connect", appKey="a", headers=header, sessionId=str(len(backend.requests)))
                return backend.requests[-1].values("traceparent")[0]

            def reload(text: str) -> None:
                gateway.reload(LISTEN + text + without)

            maps = Path(f"/proc/{gateway.pid}/maps")
            assert told() == header["traceparent"].encode()
            assert "google" not in maps.read_text()
            reload(f"tracing: {{endpoint: '{collector.url}'}}\n")
            assert told() != header["traceparent"].encode()
            assert "google" in maps.read_text()  # so that the line above it could have failed
            reload("")
            assert told() == header["traceparent"].encode()
            assert wait_until(lambda: len(collector.taken) == 2)
            assert [span.trace_id for span in collector.taken] == [trace_id(1)] * 2


def test_a_reload_goes_over_to_another_collector_and_loses_nothing(tmp_path: Path) -> None:
    with (
        FaultyBackend() as backend,
        Collector() as first,
        Collector() as second,
        refused_port() as refused,
        running_gateway(configuration(first.url, backend, refused), tmp_path) as gateway,
    ):
        gateway.hook(appKey="ok", headers=traceparent(1))
        changes = gateway.reload(configuration(second.url, backend, refused))["changes"]
        assert "tracing.endpoint changed" in changes
        gateway.hook(appKey="ok", headers=traceparent(2))
        assert wait_until(lambda: len(first.trace(trace_id(1))) == 2)
        assert wait_until(lambda: len(second.trace(trace_id(2))) == 2)
        assert (len(first.taken), len(second.taken)) == (2, 2)


async def test_a_reload_that_leaves_tracing_as_it_was_leaves_its_thread_alone() -> None:
    switched: list[Sampling | None] = []
    tracing = Tracing(Metrics("x"), lambda sampling, listener: switched.append(sampling))

    async def take(config: Config) -> None:
        change = await tracing.prepare(config)
        change.commit()
        await change.settle()

    with refused_port() as refused:
        text = f"tracing: {{endpoint: 'http://127.0.0.1:{refused}'}}\nupstreams: {{u: {{url: 'http://127.0.0.1/a'}}}}\n"
        await tracing.begin(loads(text).config)
        exporter = tracing._exporter
        await take(loads(text + "apps: {a: {static: allow}}\n").config)
        assert tracing._exporter is exporter is not None
        await take(loads(text.replace("127.0.0.1/a", "127.0.0.1/b")).config)  # spans name targets
        assert tracing._exporter is not exporter
        assert not exporter.is_alive
        last = tracing._exporter
        await tracing.aclose()
        assert last is not None
        assert not last.is_alive
    assert [sampling is not None for sampling in switched] == [True, True, False]


def test_a_collector_s_certificate_is_checked(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    trusting = {"SSL_CERT_FILE": str(certificates.ca)}
    for kind, is_taken in (("valid", True), ("wrong_host", False)):
        directory = tmp_path / f"{kind}_gateway"
        directory.mkdir()
        with (
            FaultyBackend() as backend,
            Collector(tls=certificates.server(kind)) as collector,
            refused_port() as refused,
            running_gateway(configuration(collector.url, backend, refused), directory, environment=trusting) as gateway,
        ):
            gateway.hook(appKey="static", headers=traceparent(1))
            if is_taken:
                assert wait_until(lambda: collector.taken)
            else:
                line = gateway.wait_for_line(lambda line: "does not accept spans" in line.get("message", ""))
                assert "CERTIFICATE_VERIFY_FAILED" in line["message"]
                assert collector.exports == []


def test_what_is_left_at_the_end_is_delivered(tmp_path: Path) -> None:
    with FaultyBackend() as backend, Collector() as collector, refused_port() as refused:
        with running_gateway(configuration(collector.url, backend, refused), tmp_path) as gateway:
            gateway.hook(appKey="ok", headers={**traceparent(1), "Connection": "close"})
            assert gateway.stop() == 0
        assert len(collector.trace(trace_id(1))) == 2


def test_workers_trace_each_for_itself_and_their_counts_are_one(tmp_path: Path) -> None:
    with FaultyBackend() as backend, Collector() as collector, refused_port() as refused:
        config = configuration(collector.url, backend, refused).replace("server: {", "server: {workers: 2, ")
        with running_gateway(config, tmp_path) as gateway:
            pids = set()
            for number in range(1, 200):
                with gateway.connect() as sock:  # a connection of its own may meet either worker
                    body = json.dumps({"appKey": "static"}).encode()
                    head = f"POST /x/OnCallEvent HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n"
                    head += f"traceparent: {traceparent(number)['traceparent']}\r\nConnection: close\r\n\r\n"
                    sock.sendall(head.encode() + body)
                    assert sock.recv(12) == b"HTTP/1.1 200"
            assert wait_until(lambda: len(collector.taken) == 199)
            pids = {span.resource["process.pid"] for span in collector.taken}
            assert len(pids) == 2
            assert wait_until(lambda: gateway.metric("gateway_spans_exported_total") == 199)


# --- a collector that fails ---


def test_a_dead_collector_costs_no_hook_and_the_log_tells_of_it_once(tmp_path: Path) -> None:
    closing = {"Connection": "close"}
    with FaultyBackend() as backend, refused_port() as refused:
        config = configuration(f"http://127.0.0.1:{refused}", backend, refused)
        with running_gateway(config, tmp_path) as gateway:
            assert gateway.hook(appKey="ok", headers=closing).status_code == 200
            gateway.wait_for_line(lambda line: "does not accept spans" in line.get("message", ""))
            assert gateway.hook(appKey="ok", callId="2", headers=closing).status_code == 200
            assert gateway.stop() == 0
            told = [line for line in gateway.lines() if "tracing" in line.get("message", "")]
            assert [line["level"] for line in told] == ["warning"]


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporters of this process send at once."""
    monkeypatch.setattr(exporter_module, "_EVERY", 0.02)


def encoder() -> Encoder:
    return Encoder({"service.name": "x"}, "http", {})


def exporter_of(url: str, metrics: Metrics) -> Exporter:
    config = loads(f"tracing: {{endpoint: '{url}'}}\n").config.tracing
    assert config is not None
    exporter = Exporter(config, encoder(), metrics)
    exporter.start()
    return exporter


def decision(number: int = 0) -> Decision:
    hook = parse_hook(b'{"appKey":"a","callId":"\xf0\x9f\x93\x9e"}')
    return Decision(static_ruling(Verdict.ALLOW, b"{}"), 1.0, f"r{number}", "a", "connect", None, 0.5, hook=hook)


def put(exporter: Exporter, count: int) -> None:
    for number in range(count):
        exporter.put(make_record(decision(number), Trace(b"1" * 32, b"", 1 << 63)))


def value(metrics: Metrics, name: str) -> float:
    found = [line for line in metrics.render().decode().splitlines() if line.startswith(name)]
    return sum(float(line.split()[-1]) for line in found)


DELIVERED: Final = "gateway_spans_exported_total"
FULL: Final = 'gateway_spans_dropped_total{reason="queue_full"}'
LOST: Final = 'gateway_spans_dropped_total{reason="not_delivered"}'


@pytest.mark.usefixtures("_hasty")
def test_a_collector_that_hangs_fills_a_bounded_queue_and_what_is_more_is_counted() -> None:
    metrics = Metrics("x")
    with Collector() as collector:
        collector.open.clear()
        exporter = exporter_of(collector.url, metrics)
        put(exporter, 1)
        assert wait_until(lambda: collector.exports)  # the thread waits for its answer
        put(exporter, QUEUE + 5)
        assert value(metrics, FULL) == 5
        collector.open.set()
        exporter.close(10)
        assert value(metrics, DELIVERED) == len(collector.taken) == QUEUE + 1
        assert value(metrics, LOST) == 0


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_collector_that_is_busy_is_asked_again_after_the_time_that_it_names(status: int) -> None:
    metrics = Metrics("x")
    with Collector([Reply(status, (("Retry-After", "0"),))]) as collector:
        exporter = exporter_of(collector.url, metrics)
        put(exporter, 3)
        assert wait_until(lambda: len(collector.taken) == 3)
        exporter.close(5)
        assert len(collector.exports) == 2
        assert (value(metrics, DELIVERED), value(metrics, LOST)) == (3, 0)


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("status", [301, 400, 401, 404, 500])
def test_a_refusal_is_final(status: int) -> None:
    metrics = Metrics("x")
    with Collector([Reply(status)]) as collector:
        exporter = exporter_of(collector.url, metrics)
        put(exporter, 3)
        assert wait_until(lambda: value(metrics, LOST) == 3)
        put(exporter, 2)
        exporter.close(5)
        assert (len(collector.exports), len(collector.taken)) == (2, 2)
        assert value(metrics, DELIVERED) == 2


@pytest.mark.usefixtures("_hasty")
def test_spans_that_the_collector_rejects_are_counted_as_dropped() -> None:
    metrics = Metrics("x")
    with Collector([Reply(rejected=2)]) as collector:
        exporter = exporter_of(collector.url, metrics)
        put(exporter, 5)
        exporter.close(5)
        assert (value(metrics, DELIVERED), value(metrics, LOST)) == (3, 2)


@pytest.mark.usefixtures("_hasty")
def test_spans_are_given_up_and_counted_when_patience_ends_and_a_collector_that_is_back_gets_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exporter_module, "_RETRY_DELAYS", (0.01, 0.01))
    metrics = Metrics("x")
    with caplog.at_level("INFO"), Collector([Reply(503)] * 3) as collector:
        exporter = exporter_of(collector.url, metrics)
        put(exporter, 2)
        assert wait_until(lambda: value(metrics, LOST) == 2)
        put(exporter, 3)
        assert wait_until(lambda: value(metrics, DELIVERED) == 3)
        exporter.close(5)
        assert len(collector.exports) == 4
    told = [
        record.getMessage().removeprefix("tracing: the collector ")
        for record in caplog.records
        if "tracing" in record.name
    ]
    assert told == ["does not accept spans: it answers 503", "accepts spans again"]


@pytest.mark.usefixtures("_hasty")
def test_patience_with_a_dead_collector_ends_with_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter_module, "_RETRY_DELAYS", (3600.0,))
    metrics = Metrics("x")
    with refused_port() as refused:
        exporter = exporter_of(f"http://127.0.0.1:{refused}", metrics)
        put(exporter, 1)
        exporter.close(10)
        assert value(metrics, LOST) == 1


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize(("age", "most"), [(300.0, 1), (0.1, 1000)])
def test_the_connection_to_a_busy_collector_is_kept_and_grows_no_older_than_it_may(
    age: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter_module, "CONNECTION_AGE", age)
    metrics = Metrics("x")
    with Collector() as collector:
        exporter = exporter_of(collector.url, metrics)
        for count in range(1, 21):
            put(exporter, 1)
            assert wait_until(lambda count=count: len(collector.taken) == count)  # type: ignore[misc]
        exporter.close(10)
        assert min(most, 2) <= collector.connections <= most
        assert value(metrics, DELIVERED) == 20


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


# --- without the extra ---


@pytest.mark.parametrize("command", ["check", "run"])
def test_tracing_without_its_packages_is_a_problem_that_says_what_to_install(command: str, tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()  # hides the real one, as if it were not installed
    config = tmp_path / "gateway.yaml"
    config.write_text(f"{LISTEN}tracing: {{endpoint: 'http://127.0.0.1:4318'}}\napps: {{a: {{static: allow}}}}\n")
    done = subprocess.run(
        [sys.executable, "-m", "gateway", command, "-c", str(config)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert f"{config}:2:1: tracing: needs packages that are not installed" in done.stderr
    assert "pip install 'wcs-gateway[otel]'" in done.stderr
