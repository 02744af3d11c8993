"""No hook waits or fails for a collector, and every span is delivered or counted as dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from gateway.config import loads
from gateway.model.trace_context import Trace
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing import exporter as exporter_module
from gateway.telemetry.tracing.exporter import QUEUE, Exporter
from gateway.telemetry.tracing.records import make_record
from tests.support.collector import Collector, Reply
from tests.support.faulty import FaultyBackend, refused_port
from tests.support.gateways import running_gateway, wait_until
from tests.telemetry.tracing.traced import configuration, decision, encoder


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporters of this process send at once."""
    monkeypatch.setattr(exporter_module, "_EVERY", 0.02)


def exporter_of(url: str, metrics: Metrics) -> Exporter:
    config = loads(f"tracing: {{endpoint: '{url}'}}\n").config.tracing
    assert config is not None
    exporter = Exporter(config, encoder(), metrics)
    exporter.start()
    return exporter


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
