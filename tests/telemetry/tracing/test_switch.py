"""Tracing goes on, off and to another collector with the configuration, and needs its packages only where it is on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import Config, loads
from gateway.model.trace_context import Sampling
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing import Tracing
from tests.support.collector import Collector
from tests.support.faulty import FaultyBackend, make_certificates, refused_port
from tests.support.gateways import LISTEN, ROOT, running_gateway, wait_until
from tests.telemetry.tracing.traced import configuration, trace_id, traceparent


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
