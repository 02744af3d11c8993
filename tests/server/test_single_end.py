"""How a gateway ends, and how it does not begin."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support.faulty import FaultyBackend, gated_case, right_answer
from tests.support.gateways import ROOT, RunningGateway, read_answer, running_gateway, wait_until

SIGNALS: Final = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    with gated_case() as opened:
        yield opened


@pytest.fixture
def backend(gate: threading.Event) -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running


def configuration(backend: FaultyBackend, **server: Any) -> str:
    upstreams = {name: {"url": backend.url_of(name)} for name in ("ok", "gated", "hang")}
    apps: dict[str, Any] = {name: {"upstream": name, "timeout": "60s"} for name in upstreams}
    apps["hang-allow"] = {"upstream": "hang", "timeout": "60s", "fallback": "allow"}
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", **server},
            "media_server": {"request_timeout": "2m"},
            "defaults": {"dedupe": "off"},
            "upstreams": upstreams,
            "apps": apps,
        }
    )


def hook_of(app: str) -> bytes:
    return json.dumps({"appKey": app, "n": 1.0}).encode()


@contextlib.contextmanager
def under_way(gateway: RunningGateway, backend: FaultyBackend, *apps: str) -> Iterator[list[Future[httpx.Response]]]:
    """Hooks that the backend has begun to work on when the block begins."""
    url = f"{gateway.url}/OnCallEvent"
    with ThreadPoolExecutor(len(apps)) as pool, httpx.Client(trust_env=False, timeout=60) as client:
        hooks = [pool.submit(client.post, url, content=hook_of(app)) for app in apps]
        assert wait_until(lambda: len(backend.requests) == len(apps))
        yield hooks


def is_refused(gateway: RunningGateway) -> bool:
    try:
        gateway.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_an_idle_gateway_ends_with_status_0(backend: FaultyBackend, tmp_path: Path) -> None:
    with running_gateway(configuration(backend), tmp_path) as gateway:
        assert gateway.hook(body=hook_of("ok")).status_code == 200
        assert gateway.get("/-/ready").status_code == 200
        gateway.client.close()
        assert gateway.stop() == 0
        assert gateway.lines()[-1]["message"] == "stopped"
        assert "Traceback" not in gateway.log.read_text()
    assert backend.wait_for_connections(0, within=10)


@pytest.mark.parametrize("number", SIGNALS)
def test_hooks_in_flight_are_answered_while_new_connections_are_refused(
    backend: FaultyBackend, gate: threading.Event, tmp_path: Path, number: signal.Signals
) -> None:
    with (
        running_gateway(configuration(backend), tmp_path) as gateway,
        under_way(gateway, backend, "gated", "gated", "gated") as hooks,
    ):
        gateway.process.send_signal(number)
        assert wait_until(lambda: is_refused(gateway))
        ready = gateway.get("/-/ready")
        assert (ready.status_code, ready.text.strip()) == (503, "draining")
        assert gateway.get("/-/healthy").status_code == 200
        assert not any(hook.done() for hook in hooks)
        gate.set()
        for hook in hooks:
            answer = hook.result(20)
            assert (answer.status_code, answer.content) == (200, right_answer(hook_of("gated")))
            assert answer.headers["connection"] == "close"
        assert gateway.process.wait(20) == 0
        assert [line["verdict"] for line in gateway.access_lines()] == ["allow"] * 3
        assert gateway.lines()[-1]["message"] == "stopped"
        assert "Traceback" not in gateway.log.read_text()


def test_a_hung_backend_holds_up_the_end_no_longer_than_drain_timeout_and_its_hooks_get_their_fallback(
    backend: FaultyBackend, tmp_path: Path
) -> None:
    with (
        running_gateway(configuration(backend, drain_timeout="1s"), tmp_path) as gateway,
        under_way(gateway, backend, "hang", "hang-allow") as (rejected, allowed),
    ):
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        assert rejected.result(20).status_code == 403
        assert (allowed.result(20).status_code, allowed.result().content) == (200, hook_of("hang-allow"))
        assert gateway.process.wait(20) == 0
        assert time.monotonic() - began < 15  # the budget is 60 s
        assert sorted((line["app"], line["verdict"], line["source"]) for line in gateway.access_lines()) == [
            ("hang", "reject", "fallback"), ("hang-allow", "allow", "fallback"),
        ]  # fmt: skip
        assert "Traceback" not in gateway.log.read_text()


@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_ends_at_once_and_even_then_hooks_get_their_fallback(
    backend: FaultyBackend, tmp_path: Path, second: signal.Signals
) -> None:
    with (
        running_gateway(configuration(backend, drain_timeout="50s"), tmp_path) as gateway,
        under_way(gateway, backend, "hang", "hang-allow") as (rejected, allowed),
    ):
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        assert wait_until(lambda: is_refused(gateway))
        gateway.process.send_signal(second)
        gateway.process.wait(20)
        assert time.monotonic() - began < 20  # the drain would take 50 s
        assert rejected.result(20).status_code == 403
        assert (allowed.result(20).status_code, allowed.result().content) == (200, hook_of("hang-allow"))
        assert "Traceback" not in gateway.log.read_text()


def raw_hook(app: str) -> bytes:
    body = hook_of(app)
    return b"POST /rest/OnCallEvent HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def test_a_hook_that_sets_out_on_a_kept_connection_as_the_end_begins_is_answered_and_the_connection_closed(
    backend: FaultyBackend, tmp_path: Path
) -> None:
    with running_gateway(configuration(backend), tmp_path) as gateway:
        with gateway.connect() as sock, sock.makefile("rb") as stream:
            sock.sendall(raw_hook("ok"))
            assert "connection" not in read_answer(stream).headers
            gateway.process.send_signal(signal.SIGTERM)
            assert wait_until(lambda: is_refused(gateway))
            sock.sendall(raw_hook("ok"))
            status, headers, body = read_answer(stream)
            assert (status, headers["connection"], body) == (200, "close", right_answer(hook_of("ok")))
            assert stream.read() == b""
        assert gateway.process.wait(20) == 0
    assert len(backend.requests) == 2


def test_clients_that_send_no_more_hold_up_the_end_only_for_the_time_of_a_hook_or_of_javas_keepalive(
    backend: FaultyBackend, tmp_path: Path
) -> None:
    config = configuration(backend, read_timeout="1s", drain_timeout="50s")
    with running_gateway(config, tmp_path) as gateway, gateway.connect() as unused, gateway.connect() as half:
        unused.sendall(raw_hook("ok"))
        kept, slow = unused.makefile("rb"), half.makefile("rb")
        assert read_answer(kept).status == 200
        half.sendall(raw_hook("ok")[:-5])
        assert gateway.get("/-/ready").status_code == 200
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        assert read_answer(slow).status == 408
        assert slow.read() == b""
        assert kept.read() == b""
        assert gateway.process.wait(20) == 0
        assert time.monotonic() - began < 20  # the drain would take 50 s


# --- what keeps it from starting ---


def run(*configs: Path) -> list[subprocess.CompletedProcess[str]]:
    """``gateway run`` for each configuration, side by side, to their ends."""

    def one(config: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gateway", "run", "-c", str(config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT)

    with ThreadPoolExecutor(len(configs)) as pool:
        return list(pool.map(one, configs))


def test_a_port_in_use_is_exit_status_1_and_a_line_that_names_it(tmp_path: Path) -> None:
    keys = ("listen", "admin")
    paths = [tmp_path / f"{key}.yaml" for key in keys]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for key, path in zip(keys, paths, strict=True):
            path.write_text(json.dumps({"server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"} | {key: address}}))
        ended = run(*paths)
    for key, done in zip(keys, ended, strict=True):
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert address in line
        assert f"server.{key}" in line
        assert "in use" in line
        assert "Traceback" not in done.stdout


def test_a_bad_configuration_is_exit_status_2_and_every_problem_on_its_line(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        "servr: {}\nmedia_server: {request_timeout: soon}\napps:\n  a: {static: perhaps}\n  b: {upstream: nowhere}\n"
    )
    (done,) = run(path)
    assert done.returncode == 2
    places = [re.match(rf"{re.escape(str(path))}:(\d+):(\d+): (\S+): .+", line) for line in done.stderr.splitlines()]
    assert [place and (int(place[1]), place[3]) for place in places] == [
        (1, "servr"), (2, "media_server.request_timeout"), (4, "apps.a.static"), (5, "apps.b.upstream"),
    ]  # fmt: skip
    assert done.stdout == ""


def test_a_configuration_that_cannot_be_read_is_exit_status_2_and_one_line(tmp_path: Path) -> None:
    expected = {
        tmp_path / "nowhere.yaml": f"{tmp_path}/nowhere.yaml: not found (",
        tmp_path: f"{tmp_path}:1:1: cannot be read: ",  # a directory
    }
    for beginning, done in zip(expected.values(), run(*expected), strict=True):
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(beginning)
