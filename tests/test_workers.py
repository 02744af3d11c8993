"""Several workers on one port: one may die, hang or be told to end, and the service goes on as one."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from faulty import CASES, OK, Case, FaultyBackend, Pause, Step, Turn, reply, right_answer
from gateways import ROOT, STOP_LIMIT, RunningGateway, running_gateway, wait_until
from prometheus_client.parser import text_string_to_metric_families

WORKERS: Final = 2
CLIENTS: Final = 24
"""Enough that each of two workers gets more connections than any share of a limit used here."""
OUTAGE: Final = 15.0
"""Seconds that the replacement of a worker may take on a busy machine; on an idle one it takes one."""
SILENCE: Final = 30.0
"""Seconds until a worker that hangs is replaced, its ten seconds of silence included."""


# --- a backend that answers when told, hooks, and who answers them ---


class Gate:
    """A backend's case that answers once it is told to, and counts how many hooks it holds at once."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.peak = 0
        self._held = 0

    def script(self, turn: Turn) -> Iterable[Step]:
        self._held += 1
        self.peak = max(self.peak, self._held)
        try:
            while not self.open.is_set():
                yield Pause(0.02)
        finally:
            self._held -= 1
        yield reply(turn.right)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CASES, "gated", Case("gated", "Answers when told.", OK, 1, gate.script))
        yield gate
        gate.open.set()


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running
    assert running.problems == []


def configuration(backend: FaultyBackend | None = None, *, allowed: str = "defaultApp", **server: Any) -> str:
    """Apps named after the cases of the backend, two with a limit of four, and one that needs no backend."""
    cases = {} if backend is None else {"ok": "ok", "gated": "gated", "hang": "hang", "few": "gated", "narrow": "gated"}
    upstreams: dict[str, dict[str, Any]] = {
        name: {"url": f"{backend.url}/{case}", "breaker": "off", "connect_timeout": "10s"}
        for name, case in cases.items()
        if backend is not None
    }
    apps: dict[str, dict[str, Any]] = {name: {"upstream": name, "fallback": "allow"} for name in cases}
    if backend is not None:
        upstreams["narrow"]["max_connections"] = 4
        apps["few"] |= {"max_in_flight": 4, "fallback": "reject"}
        apps["gated"]["fallback"] = "reject"
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": WORKERS, **server},
            "media_server": {"request_timeout": "2m"},
            "defaults": {"timeout": "60s", "dedupe": "off"},
            "upstreams": upstreams,
            "apps": {**apps, allowed: {"static": "allow"}},
        }
    )


@pytest.fixture(scope="module")
def shared(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway for the tests that leave it as it was."""
    with running_gateway(configuration(backend), tmp_path_factory.mktemp("shared")) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway without backends, for the tests that leave another configuration in force, or other workers."""
    with running_gateway(configuration(), tmp_path_factory.mktemp("static")) as gateway:
        yield gateway


def hook_of(app: str, **fields: Any) -> bytes:
    return json.dumps({"appKey": app, "n": uuid.uuid4().hex, **fields}).encode()


@contextlib.contextmanager
def client_of(gateway: RunningGateway) -> Iterator[HTTPConnection]:
    """A connection as a media server holds one; cheaper than httpx's, of which these tests would need hundreds."""
    client = HTTPConnection(gateway.hooks, timeout=60)
    try:
        yield client
    finally:
        client.close()


def send(client: HTTPConnection, body: bytes) -> tuple[int, bytes]:
    """Status and body of the answer."""
    client.request("POST", "/rest/my_api/OnCallEvent", body)
    answer = client.getresponse()
    return answer.status, answer.read()


def send_one(gateway: RunningGateway, body: bytes) -> int:
    """Send a hook on a connection of its own; the status."""
    with client_of(gateway) as client:
        return send(client, body)[0]


@contextlib.contextmanager
def under_way(gateway: RunningGateway, backend: FaultyBackend, *apps: str) -> Iterator[dict[int, Future[bytes]]]:
    """Hooks that the backend has begun to work on when the block begins, by the client's port; the answer's bytes."""
    before = len(backend.requests)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(len(apps)))
        hooks = {}
        for app in apps:
            sock = stack.enter_context(connected(gateway))
            hooks[sock.getsockname()[1]] = pool.submit(exchange, sock, hook_of(app))
        assert wait_until(lambda: len(backend.requests) - before == len(apps)), gateway.log.read_text()
        yield hooks


def connected(gateway: RunningGateway) -> socket.socket:
    host, port = gateway.hooks.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=60)


def exchange(sock: socket.socket, body: bytes) -> bytes:
    """One hook whose answer ends the connection; what came, or nothing where the connection broke."""
    head = b"POST /OnCallEvent HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with contextlib.suppress(ConnectionError):
        sock.sendall(head + body)
        return b"".join(iter(lambda: sock.recv(65536), b""))
    return b""


def status_in(answer: bytes) -> int | None:
    return int(answer.split(b" ", 2)[1]) if answer else None


def pids_of(gateway: RunningGateway) -> list[int]:
    pids: list[int] = gateway.get("/api/status").json()["workers"]
    return pids


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def holder_of(client_port: int, gateway: RunningGateway, pids: Iterable[int]) -> int | None:
    """Which worker has accepted the connection that comes from this port."""
    local = int(gateway.hooks.rsplit(":", 1)[1])
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    ends = (f":{local:04X}", f":{client_port:04X}")
    inode = next((row[9] for row in rows if row[1].endswith(ends[0]) and row[2].endswith(ends[1])), None)
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(link) == f"socket:[{inode}]":
                    return pid
    return None


def status_at_each(gateway: RunningGateway, app: str) -> dict[int, int]:
    """What every worker answers to a hook of this app, by its pid."""
    pids = pids_of(gateway)
    answers: dict[int, int] = {}
    for _ in range(64):
        with client_of(gateway) as client:
            status, _ = send(client, hook_of(app))
            pid = holder_of(client.sock.getsockname()[1], gateway, pids)
        assert pid is not None
        assert answers.setdefault(pid, status) == status
        if len(answers) == len(pids):
            break
    return answers


def is_whole_without(gateway: RunningGateway, *gone: int) -> bool:
    """Whether as many workers serve as are configured, none of them one of the *gone*."""
    pids = pids_of(gateway)
    if len(pids) != WORKERS or set(pids) & set(gone):
        return False
    return gateway.metric("gateway_workers") == WORKERS


def count_becomes(gateway: RunningGateway, wanted: float, name: str, labels: dict[str, str]) -> bool:
    return bool(wait_until(lambda: gateway.metric(name, **labels) == wanted))


def counters_of(gateway: RunningGateway) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample that may never go down."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(gateway.get("/metrics").text)
        if family.type in ("counter", "histogram") and family.name.startswith("gateway_")
        for sample in family.samples
    }


class Load:
    """Clients that send one hook after the other, each on its own connection for as long as that lives."""

    def __init__(self, gateway: RunningGateway, app: str, clients: int) -> None:
        self._gateway = gateway
        self._app = app
        self._clients = clients
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._running: list[Future[None]] = []
        self.statuses: Counter[int] = Counter()
        self.errors: list[str] = []

    @property
    def answered(self) -> int:
        return self.statuses.total()

    def __enter__(self) -> Load:
        self._running = [self._pool.submit(self._run) for _ in range(self._clients)]
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._pool.shutdown()
        for client in self._running:
            client.result()

    def has_answered(self, more: int) -> bool:
        """Wait until that many more hooks have been answered."""
        wanted = self.answered + more
        return bool(wait_until(lambda: self.answered >= wanted, 30))

    def _run(self) -> None:
        with client_of(self._gateway) as client:
            while not self._over.is_set():
                body = hook_of(self._app)
                try:
                    status, answer = send(client, body)
                except (OSError, HTTPException) as exc:
                    self.errors.append(repr(exc))
                    client.close()  # and the next hook opens it again
                    continue
                assert answer == right_answer(body)
                self.statuses[status] += 1
                time.sleep(0.005)


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
        assert count_becomes(shared, counted[name] + load.answered, name, labels), name
    assert shared.metric("gateway_hooks_in_flight") == 0
    opened = backend.open_connections("ok")
    assert wait_until(lambda: shared.metric("gateway_target_connections", upstream="ok") == opened)


def test_log_lines_of_several_workers_never_mix_in_a_pipe(tmp_path: Path) -> None:
    each, clients = 150, 4
    long = "\u0001" * 256  # each takes six bytes in JSON: the longest lines there can be
    with running_in_a_pipe(configuration(), tmp_path) as (gateway, reader):

        def send_some(number: int) -> None:
            with client_of(gateway) as client:
                for _ in range(each):
                    fields = dict.fromkeys(("callId", "sessionId", "nodeId", "caller", "callee"), long)
                    assert send(client, hook_of("defaultApp", **fields))[0] == 200

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(send_some, range(clients)))
        assert len(status_at_each(gateway, "defaultApp")) == WORKERS
        sent = gateway.metric("gateway_hooks_total")
        assert gateway.metric("gateway_log_lines_dropped_total") == 0
        gateway.client.close()
        gateway.process.terminate()
        assert gateway.process.wait(STOP_LIMIT) == 0
        lines = [json.loads(line) for line in reader.result(20).splitlines()]
        assert len([line for line in lines if "verdict" in line]) == sent


@contextlib.contextmanager
def running_in_a_pipe(config: str, directory: Path) -> Iterator[tuple[RunningGateway, Future[bytes]]]:
    """A gateway that logs into a pipe which is read slowly, and all that it will have written."""
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

    def read() -> bytes:
        parts = [first]
        while part := os.read(fd, 1500):
            parts.append(part)
            time.sleep(0.0005)  # slower than the writers: the pipe is full most of the time
        return b"".join(parts)

    with ThreadPoolExecutor(1) as pool:
        gateway = RunningGateway(process, path, directory / "none", ready["hooks"][0], ready["admin"])
        reading = pool.submit(read)
        try:
            yield gateway, reading
        finally:
            gateway.client.close()
            process.kill()
            process.wait()
            wait_until(reading.done)
            process.stdout.close()


# --- a worker dies ---


def test_a_killed_worker_takes_only_its_own_hooks_with_it_and_what_it_counted_stays(
    backend: FaultyBackend, gate: Gate, tmp_path: Path
) -> None:
    with running_gateway(configuration(backend), tmp_path) as gateway:
        for _ in range(CLIENTS):
            assert send_one(gateway, hook_of("ok")) == 200
        assert wait_until(lambda: gateway.metric("gateway_hooks_total", app="ok") == CLIENTS)
        with under_way(gateway, backend, *["gated"] * CLIENTS) as hooks:
            pids = pids_of(gateway)
            holders = {port: holder_of(port, gateway, pids) for port in hooks}
            assert set(holders.values()) == set(pids)
            victim, other = pids
            before = counters_of(gateway)
            assert gateway.metric("gateway_worker_deaths_total") == 0
            os.kill(victim, signal.SIGKILL)
            assert wait_until(lambda: is_whole_without(gateway, victim), OUTAGE), gateway.log.read_text()
            own = [port for port, holder in holders.items() if holder == victim]
            assert all(hooks[port].result(20) == b"" for port in own)
            assert not any(hooks[port].done() for port in hooks.keys() - own)
            now = counters_of(gateway)
            assert [key for key in before if now.get(key, -1.0) < before[key]] == []
            gate.open.set()
            assert {status_in(hooks[port].result(20)) for port in hooks.keys() - own} == {200}
        assert other in pids_of(gateway)
        assert set(status_at_each(gateway, "defaultApp").values()) == {200}
        rest = CLIENTS - len(own)
        assert wait_until(lambda: gateway.metric("gateway_hooks_total", app="gated") == rest)
        assert gateway.metric("gateway_hooks_total", app="ok") == CLIENTS
        assert gateway.metric("gateway_hooks_in_flight") == 0
        assert gateway.metric("gateway_worker_deaths_total") == 1
        died = gateway.wait_for_line(lambda line: line.get("event") == "worker_died")
        assert died["pid"] == victim
        assert "SIGKILL" in died["message"]


def test_workers_killed_under_load_are_replaced_and_counters_add_up_and_never_go_down(
    backend: FaultyBackend, tmp_path: Path
) -> None:
    clients, deaths = 4, 3
    with running_gateway(configuration(backend), tmp_path) as gateway:
        before = counters_of(gateway)
        with Load(gateway, "ok", clients) as load:
            for death in range(1, deaths + 1):
                assert load.has_answered(50)
                victim = pids_of(gateway)[0]
                os.kill(victim, signal.SIGKILL)

                def looked(victim: int = victim) -> bool:
                    nonlocal before
                    now = counters_of(gateway)
                    assert [key for key in before if now.get(key, -1.0) < before[key]] == []
                    before = now
                    return is_whole_without(gateway, victim)

                assert wait_until(looked, OUTAGE), gateway.log.read_text()
                assert gateway.metric("gateway_worker_deaths_total") == death
            assert load.has_answered(50)
        assert len(load.errors) <= clients * deaths  # none had more than one hook under way
        assert set(load.statuses) == {200}
        # An answer may have left when its worker died before counting it, or have been counted and not arrived.
        missed = clients * deaths
        assert wait_until(lambda: abs(gateway.metric("gateway_hooks_total", app="ok") - load.answered) <= missed)
        assert gateway.metric("gateway_hooks_in_flight") == 0


def test_workers_that_die_while_the_file_is_broken_come_back_with_the_configuration_in_force_and_hooks_wait_for_them(
    tmp_path: Path,
) -> None:
    with running_gateway(configuration(allowed="old"), tmp_path) as gateway:
        gateway.write_config(configuration(allowed="new"))
        gateway.wait_for_line(lambda line: line.get("result") == "success")
        gateway.write_config("apps: [")
        assert gateway.post("/-/reload").status_code == 422
        victims = pids_of(gateway)
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        assert wait_until(lambda: gateway.metric("gateway_worker_deaths_total") == WORKERS)
        with ThreadPoolExecutor(8) as pool:  # nobody is there to accept these
            assert list(pool.map(lambda _: send_one(gateway, hook_of("new")), range(8))) == [200] * 8
        assert wait_until(lambda: is_whole_without(gateway, *victims), OUTAGE), gateway.log.read_text()
        assert set(status_at_each(gateway, "new").values()) == {200}
        assert set(status_at_each(gateway, "old").values()) == {403}
        assert gateway.get("/-/ready").status_code == 200


def test_a_worker_told_to_end_answers_its_hooks_and_is_replaced(
    backend: FaultyBackend, gate: Gate, shared: RunningGateway
) -> None:
    with under_way(shared, backend, *["gated"] * 8) as hooks:
        victim = pids_of(shared)[0]
        os.kill(victim, signal.SIGTERM)
        gate.open.set()
        assert {status_in(hook.result(20)) for hook in hooks.values()} == {200}
    assert wait_until(lambda: is_whole_without(shared, victim), OUTAGE), shared.log.read_text()


def test_a_worker_is_replaced_even_if_it_could_not_be_at_first(static: RunningGateway) -> None:
    victim = pids_of(static)[0]
    limit = resource.prlimit(static.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(static.pid, resource.RLIMIT_NOFILE, (3, limit[1]))  # no descriptor left for a channel
    try:
        os.kill(victim, signal.SIGKILL)
        assert wait_until(lambda: "is not replaced yet" in static.log.read_text()), static.log.read_text()
    finally:
        resource.prlimit(static.pid, resource.RLIMIT_NOFILE, limit)
    assert wait_until(lambda: is_whole_without(static, victim), OUTAGE), static.log.read_text()
    assert len(status_at_each(static, "anybody")) == WORKERS


def test_a_worker_that_hangs_is_replaced_and_a_parent_that_was_held_up_kills_none(tmp_path: Path) -> None:
    directories = [tmp_path / name for name in ("worker", "parent")]
    for directory in directories:
        directory.mkdir()
    with (
        running_gateway(configuration(), directories[0]) as hanging,
        running_gateway(configuration(), directories[1]) as held_up,
    ):
        assert [gateway.hook().status_code for gateway in (hanging, held_up)] == [200, 200]
        victim, survivors = pids_of(hanging)[0], pids_of(held_up)
        os.kill(victim, signal.SIGSTOP)
        os.kill(held_up.pid, signal.SIGSTOP)
        try:
            assert wait_until(lambda: is_whole_without(hanging, victim), SILENCE), hanging.log.read_text()
            time.sleep(2.0)  # so that the parent too has stood still for longer than the limit of silence
        finally:
            os.kill(held_up.pid, signal.SIGCONT)
        assert not is_alive(victim)
        assert hanging.metric("gateway_worker_deaths_total") == 1
        assert any("silent" in line["message"] for line in hanging.lines() if "message" in line)
        assert set(status_at_each(hanging, "defaultApp").values()) == {200}
        time.sleep(2.5)  # two rounds of asking who lives
        assert pids_of(held_up) == survivors
        assert held_up.metric("gateway_worker_deaths_total") == 0


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


# --- the end ---


def is_refused(gateway: RunningGateway) -> bool:
    try:
        connected(gateway).close()
    except ConnectionError:
        return True
    return False


class Ending(NamedTuple):
    """Who is told to end, of a parent and its workers, in which order, and how."""

    name: str
    order: Callable[[int, list[int]], list[int]]
    number: signal.Signals = signal.SIGTERM


ENDINGS: Final = [
    Ending("the parent", lambda parent, workers: [parent]),
    Ending("all, workers first", lambda parent, workers: [*workers, parent]),
    Ending("all, by Ctrl-C", lambda parent, workers: [parent, *workers], signal.SIGINT),
]


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.name)
def test_told_to_end_all_workers_answer_what_they_have_begun(
    backend: FaultyBackend, gate: Gate, tmp_path: Path, ending: Ending
) -> None:
    with (
        running_gateway(configuration(backend), tmp_path) as gateway,
        under_way(gateway, backend, *["gated"] * 8) as hooks,
    ):
        pids = pids_of(gateway)
        for pid in ending.order(gateway.pid, pids):
            os.kill(pid, ending.number)
        assert wait_until(lambda: is_refused(gateway))
        ready = gateway.get("/-/ready")
        assert (ready.status_code, ready.text.strip()) == (503, "draining")
        assert not any(hook.done() for hook in hooks.values())
        gate.open.set()
        assert [status_in(hook.result(20)) for hook in hooks.values()] == [200] * len(hooks)
        gateway.client.close()
        assert gateway.process.wait(STOP_LIMIT) == 0
        assert not any(map(is_alive, pids))
        log = gateway.log.read_text()
        assert "Traceback" not in log
        assert "worker_died" not in log
        assert gateway.lines()[-1]["message"] == "stopped"


def test_a_second_signal_ends_all_workers_at_once_and_hooks_get_their_fallback(
    backend: FaultyBackend, tmp_path: Path
) -> None:
    with (
        running_gateway(configuration(backend, drain_timeout="50s"), tmp_path) as gateway,
        under_way(gateway, backend, *["hang"] * 8) as hooks,
    ):
        pids = pids_of(gateway)
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        assert wait_until(lambda: is_refused(gateway))
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.wait(STOP_LIMIT)
        assert time.monotonic() - began < 25  # the drain would take 50 s
        assert [status_in(hook.result(20)) for hook in hooks.values()] == [200] * len(hooks)
        assert not any(map(is_alive, pids))
        assert "Traceback" not in gateway.log.read_text()


def test_workers_whose_parent_is_killed_answer_their_hooks_end_and_free_the_port(
    backend: FaultyBackend, gate: Gate, tmp_path: Path
) -> None:
    with (
        running_gateway(configuration(backend), tmp_path) as gateway,
        under_way(gateway, backend, *["gated"] * 8) as hooks,
    ):
        pids = pids_of(gateway)
        gateway.client.close()
        gateway.process.kill()
        assert wait_until(lambda: is_refused(gateway))
        assert all(map(is_alive, pids))
        gate.open.set()
        assert [status_in(hook.result(20)) for hook in hooks.values()] == [200] * len(hooks)
        assert wait_until(lambda: not any(map(is_alive, pids)), STOP_LIMIT)
        host, port = gateway.hooks.rsplit(":", 1)
        socket.create_server((host, int(port))).close()


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


# --- limits ---


def test_the_workers_share_out_max_in_flight_and_a_reload_that_names_another_number_of_workers_changes_nothing(
    backend: FaultyBackend, gate: Gate, tmp_path: Path
) -> None:
    with running_gateway(configuration(backend, max_in_flight=4), tmp_path) as gateway:
        for workers in (WORKERS, 4):
            gateway.write_config(configuration(backend, max_in_flight=4, workers=workers))
            gateway.post("/-/reload")
            assert len(pids_of(gateway)) == WORKERS
            statuses = at_once(gateway, gate, "gated", until=lambda hooks: done_of(hooks) == CLIENTS - 4)
            assert statuses == {200: 4, 403: CLIENTS - 4}
            assert gate.peak == 4


def test_the_workers_share_out_max_in_flight_of_an_app(shared: RunningGateway, gate: Gate) -> None:
    statuses = at_once(shared, gate, "few", until=lambda hooks: done_of(hooks) == CLIENTS - 4)
    assert statuses == {200: 4, 403: CLIENTS - 4}
    assert gate.peak == 4
    assert shared.metric("gateway_hooks_total", app="few", reason="overload") == CLIENTS - 4


def test_the_workers_share_out_max_connections_of_a_target(shared: RunningGateway, gate: Gate) -> None:
    def all_inside(hooks: list[Future[int]]) -> bool:
        return shared.metric("gateway_hooks_in_flight", app="narrow") == CLIENTS and gate.peak == 4

    assert at_once(shared, gate, "narrow", until=all_inside) == {200: CLIENTS}
    assert gate.peak == 4


def test_the_workers_share_out_max_connections_of_clients(tmp_path: Path) -> None:
    with running_gateway(configuration(max_connections=8), tmp_path) as gateway, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connected(gateway)) for _ in range(CLIENTS)]

        def refused() -> int:
            return sum(map(has_an_answer, socks))

        assert wait_until(lambda: refused() == CLIENTS - 8), refused()
        assert {status_in(sock.recv(65536)) for sock in socks if has_an_answer(sock)} == {403}


def has_an_answer(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def done_of(hooks: list[Future[int]]) -> int:
    return sum(hook.done() for hook in hooks)


def at_once(
    gateway: RunningGateway, gate: Gate, app: str, *, until: Callable[[list[Future[int]]], bool]
) -> Counter[int]:
    """Send hooks side by side to a backend that answers when *until* has come true; the statuses."""
    gate.open.clear()
    with ThreadPoolExecutor(CLIENTS) as pool:
        hooks = [pool.submit(send_one, gateway, hook_of(app)) for _ in range(CLIENTS)]
        came = wait_until(lambda: until(hooks), 20)
        gate.open.set()
        statuses = Counter(hook.result(60) for hook in hooks)
    assert came, statuses
    return statuses


def test_workers_that_cannot_be_started_are_told_as_such(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(json.dumps({"server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": 2}}))
    # As where the interpreter has been replaced under a gateway that runs: there is nothing to start a worker with.
    program = "import sys, gateway.cli; sys.executable = '/nowhere/python'; gateway.cli.main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "run", "-c", str(config)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (1, "gateway: cannot serve: no such file or directory\n")
