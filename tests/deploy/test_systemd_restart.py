"""Restarts by systemd under a media server's load: with the socket units no hook is lost; without them some are."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tests.deploy.booted import Machine, booted_machine
from tests.support.faulty import CASES, OK, Case, FaultyBackend, Pause, Turn, reply
from tests.support.gateways import wait_until
from tests.support.programs import CALL_ID, HookResult, free_port, java_hooks

pytestmark = [pytest.mark.real, pytest.mark.slow]

RESTARTS: Final = 10
LOADS: Final = 2
"""Java processes: one sends while another starts."""
THREADS: Final = 16
BATCH: Final = 40 * THREADS
PAUSE: Final = 0.5
SOCKETS: Final = ("wcs-gateway.socket", "wcs-gateway-admin.socket")
TEMPLATE: Final = json.dumps({"appKey": "a", "callId": CALL_ID, "sdp": "v=0\r\n" * 600})
HANDED_OVER: Final = ("systemd:hooks", "systemd:admin")


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with pytest.MonkeyPatch.context() as patch, FaultyBackend() as running:
        script = Case("slowly", "Accepts after a moment.", OK, 1, slowly)
        patch.setitem(CASES, "slowly", script)
        yield running


def slowly(turn: Turn) -> Iterator[Pause | bytes]:
    yield Pause(0.03)  # so that there are hooks in flight at every moment
    yield reply(turn.request.body)


@pytest.fixture(scope="module")
def machine(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    hooks, admin = free_port(), free_port()
    config = (
        "server: {listen: 'systemd:hooks', admin: 'systemd:admin', workers: 2}\n"
        "store: {url: 'sqlite:///var/lib/wcs-gateway/store.db'}\n"
        f"upstreams: {{u: {{url: '{backend.url_of('slowly')}', connect_timeout: 5s}}}}\n"
        "apps: {a: {upstream: u, timeout: 10s}}\n"
    )
    ports = {
        unit: f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n"
        for unit, port in zip(SOCKETS, (hooks, admin), strict=True)
    }
    directory = tmp_path_factory.mktemp("machine")
    with booted_machine(directory, config, hooks, admin, ports) as running:
        yield running


class MediaServers:
    """Java clients that send hooks until the block ends."""

    def __init__(self, machine: Machine) -> None:
        self._url = f"http://127.0.0.1:{machine.hooks}/rest/my_api/OnCallEvent"
        self._over = threading.Event()
        self.results: list[HookResult] = []
        self._pool = ThreadPoolExecutor(LOADS)

    def __enter__(self) -> MediaServers:
        self._sending = [self._pool.submit(self._send) for _ in range(LOADS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for sending in self._sending:
            sending.result()
        self._pool.shutdown()

    def _send(self) -> None:
        while not self._over.is_set():
            self.results += java_hooks(self._url, THREADS, BATCH, TEMPLATE, pause=PAUSE)

    @property
    def lost(self) -> list[HookResult]:
        return [result for result in self.results if result.status != 200 or result.received_sha1 != result.sent_sha1]

    def figures(self) -> str:
        longest = max(result.ms for result in self.results)
        return f"{len(self.results)} hooks, {len(self.lost)} lost, the longest took {longest:.0f} ms"


def restart_under_load(machine: Machine, backend: FaultyBackend, restarts: int) -> MediaServers:
    """Restart the service so many times, with hooks before and after each."""

    def goes_on() -> None:
        before = len(backend.requests)
        assert wait_until(lambda: len(backend.requests) > before + 100, 60), machine.journal()

    with MediaServers(machine) as load:
        for _ in range(restarts):
            goes_on()
            assert machine.systemctl("restart", "wcs-gateway") == 0, machine.journal()
        goes_on()
    return load


@contextlib.contextmanager
def started(machine: Machine, config: str, *units: str) -> Iterator[None]:
    machine.write_config(config)
    try:
        done = machine.do("systemctl", "start", *units)
        assert done.returncode == 0, done.stderr + machine.journal()
        yield
    finally:
        stopped = machine.systemctl("stop", *units, "wcs-gateway")
    assert stopped == 0


def test_ten_restarts_with_the_socket_units_lose_no_hook_and_double_none(
    machine: Machine, backend: FaultyBackend
) -> None:
    with started(machine, machine.config, *SOCKETS, "wcs-gateway"):
        load = restart_under_load(machine, backend, RESTARTS)
    print(f"with the socket units, {RESTARTS} restarts: {load.figures()}")
    assert load.lost == []
    seen = Counter(json.loads(request.body)["callId"] for request in backend.requests)
    assert [seen[result.call_id] for result in load.results] == [1] * len(load.results)


def test_the_same_load_loses_hooks_where_the_gateway_opens_its_ports_itself(
    machine: Machine, backend: FaultyBackend
) -> None:
    ports = zip(HANDED_OVER, (machine.hooks, machine.admin), strict=True)
    config = machine.config
    for name, port in ports:
        config = config.replace(name, f"127.0.0.1:{port}")
    with started(machine, config, "wcs-gateway"):
        load = restart_under_load(machine, backend, 3)
    print(f"without them, 3 restarts: {load.figures()}")
    assert load.lost
    assert {result.error.partition(":")[0] for result in load.lost if result.error} == {"ConnectException"}


def test_the_first_hook_starts_the_gateway_and_a_killed_one_comes_back_to_those_that_wait(machine: Machine) -> None:
    with started(machine, machine.config, *SOCKETS):
        assert machine.property("ActiveState") == "inactive"
        assert machine.hook() == 200
        assert wait_until(lambda: machine.property("ActiveState") == "active", 60)  # once all workers serve
        assert machine.systemctl("reload", "wcs-gateway") == 0
        assert machine.hook() == 200
        before = machine.main_pid()
        assert machine.do("systemctl", "kill", "--signal=KILL", "wcs-gateway").returncode == 0
        assert machine.hook() == 200
        assert machine.main_pid() != before


def test_a_service_without_its_sockets_says_what_to_do(machine: Machine) -> None:
    machine.write_config(machine.config)
    machine.systemctl("start", "--no-block", "wcs-gateway")
    try:
        words = "systemd handed over no sockets: stop the service, then systemctl enable --now wcs-gateway.socket"
        assert wait_until(lambda: words in machine.journal(), 60), machine.journal()
    finally:
        assert machine.systemctl("stop", "wcs-gateway") == 0
