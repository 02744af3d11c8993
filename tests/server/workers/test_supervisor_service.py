"""Several workers are one service: one port, one scrape, one log, one configuration, one start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.server.workers.gated import WORKERS, configuration
from tests.server.workers.hooks import Load, client_of, hook_of, send
from tests.server.workers.processes import count_becomes, counters_of, is_alive, parent_of, pids_of, status_at_each
from tests.support.faulty import FaultyBackend
from tests.support.gateways import ROOT, STOP_LIMIT, RunningGateway, wait_until

# --- one service ---


def test_the_workers_are_children_that_serve_one_port_and_status_names_them(shared: RunningGateway) -> None:
    pids = pids_of(shared)
    assert len(set(pids)) == WORKERS
    assert [parent_of(pid) for pid in pids] == [shared.pid] * WORKERS
    assert int(shared.hooks.rsplit(":", 1)[1]) > 0
    assert status_at_each(shared, "defaultApp") == dict.fromkeys(pids, 200)
    assert shared.metric("gateway_workers") == WORKERS


def test_one_scrape_speaks_for_all_workers_while_traffic_runs_and_gauges_come_to_rest(
    backend: FaultyBackend, shared: RunningGateway
) -> None:
    expected = {
        "gateway_hooks_total": {"app": "ok", "verdict": "allow", "source": "backend", "reason": "ok"},
        "gateway_hook_duration_seconds_count": {"app": "ok"},
        "gateway_upstream_attempts_total": {"upstream": "ok", "outcome": "ok"},
        "gateway_upstream_duration_seconds_count": {"upstream": "ok"},
    }
    counted = {name: shared.metric(name, **labels) for name, labels in expected.items()}
    before = counters_of(shared)
    with Load(shared, "ok", 4) as load:
        for _ in range(20):
            assert load.has_answered(10)
            now = counters_of(shared)
            assert [key for key in before if now.get(key, -1.0) < before[key]] == []
            assert 0 <= shared.metric("gateway_hooks_in_flight", app="ok") <= 4
            before = now
    assert load.errors == []
    for name, labels in expected.items():
        assert count_becomes(shared, counted[name] + load.answered, name, **labels), name
    assert count_becomes(shared, 0, "gateway_hooks_in_flight")
    opened = backend.open_connections("ok")
    assert wait_until(lambda: shared.metric("gateway_target_connections", upstream="ok") == opened)


def test_log_lines_of_several_workers_never_mix_in_a_pipe(tmp_path: Path) -> None:
    each, clients = 150, 4
    long = "\u0001" * 256  # each takes six bytes in JSON: the longest lines there can be
    with running_in_a_pipe(configuration(), tmp_path) as (gateway, parts, reader):

        def send_some(number: int) -> None:
            with client_of(gateway) as client:
                for _ in range(each):
                    fields = dict.fromkeys(("callId", "sessionId", "nodeId", "caller", "callee"), long)
                    assert send(client, hook_of("defaultApp", **fields))[0] == 200

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(send_some, range(clients)))
        assert len(status_at_each(gateway, "nobody")) == WORKERS
        assert gateway.metric("gateway_log_lines_dropped_total") == 0
        # The end leaves two seconds to what is not written by then.
        assert wait_until(lambda: b"".join(parts).count(b'"app":"defaultApp"') == each * clients)
        gateway.client.close()
        gateway.process.terminate()
        assert gateway.process.wait(STOP_LIMIT) == 0
        lines = [json.loads(line) for line in reader.result(20).splitlines()]
        assert len([line for line in lines if line.get("app") == "defaultApp"]) == each * clients


@contextlib.contextmanager
def running_in_a_pipe(config: str, directory: Path) -> Iterator[tuple[RunningGateway, list[bytes], Future[bytes]]]:
    """A gateway that logs into a pipe which is read slowly, what has been read, and all that it will have written."""
    path = directory / "gateway.yaml"
    path.write_text(config)
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "run", "-c", str(path)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    fd = process.stdout.fileno()
    first = os.read(fd, 65536)
    ready = json.loads(first.split(b"\n")[0])
    parts = [first]

    def read() -> bytes:
        while part := os.read(fd, 1500):
            parts.append(part)
            time.sleep(0.0005)  # slower than the writers: the pipe is full most of the time
        return b"".join(parts)

    with ThreadPoolExecutor(1) as pool:
        gateway = RunningGateway(process, path, directory / "none", ready["hooks"][0], ready["admin"])
        reading = pool.submit(read)
        try:
            yield gateway, parts, reading
        finally:
            gateway.client.close()
            process.kill()
            process.wait()
            wait_until(reading.done)
            process.stdout.close()


# --- reload ---


def by_signal(gateway: RunningGateway) -> None:
    os.kill(gateway.pid, signal.SIGHUP)


def by_signal_to_all(gateway: RunningGateway) -> None:
    for pid in (*pids_of(gateway), gateway.pid):  # as a terminal or `kill -HUP -- -PGID` sends it
        os.kill(pid, signal.SIGHUP)


def by_post(gateway: RunningGateway) -> None:
    assert gateway.post("/-/reload").json()["result"] == "success"


def by_file(gateway: RunningGateway) -> None:
    pass


@pytest.mark.parametrize("ask", [by_signal, by_signal_to_all, by_post, by_file])
def test_a_reload_reaches_every_worker(static: RunningGateway, ask: Callable[[RunningGateway], None]) -> None:
    pids = pids_of(static)
    name = ask.__name__
    assert status_at_each(static, name) == dict.fromkeys(pids, 403)
    static.write_config(configuration(allowed=name))
    ask(static)
    static.wait_for_line(lambda line: f"app {name} added" in line.get("changes", []))
    assert status_at_each(static, name) == dict.fromkeys(pids, 200)
    assert static.metric("gateway_config_last_reload_successful") == 1


# --- the start ---


def processes_marked(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes() and is_alive(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("key", ["listen", "admin"])
@pytest.mark.parametrize("taken_by", ["a stranger", "another gateway"])
def test_a_port_in_use_is_exit_status_1_a_line_that_names_it_and_no_process_left(
    shared: RunningGateway, tmp_path: Path, key: str, taken_by: str
) -> None:
    mark = uuid.uuid4().hex
    path = tmp_path / "gateway.yaml"
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        address = f"127.0.0.1:{stranger.getsockname()[1]}" if taken_by == "a stranger" else shared.hooks
        path.write_text(configuration(None, **{key: address}))
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "run", "-c", str(path)],
            capture_output=True, text=True, timeout=30, cwd=ROOT, env={**os.environ, "MARK": mark},
        )  # fmt: skip
        assert processes_marked(mark) == []
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert address in line
    assert f"server.{key}" in line
    assert "in use" in line
    assert "Traceback" not in done.stdout
    assert set(status_at_each(shared, "defaultApp").values()) == {200}


def test_workers_that_cannot_be_started_are_told_as_such(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(json.dumps({"server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": 2}}))
    # As where the interpreter has been replaced under a gateway that runs: there is nothing to start a worker with.
    program = "import sys, gateway.cli; sys.executable = '/nowhere/python'; gateway.cli.main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "run", "-c", str(config)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (1, "gateway: cannot serve: no such file or directory\n")
