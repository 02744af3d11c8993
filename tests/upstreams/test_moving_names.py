"""The gateway and the system's own resolver: a name that moves, a dead address of two, a dead name server.

Each gateway has an /etc/hosts or /etc/resolv.conf of its own, in a mount namespace.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from tests.http.client.loopback import full_backlog
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.programs import impossible, require

pytestmark = pytest.mark.real

A: Final = "127.0.0.2"
B: Final = "127.0.0.3"
NAME: Final = "php.wcs.test"


def program_with(file: Path, place: str) -> list[str]:
    """What runs a program that sees this file at that place; skips the test where that may not be."""
    unshare = require("unshare", "util-linux")
    script = 'mount --bind "$0" "$1" && shift && exec "$@"'
    program = [unshare, "-m", "sh", "-c", script, str(file), place]
    tried = subprocess.run([*program, "true"], capture_output=True, text=True, timeout=10)
    if tried.returncode != 0:
        impossible(f"no mount namespaces here: {tried.stderr.strip()}")
    return program


def configuration(url: str, **upstream: Any) -> str:
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "defaults": {"dedupe": "off", "timeout": "3s"},
            "upstreams": {"php": {"url": url, **upstream}},
            "apps": {"defaultApp": {"upstream": "php"}},
        }
    )


class Answering(BaseHTTPRequestHandler):
    """Allows, and says at which address."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"at": self.connection.getsockname()[0]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def machine(address: str, port: int = 0) -> Iterator[int]:
    server = ThreadingHTTPServer((address, port), Answering)
    bound = server.socket.getsockname()[1]
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield bound
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def send(gateway: RunningGateway) -> str:
    answer = gateway.hook(callId=uuid.uuid4().hex)
    assert answer.status_code == 200, answer.headers
    at: str = answer.json()["at"]
    return at


class Busy:
    """Hooks without a pause on some connections."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.answers: list[str] = []
        self.failures: list[BaseException] = []
        self._gateway = gateway
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(3)]

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.005):
                self.answers.append(send(self._gateway))
        except BaseException as exc:
            self.failures.append(exc)

    def __enter__(self) -> Busy:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)


def test_connections_that_hooks_keep_busy_follow_a_name_to_its_new_address(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{A} {NAME}\n")
    program = [*program_with(hosts, "/etc/hosts"), sys.executable, "-m", "gateway"]
    with machine(A) as port, machine(B, port):
        config = configuration(f"http://{NAME}:{port}")
        with running_gateway(config, tmp_path, program=program) as gateway, Busy(gateway) as busy:
            assert wait_until(lambda: len(busy.answers) > 20)
            assert set(busy.answers) == {A}
            hosts.write_text(f"{B} {NAME}\n")
            assert wait_until(lambda: set(busy.answers[-20:]) == {B}, 30)
            gateway.wait_for_line(lambda line: line.get("event") == "addresses_changed")
            assert busy.failures == []


def test_a_silent_address_of_two_costs_one_hook_its_delay_where_each_hook_needs_a_connection(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{A} {NAME}\n{B} {NAME}\n")
    namespace = program_with(hosts, "/etc/hosts")
    order = f"import socket; print(*[e[4][0] for e in socket.getaddrinfo({NAME!r}, 80, type=socket.SOCK_STREAM)])"
    asked = subprocess.run([*namespace, sys.executable, "-c", order], capture_output=True, text=True, timeout=10)
    first, second = asked.stdout.split()
    program = [*namespace, sys.executable, "-m", "gateway"]
    with machine(second) as port, full_backlog(first, port):
        config = configuration(f"http://{NAME}:{port}", keepalive="off")
        with running_gateway(config, tmp_path, program=program) as gateway:
            began = time.monotonic()
            assert {send(gateway) for _ in range(20)} == {second}
            assert time.monotonic() - began < 10 * 0.25
            gateway.wait_for_line(lambda line: line.get("event") == "address_failed" and line["address"] == first)


def test_a_name_server_that_is_silent_holds_up_neither_hooks_nor_scrapes_nor_the_end(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as name_server:
        address = f"127.{uuid.uuid4().int % 200 + 20}.0.9"
        try:
            name_server.bind((address, 53))
        except OSError as exc:
            impossible(f"no name server here: {exc}")
        conf = tmp_path / "resolv.conf"
        conf.write_text(f"nameserver {address}\noptions timeout:5 attempts:2\n")
        program = [*program_with(conf, "/etc/resolv.conf"), sys.executable, "-m", "gateway"]
        config = configuration("http://php.wcs.example", connect_timeout="2s", breaker="off")
        with running_gateway(config, tmp_path, program=program) as gateway:
            time.sleep(1.2)
            began = time.monotonic()
            assert gateway.hook(callId="1", headers={"Connection": "close"}).status_code == 403
            assert gateway.get("/metrics").status_code == 200
            assert time.monotonic() - began < 1.5  # and not connect_timeout, twice
            began = time.monotonic()
            assert gateway.stop() == 0
            assert time.monotonic() - began < 5
