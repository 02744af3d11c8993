"""The systemd units on a machine that systemd runs: start, status, reload, watchdog, stop; hardened as they are."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.deploy.booted import LIMIT, Machine, booted_machine
from tests.support.gateways import wait_until
from tests.support.programs import free_port

pytestmark = [pytest.mark.real, pytest.mark.slow]

SLOW: Final = 3.0
"""Seconds that the backend takes: more than the drop-in's TimeoutStopSec=."""
DROP_IN: Final = "[Service]\nWatchdogSec=5\nTimeoutStopSec=1\n"


class SlowBackend(BaseHTTPRequestHandler):
    """Agrees after a while."""

    asked = threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.set()
        time.sleep(SLOW)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), SlowBackend) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/rest"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def machine(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    hooks, admin = free_port(), free_port()
    config = (
        f"server: {{listen: '127.0.0.1:{hooks}', admin: '127.0.0.1:{admin}', workers: 2, drain_timeout: 20s}}\n"
        "store: {url: 'sqlite:///var/lib/wcs-gateway/store.db'}\n"
        f"upstreams: {{u: {{url: '{backend}'}}, gone: {{url: 'http://127.0.0.1:9'}}}}\n"
        "apps: {a: {static: allow}, slow: {upstream: u, timeout: 10s}, gone: {upstream: gone, spool: on}}\n"
    )
    directory = tmp_path_factory.mktemp("machine")
    with booted_machine(directory, config, hooks, admin, {"wcs-gateway.service": DROP_IN}) as running:
        yield running


@pytest.fixture
def started(machine: Machine) -> Machine:
    """The service with its first configuration, as it was before if it runs."""
    machine.write_config(machine.config)
    if machine.property("ActiveState") == "active":
        assert machine.systemctl("reload", "wcs-gateway") == 0, machine.journal()
    else:
        machine.systemctl("reset-failed", "wcs-gateway")
        done = machine.do("systemctl", "start", "wcs-gateway")
        status = machine.do("systemctl", "status", "wcs-gateway").stdout
        assert done.returncode == 0, done.stderr + status + machine.journal()
    assert wait_until(lambda: machine.hook() == 200 and machine.property("StatusText") == "serving 3 apps", 20)
    return machine


def test_a_start_returns_when_hooks_are_taken_and_the_status_says_what_is_served(started: Machine) -> None:
    assert started.hook() == 200
    assert started.property("StatusText") == "serving 3 apps"
    assert (started.property("ActiveState"), started.property("SubState")) == ("active", "running")


def test_the_service_runs_confined_as_its_unit_says(started: Machine) -> None:
    process = Path(f"/proc/{started.main_pid()}")
    status = process.joinpath("status").read_text()
    assert re.findall(r"^Cap\w+:\t(\w+)$", status, re.MULTILINE) == ["0" * 16] * 5
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)
    assert not re.search(r"^Uid:\t0\t", status, re.MULTILINE)
    limits = process.joinpath("limits").read_text()
    # Root may be denied more than it has itself; then systemd gives what it can.
    files = {int(started.property("LimitNOFILE")), resource.getrlimit(resource.RLIMIT_NOFILE)[1]}
    assert any(re.search(rf"^Max open files\s+{most}\s+{most}\s", limits, re.MULTILINE) for most in files), limits
    for place in ("etc/wcs-gateway/new", "opt/new", "var/new"):
        with pytest.raises(OSError, match="Read-only"):
            process.joinpath("root", place).touch()
    assert list(process.joinpath("root/root").iterdir()) == []


def test_what_is_kept_is_in_a_directory_of_its_own_and_outlives_a_restart(started: Machine) -> None:
    def kept() -> int | None:
        status: dict[str, int | None] | None = started.ask("/api/spool")
        return None if status is None else status["events"]

    assert wait_until(lambda: kept() == 0, 20), started.journal()
    assert started.hook("gone", "CallStatusEvent") == 200
    assert kept() == 1
    assert started.systemctl("restart", "wcs-gateway") == 0
    assert wait_until(lambda: kept() == 1, 20), started.journal()
    state = Path(f"/proc/{started.pid}/root/var/lib/wcs-gateway")
    assert {path.name for path in state.glob("*.db")} == {"store.spool.db", "store.history.db"}
    user = started.do("id", "-u", "wcs-gateway").stdout.strip()
    assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in state.iterdir()} == {(int(user), 0o600)}
    assert (state.stat().st_uid, state.stat().st_mode & 0o777) == (int(user), 0o700)


def test_a_reload_takes_a_changed_file_and_one_of_a_broken_file_fails(started: Machine) -> None:
    started.write_config(started.config.replace("static: allow", "static: reject"))
    assert started.systemctl("reload", "wcs-gateway") == 0
    assert wait_until(lambda: started.hook() == 403)
    started.write_config("apps: [")
    assert started.systemctl("reload", "wcs-gateway") != 0
    # The file is watched too, and the status shows that it is not what is served.
    assert wait_until(lambda: "NOT in use" in started.property("StatusText"), 20)
    assert started.hook() == 403
    assert started.property("ActiveState") == "active"


def test_a_worker_that_is_killed_is_replaced_without_systemd(started: Machine) -> None:
    def workers() -> set[int]:
        status = httpx.get(f"http://127.0.0.1:{started.admin}/api/status", trust_env=False).json()
        return set(status["workers"])

    before, systemd_s = workers(), started.property("NRestarts")
    assert started.do("kill", "-KILL", str(min(before))).returncode == 0
    assert wait_until(lambda: len(workers()) == 2 and workers() != before, 20)
    assert (started.property("ActiveState"), started.property("NRestarts")) == ("active", systemd_s)


def test_a_stop_waits_for_hooks_as_long_as_the_drain_may_last_whatever_the_unit_s_limit_is(started: Machine) -> None:
    SlowBackend.asked.clear()
    with ThreadPoolExecutor(1) as pool:
        hook = pool.submit(started.hook, "slow")
        assert SlowBackend.asked.wait(10)
        assert started.systemctl("stop", "wcs-gateway") == 0
        assert hook.result(30) == 200
    assert started.property("Result") == "success"
    assert started.property("ActiveState") == "inactive"


def test_a_gateway_whose_loop_stands_still_is_started_again(started: Machine) -> None:
    before, restarts = started.main_pid(), int(started.property("NRestarts"))
    os.kill(before, signal.SIGSTOP)
    again = str(restarts + 1)
    assert wait_until(
        lambda: (started.property("NRestarts"), started.property("ActiveState")) == (again, "active"), LIMIT
    )
    assert started.main_pid() != before
    assert started.hook() == 200


def test_a_wrong_configuration_fails_the_start_and_is_not_tried_again(started: Machine) -> None:
    started.write_config("apps: [")
    assert started.systemctl("restart", "wcs-gateway") != 0
    assert (started.property("ActiveState"), started.property("ExecMainStatus")) == ("failed", "2")
    assert "gateway.yaml:1:8" in started.journal()


def test_a_taken_port_is_tried_again_until_it_is_free(machine: Machine) -> None:
    machine.write_config(machine.config)
    machine.systemctl("stop", "wcs-gateway")
    machine.systemctl("reset-failed", "wcs-gateway")
    with socket.create_server(("127.0.0.1", machine.hooks)):
        machine.systemctl("start", "--no-block", "wcs-gateway")
        assert wait_until(lambda: int(machine.property("NRestarts")) >= 1, LIMIT)
    assert wait_until(lambda: machine.property("ActiveState") == "active", LIMIT), machine.journal()
    assert machine.hook() == 200


def test_an_instance_serves_its_own_configuration_beside_the_service(started: Machine) -> None:
    ports = free_port(), free_port()
    text = started.config.replace(str(started.hooks), str(ports[0])).replace(str(started.admin), str(ports[1]))
    started.write_config(text.replace("workers: 2", "workers: 1"), "blue")
    assert started.systemctl("start", "wcs-gateway@blue") == 0, started.journal()
    assert started.property("ActiveState", "wcs-gateway@blue") == "active"
    assert Machine(started.pid, *ports, text).hook() == 200
    assert started.hook() == 200
    assert started.systemctl("stop", "wcs-gateway@blue") == 0
