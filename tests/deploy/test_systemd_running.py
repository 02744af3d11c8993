"""The systemd units on a machine that systemd runs: start, status, reload, watchdog, stop; hardened as they are."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support.gateways import ROOT, wait_until
from tests.support.programs import free_port, require

pytestmark = [pytest.mark.real, pytest.mark.slow]

UNITS: Final = ROOT / "deploy" / "systemd"
LIMIT: Final = 60.0
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


class Machine:
    """A machine that runs, with the gateway installed and not started."""

    def __init__(self, pid: int, hooks: int, admin: int, config: str) -> None:
        self.pid = pid
        self.hooks = hooks
        self.admin = admin
        self.config = config

    def do(self, *words: str) -> subprocess.CompletedProcess[str]:
        enter = [
            "nsenter",
            f"--target={self.pid}",
            "--mount",
            "--pid",
            "--root",
            "--wd",
            "--ipc",
            "--cgroup",
            "env",
            "-i",
        ]
        path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.run([*enter, path, *words], capture_output=True, text=True, timeout=LIMIT)

    def systemctl(self, *words: str) -> int:
        return self.do("systemctl", *words).returncode

    def property(self, name: str, unit: str = "wcs-gateway") -> str:
        return self.do("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def write_config(self, text: str, name: str = "gateway") -> None:
        Path(f"/proc/{self.pid}/root/etc/wcs-gateway/{name}.yaml").write_text(text)

    def main_pid(self) -> int:
        """Of the gateway, outside of the machine."""
        inside = self.property("MainPID")
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                text = status.read_text()
                same = os.readlink(status.parent / "ns/pid") == os.readlink(f"/proc/{self.pid}/ns/pid")
            except OSError:
                continue
            if same and re.search(rf"^NSpid:\t\d+\t{inside}$", text, re.MULTILINE):
                return int(status.parent.name)
        raise AssertionError(f"no process {inside}")

    def journal(self) -> str:
        return self.do("journalctl", "--no-pager", "--output=cat", "--lines=60").stdout

    def ask(self, path: str) -> Any:
        """The admin port's answer; None while there is none."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.admin}{path}", trust_env=False, timeout=10).json()
        except httpx.TransportError:
            return None

    def hook(self, app: str = "a", method: str = "OnCallEvent") -> int:
        url, body = f"http://127.0.0.1:{self.hooks}/rest/{method}", f'{{"appKey":"{app}"}}'.encode()
        return httpx.post(url, content=body, trust_env=False, timeout=30).status_code


@pytest.fixture(scope="module")
def machine(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    require("systemctl", "systemd")
    if os.geteuid() != 0:
        pytest.skip("only root can boot a machine")
    filesystems = Path("/proc/filesystems").read_text().split()
    if not {"overlay", "cgroup2"} <= set(filesystems):
        pytest.skip("this kernel has no overlay file system, or no cgroup v2")
    directory = tmp_path_factory.mktemp("machine")
    hooks, admin = free_port(), free_port()
    config = (
        f"server: {{listen: '127.0.0.1:{hooks}', admin: '127.0.0.1:{admin}', workers: 2, drain_timeout: 20s}}\n"
        "store: {url: 'sqlite:///var/lib/wcs-gateway/store.db'}\n"
        f"upstreams: {{u: {{url: '{backend}'}}, gone: {{url: 'http://127.0.0.1:9'}}}}\n"
        "apps: {a: {static: allow}, slow: {upstream: u, timeout: 10s}, gone: {upstream: gone, spool: on}}\n"
    )
    # The interpreter of the tests may be under /root, which the unit hides.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (directory / "gateway").write_text(
        "#!/bin/sh\nexport LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/code:/opt/packages\n"
        f'exec /opt/python/bin/{version} -m gateway "$@"\n'
    )
    (directory / "gateway").chmod(0o755)
    (directory / "gateway.yaml").write_text(config)
    (directory / "drop-in.conf").write_text(DROP_IN)
    # As root is asked to do: systemd makes the user, from the file for it.
    (directory / "etc").mkdir()
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", directory / "etc" / name)
    subprocess.run(["systemd-sysusers", f"--root={directory}", str(UNITS / "sysusers.conf")], check=True)
    code = directory / "code"
    shutil.copytree(ROOT / "gateway", code / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    options = {
        "-v": [
            f"{sys.base_prefix}:/opt/python", f"{sysconfig.get_path('purelib')}:/opt/packages", f"{code}:/opt/code",
        ],
        "-f": [
            f"{directory}/gateway:/opt/wcs-gateway/bin/gateway",
            f"{directory}/gateway.yaml:/etc/wcs-gateway/gateway.yaml",
            f"{directory}/drop-in.conf:/etc/systemd/system/wcs-gateway.service.d/test.conf",
            *(f"{directory}/etc/{name}:/etc/{name}" for name in ("passwd", "group")),
            *(f"{unit}:/etc/systemd/system/{unit.name}" for unit in UNITS.glob("*.service")),
        ],
    }  # fmt: skip
    words = [word for option, values in options.items() for value in values for word in (option, value)]
    launcher = Path(__file__).with_name("machine.py")
    process = subprocess.Popen([sys.executable, str(launcher), *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        running = Machine(int(process.stdout.readline()), hooks, admin, config)
        assert wait_until(lambda: running.systemctl("is-active", "basic.target") == 0, LIMIT)
        yield running
    finally:
        process.terminate()
        assert process.wait(30) == 0
        assert process.stdout is not None
        process.stdout.close()


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
