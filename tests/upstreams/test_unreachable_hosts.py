"""Hosts that are not there: connecting to them meets silence, and the hook's budget is not spent on waiting."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final, NamedTuple

import pytest

from tests.support.faulty import FaultyBackend, full_backlog
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.programs import require

CONNECT: Final = 0.3
BUDGET: Final = 3.0
SPARE: Final = 2.0
"""Seconds by which a busy machine may make an answer late."""


@pytest.fixture(scope="module")
def well() -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running


def configuration(upstreams: dict[str, Any], **apps: dict[str, Any]) -> str:
    defaults = {"connect_timeout": f"{CONNECT * 1000:.0f}ms", "breaker": "off"}
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "defaults": {"timeout": f"{BUDGET:g}s", "dedupe": "off"},
            "upstreams": {name: defaults | upstream for name, upstream in upstreams.items()},
            "apps": {name: {"upstream": name} | apps.get(name, {}) for name in upstreams},
        }
    )


class Met(NamedTuple):
    """What became of a hook."""

    status: int
    seconds: float
    reason: str
    attempts: int
    error: str


def send(gateway: RunningGateway, app: str) -> Met:
    body = json.dumps({"appKey": app, "callId": uuid.uuid4().hex}).encode()
    began = time.monotonic()
    answer = gateway.hook(body=body)
    seconds = time.monotonic() - began
    line = gateway.wait_for_line(lambda line: line.get("request_id") == answer.headers["x-request-id"])
    return Met(answer.status_code, seconds, line["reason"], line["attempts"], line["error"])


# --- a listener whose queue is full ---


@pytest.fixture(scope="module")
def gateway(well: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with full_backlog() as port:
        silent = f"http://127.0.0.1:{port}/rest/my_api"
        targets = [{"url": silent}, {"url": well.url_of("ok"), "backup": True}]
        guarded = {"failures": 3, "window": "10s", "open_for": "60s"}
        upstreams = {
            "alone": {"url": silent},
            "pair": {"targets": targets},
            "guarded": {"targets": targets, "breaker": guarded},
            "hasty": {"url": silent},
        }
        config = configuration(upstreams, hasty={"timeout": "100ms"}, alone={"fallback": {"unreachable": "allow"}})
        with running_gateway(config, tmp_path_factory.mktemp("gateway")) as running:
            yield running


def test_a_host_that_never_answers_is_unreachable_after_connect_timeout(gateway: RunningGateway) -> None:
    met = send(gateway, "alone")
    assert (met.status, met.reason) == (200, "unreachable")  # its fallback
    # As often as retry.attempts says: nobody can have acted on it.
    assert CONNECT <= met.seconds < met.attempts * CONNECT + SPARE
    assert met.attempts == 2
    assert "no connection in time" in met.error


def test_a_host_that_never_answers_costs_a_hook_the_connect_timeout_and_then_the_other_target_decides(
    gateway: RunningGateway,
) -> None:
    met = send(gateway, "pair")
    assert (met.status, met.reason, met.attempts) == (200, "ok", 2)
    assert CONNECT <= met.seconds < CONNECT + SPARE
    assert gateway.metric("gateway_upstream_attempts_total", upstream="pair", outcome="unreachable") == 1
    assert gateway.metric("gateway_upstream_attempts_total", upstream="pair", outcome="ok") == 1
    assert gateway.metric("gateway_upstream_retries_total", upstream="pair", cause="unreachable") == 1


def test_a_budget_that_ends_before_connect_timeout_is_a_timeout(gateway: RunningGateway) -> None:
    met = send(gateway, "hasty")
    assert (met.status, met.reason) == (403, "timeout")
    assert met.seconds < CONNECT + SPARE


def test_an_ejected_host_costs_no_hook_anything(gateway: RunningGateway) -> None:
    first = [send(gateway, "guarded") for _ in range(3)]
    later = [send(gateway, "guarded") for _ in range(10)]
    assert {met.status for met in first + later} == {200}
    assert {met.attempts for met in first} == {2}
    assert {met.attempts for met in later} == {1}
    assert gateway.metric("gateway_target_ejections_total", upstream="guarded") == 1


def test_hooks_that_wait_for_such_a_host_leave_no_connection_and_no_place_taken(gateway: RunningGateway) -> None:
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: gateway.hook(appKey="alone").status_code, range(32)))
    assert statuses == [200] * 32  # their fallback
    assert wait_until(lambda: gateway.metric("gateway_target_connections", upstream="alone") == 0)
    assert gateway.metric("gateway_hooks_in_flight") == 0


# --- a machine that disappears ---


class Machine:
    """A host of its own, as far as TCP can tell: a network namespace behind a pair of virtual interfaces.

    Gone, it drops what is sent to it without a word, as one does whose power or cable is out behind a switch.
    """

    def __init__(self, ip: str, name: str, subnet: str) -> None:
        self.name = name
        self.address = f"{subnet}.2"
        self._ip = ip
        self._link = f"{name}b"
        self._subnet = subnet

    def build(self) -> None:
        outside = f"{self.name}a"
        self._run("netns", "add", self.name)
        self._run("link", "add", outside, "type", "veth", "peer", "name", self._link, "netns", self.name)
        self._run("addr", "add", f"{self._subnet}.1/30", "dev", outside)
        self._run("link", "set", outside, "up")
        self._run("-n", self.name, "link", "set", self._link, "up")
        # The address is looked up once and for all: silence on ARP would end in "no route to host" by itself.
        inside = json.loads(self._run("-n", self.name, "-j", "link", "show", self._link))[0]["address"]
        self._run("neigh", "replace", self.address, "lladdr", inside, "dev", outside, "nud", "permanent")
        self.comes()

    def comes(self) -> None:
        self._run("-n", self.name, "addr", "add", f"{self.address}/30", "dev", self._link)

    def goes(self) -> None:
        self._run("-n", self.name, "addr", "del", f"{self.address}/30", "dev", self._link)

    def remove(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self._run("netns", "del", self.name)
        with contextlib.suppress(subprocess.CalledProcessError):
            self._run("link", "del", f"{self.name}a")

    def listener(self) -> socket.socket:
        """A listening socket of that machine, for this process."""
        with ThreadPoolExecutor(1) as pool:  # a namespace is a thread's, and this thread ends
            return pool.submit(self._listen).result(10)

    def _listen(self) -> socket.socket:
        namespace = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(namespace, 0) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(namespace)
        return socket.create_server((self.address, 0))

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([self._ip, *arguments], check=True, capture_output=True, text=True, timeout=10)
        return done.stdout


@pytest.fixture
def machine() -> Iterator[Machine]:
    ip = require("ip", "iproute2")
    number = uuid.uuid4().int
    machine = Machine(ip, f"wcs{number % 16**6:06x}", f"198.18.{number % 251}")
    try:
        try:
            machine.build()
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"no network namespaces here: {exc.stderr.strip()}")
        yield machine
    finally:
        machine.remove()


class Accepting(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(listener: socket.socket) -> Iterator[str]:
    server = ThreadingHTTPServer(("", 0), Accepting, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        host, port = listener.getsockname()
        yield f"http://{host}:{port}/rest/my_api"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.mark.real
def test_a_machine_that_disappears_costs_the_hooks_on_it_their_budget_the_next_their_connect_timeout_and_comes_back(
    machine: Machine, well: FaultyBackend, tmp_path: Path
) -> None:
    with serving(machine.listener()) as url:
        backup = {"url": well.url_of("ok"), "backup": True}
        upstreams = {
            "pair": {"targets": [{"url": url}, backup]},
            "guarded": {
                "targets": [{"url": url}, backup],
                "breaker": {"failures": 2, "window": "10s", "open_for": "1s"},
            },
        }
        config = configuration(upstreams, pair={"timeout": "1s"}, guarded={"timeout": "1s"})
        with running_gateway(config, tmp_path) as gateway:
            assert [send(gateway, app)[::2] for app in upstreams] == [(200, "ok", "")] * 2  # over connections it keeps
            machine.goes()

            caught = send(gateway, "pair")
            assert (caught.status, caught.reason, caught.attempts) == (403, "timeout", 1)  # it may have been seen
            assert caught.seconds < 1 + SPARE
            later = [send(gateway, "pair") for _ in range(2)]
            assert [(met.status, met.attempts) for met in later] == [(200, 2)] * 2
            assert all(CONNECT <= met.seconds < CONNECT + SPARE for met in later)
            assert gateway.metric("gateway_upstream_attempts_total", upstream="pair", outcome="unreachable") == 2

            assert wait_until(lambda: send(gateway, "guarded")[::3] == (200, 1))
            assert gateway.metric("gateway_target_up", upstream="guarded") == 1  # of two: the backup

            machine.comes()

            def is_back() -> bool:
                assert send(gateway, "guarded").status == 200
                return gateway.metric("gateway_target_up", upstream="guarded") == 2

            assert wait_until(is_back, 20)
            before = len(well.requests)
            assert [send(gateway, app)[0] for app in upstreams] == [200, 200]
            assert len(well.requests) == before
