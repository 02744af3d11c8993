"""What listeners of the event stream get, how much, and that none of them can hold anything up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin import events
from gateway.admin.activity import Reading, Sampler
from gateway.admin.endpoints import AdminState
from gateway.admin.events import DECISIONS_PER_SECOND, MAX_LISTENERS, EventQuota, Events, Follower, event, is_failure
from gateway.admin.lifecycle import Lifecycle
from gateway.admin.reload import Reloader
from gateway.admin.rpc import FollowDecisions, NoWorkers, Replies, RpcRequest, T
from gateway.config import Address, Loaded, loads
from gateway.model.decision import Decision
from gateway.model.verdicts import Reason, Ruling, Source, Verdict
from gateway.server.executor import start_threads
from gateway.server.main_process import admin_listener
from gateway.server.sockets import bind, display_address
from gateway.telemetry.decision_view import DecisionFormatter, DecisionView
from gateway.telemetry.journal import Journal
from gateway.telemetry.metrics import Metrics
from tests.support.gateways import LISTEN, RunningGateway, running_gateway, wait_until

PATIENCE: Final = 20.0
CONFIG: Final = (
    LISTEN
    + """
upstreams: {dead: {url: "http://127.0.0.1:9/rest"}}
apps:
  yes: {static: allow}
  no: {static: reject}
  broken: {upstream: dead}
"""
)


def decided(request_id: str, *, failed: bool = False, at: float = 0.0) -> Decision:
    error = "it failed" if failed else ""
    ruling = Ruling(Verdict.ALLOW, Source.BACKEND, Reason.OK, 200, error=error)
    return Decision(ruling, at, request_id, "a", "call", None, 0.01)


def call(number: int, *, failed: bool) -> DecisionView:
    return DecisionFormatter(1).format(decided(str(number), failed=failed))


# --- which decisions are sent ---


@given(st.lists(st.tuples(st.lists(st.booleans(), max_size=60), st.integers(0, 5)), min_size=4, max_size=4))
def test_of_a_second_s_calls_so_many_are_told_failures_first_and_the_rest_is_counted(
    looks: list[tuple[list[bool], int]],
) -> None:
    ration, told, there = EventQuota(), 0, 0
    for failed, skipped in looks:
        calls = [call(number, failed=each) for number, each in enumerate(failed)]
        chosen = ration.choose(calls, skipped)
        there += len(calls) + skipped
        told += len(chosen)
        numbers = [int(each.request_id) for each in chosen]
        assert numbers == sorted(numbers)
        failures = [each for each in calls if is_failure(each)]
        if sum(map(is_failure, chosen)) < len(failures):
            assert all(map(is_failure, chosen))
            assert told == DECISIONS_PER_SECOND
    assert told <= DECISIONS_PER_SECOND
    assert ration.end_of_second() == there - told


def test_successes_leave_room_for_the_failures_that_follow() -> None:
    ration = EventQuota()
    successes = [call(number, failed=False) for number in range(100)]
    assert len(ration.choose(successes)) == DECISIONS_PER_SECOND // 4
    failures = [call(number, failed=True) for number in range(100)]
    assert len(ration.choose(failures)) == DECISIONS_PER_SECOND * 3 // 4
    assert ration.choose(failures) == []
    assert ration.end_of_second() == 300 - DECISIONS_PER_SECOND
    assert len(ration.choose(successes)) == DECISIONS_PER_SECOND // 4


def test_a_quiet_second_tells_every_call() -> None:
    ration = EventQuota()
    for _ in range(4):
        assert len(ration.choose([call(number, failed=False) for number in range(5)])) == 5
    assert ration.end_of_second() == 0


# --- what is new ---


class Processes:
    """Journals of several processes, some of which do not reply."""

    def __init__(self, *pids: int) -> None:
        self.journals = {pid: Journal() for pid in pids}
        self.silent: set[int] = set()

    async def ask(self, request: RpcRequest[T]) -> Replies[T]:
        assert isinstance(request, FollowDecisions)
        news = {}
        for pid, journal in self.journals.items():
            if pid not in self.silent:
                cursor = request.cursors.get(pid) or journal.cursor_at(request.since)
                news[pid] = journal.updates(cursor, request.most, DecisionFormatter(pid))
        return cast(Replies[T], Replies(news, sorted(self.silent)))


async def test_a_follower_is_told_each_call_once_from_then_on() -> None:
    processes = Processes(1, 2)
    processes.journals[1].record(decided("before"))
    follower = Follower(processes)
    assert await follower.fetch_new() == ([], 0)
    processes.journals[1].record(decided("later", at=2.0))
    processes.journals[2].record(decided("sooner", at=1.0))
    calls, skipped = await follower.fetch_new()
    assert [(each.request_id, each.worker) for each in calls] == [("sooner", 2), ("later", 1)]
    assert skipped == 0
    assert await follower.fetch_new() == ([], 0)


async def test_a_process_that_was_late_is_taken_up_where_it_was() -> None:
    processes = Processes(1, 2)
    follower = Follower(processes)
    await follower.fetch_new()
    processes.silent = {2}
    processes.journals[2].record(decided("of the late one"))
    assert await follower.fetch_new() == ([], 0)
    processes.silent = set()
    assert [each.request_id for each in (await follower.fetch_new())[0]] == ["of the late one"]


async def test_a_process_that_is_new_tells_all_that_it_has_decided_since() -> None:
    processes = Processes(1)
    follower = Follower(processes)
    await follower.fetch_new()
    processes.journals = {3: Journal()}
    processes.journals[3].record(decided("its first", at=time.time() + 1.0))
    assert [each.request_id for each in (await follower.fetch_new())[0]] == ["its first"]


async def test_more_than_can_be_told_are_counted() -> None:
    processes = Processes(1)
    follower = Follower(processes, 3)
    await follower.fetch_new()
    for number in range(10):
        processes.journals[1].record(decided(str(number), failed=number == 4))
    calls, skipped = await follower.fetch_new()
    assert (len(calls), skipped) == (3, 7)
    assert "4" in {each.request_id for each in calls}


def test_an_event_stays_on_its_own_line_whatever_it_says() -> None:
    data = event("call", {"x": "a\r\ndata: b\n\nevent: c\u2028\x00"})
    assert data.count(b"\n") == 3
    assert data.count(b"\r") == 0
    assert data.endswith(b"\n\n")


# --- streams of an admin port in this process ---


class Served:
    """An admin port whose events tell much, and often."""

    def __init__(self, told: Events, address: str, listener: Any) -> None:
        self.told, self.address, self.listener = told, address, listener

    def connect(self) -> socket.socket:
        host, port = self.address.rsplit(":", 1)
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        client.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return client

    async def until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not check():
                await asyncio.sleep(0.01)

    async def listeners(self, count: int) -> None:
        await self.until(lambda: repr(self.told) == f"<Events {count} listeners>")


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Served]:
    monkeypatch.setattr(events, "_UPSTREAMS_EVERY", 0.01)
    monkeypatch.setattr(events, "SEND_LIMIT", 1.0)
    path = tmp_path / "gateway.yaml"
    path.write_text(LISTEN)

    async def large() -> object:
        return {"upstreams": ["x" * 1_000_000]}

    async def nothing(loaded: Loaded) -> None:
        pass

    await start_threads()
    told = Events(Sampler(lambda: Reading(0.0, {}, {}, {})), NoWorkers(), 0.0, large)
    reloader = Reloader(loads(LISTEN, str(path)), Metrics("0"), nothing)
    sockets = bind((Address("127.0.0.1", 0),), "server.admin")
    listener = admin_listener(AdminState(reloader, Lifecycle(), bytes, events=told), sockets)
    serving = asyncio.create_task(listener.run_until_stopped())
    try:
        yield Served(told, display_address(sockets[0]), listener)
    finally:
        await told.aclose()
        listener.stop()
        await serving


async def test_a_listener_that_does_not_read_is_let_go_and_the_others_are_not(served: Served) -> None:
    with served.connect(), contextlib.closing(served.connect()) as reading:
        await served.listeners(2)
        reading.setblocking(False)
        loop = asyncio.get_running_loop()
        read = 0

        async def keep_reading() -> None:
            nonlocal read
            while data := await loop.sock_recv(reading, 1 << 20):
                read += len(data)

        task = asyncio.create_task(keep_reading())
        await served.listeners(1)
        before = read
        await served.until(lambda: read > before)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_waits_for_a_listener_is_bounded(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    monkeypatch.setattr(events, "SEND_LIMIT", PATIENCE)
    monkeypatch.setattr(events, "MAX_QUEUE", 5)
    with served.connect():
        await served.listeners(1)
        waiting = next(iter(served.told._listeners))
        most = 0

        def full() -> bool:
            nonlocal most
            most = max(most, len(waiting._waiting))
            return waiting.ended

        await served.until(full)
        assert most <= 5
        assert not waiting._waiting


async def test_a_listener_that_leaves_is_forgotten_and_then_nothing_is_looked_at(served: Served) -> None:
    with served.connect():
        await served.listeners(1)
    await served.listeners(0)
    await served.until(lambda: served.told._collecting is not None and served.told._collecting.done())
    with served.connect():
        await served.listeners(1)


async def test_at_the_end_every_stream_ends_and_none_begins(served: Served) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
        async with client.stream("GET", f"http://{served.address}/api/events") as stream:
            await served.listeners(1)
            await served.told.aclose()
            # Were it cut off, this would raise: the body's end is part of what is read.
            assert (await stream.aread()).startswith(b"event: hello\n")
        assert (await client.get(f"http://{served.address}/api/events")).status_code == 503
    await served.listeners(0)


# --- real gateways ---


class Listening:
    """One stream of events."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.iter_lines()

    def next(self) -> tuple[str, Any]:
        """The next event's name and data."""
        name = ""
        for line in self._lines:
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                return name, json.loads(value)
        return "", None

    def until(self, wanted: Callable[[str, Any], bool], most: int = 500) -> Any:
        """The data of the next event that is wanted."""
        seen = []
        for _ in range(most):
            name, data = self.next()
            if wanted(name, data):
                return data
            seen.append((name, data))
        raise AssertionError(seen)


@contextlib.contextmanager
def listening(gateway: RunningGateway, query: str = "") -> Iterator[Listening]:
    with gateway.client.stream("GET", f"http://{gateway.admin}/api/events{query}") as response:
        yield Listening(response)


@pytest.fixture(scope="module", params=[1, 2])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = CONFIG.replace("admin:", f"workers: {request.param}, admin:")
    with running_gateway(config, tmp_path_factory.mktemp("events")) as running:
        yield running


def test_the_stream_greets_and_then_tells_activity_upstreams_and_calls(gateway: RunningGateway) -> None:
    with listening(gateway) as told:
        assert told.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert told.response.headers["cache-control"] == "no-store"
        name, hello = told.next()
        assert (name, sorted(hello)) == ("hello", ["started", "version"])
        upstreams = told.until(lambda name, _: name == "upstreams")
        assert upstreams["upstreams"][0]["targets"][0]["target"] == "127.0.0.1:9"
        assert told.until(lambda name, _: name == "activity")["app_count"] == 3
        request_id = gateway.hook(appKey="broken", callId="follow-me").headers["x-request-id"]
        call = told.until(lambda name, data: name == "decision" and data["request_id"] == request_id)
        assert (call["app"], call["call_id"], call["reason"]) == ("broken", "follow-me", "unreachable")
        busy = told.until(lambda name, data: name == "activity" and data["total"]["per_second"] > 0)
        assert busy["apps"][0]["app"] == "broken"
        assert busy["apps"][0]["reasons"]["unreachable"] > 0


def test_a_flood_of_calls_is_told_in_part_and_the_rest_counted(gateway: RunningGateway) -> None:
    with listening(gateway) as told:
        told.until(lambda name, _: name == "activity")
        for _ in range(100):
            gateway.hook(appKey="yes")
        assert told.until(lambda name, _: name == "skipped")["skipped"] > 0


def test_activity_and_status_agree_with_what_was_sent(gateway: RunningGateway) -> None:
    gateway.get("/api/activity")
    for _ in range(10):
        gateway.hook(appKey="no")
    found: dict[str, Any] = {}

    def counted() -> bool:
        found.update(gateway.get("/api/activity?apps=1").json())
        return bool(found["total"]["reject"])

    assert wait_until(counted, PATIENCE)
    assert len(found["apps"]) == 1
    status = gateway.get("/api/status").json()
    assert status["hooks"]["per_second"] > 0
    assert status["hooks"]["rejected_per_second"] > 0
    assert status["hooks"]["in_flight"] == 0
    assert status["listen"] == [gateway.hooks]
    assert status["admin"] == gateway.admin
    assert status["draining"] is False
    assert status["journal"]["held"] >= 10
    assert status["last_reload"]["successful"] is True
    assert isinstance(status["warnings"], list)


@pytest.mark.parametrize("path", ["/api/events", "/api/activity"])
@pytest.mark.parametrize("apps", ["-1", "1001", "many", "", "\u0663", "1e3"])
def test_a_wrong_number_of_apps_is_refused(gateway: RunningGateway, path: str, apps: str) -> None:
    answer = gateway.get(path, params={"apps": apps})
    assert answer.status_code == 400
    assert "from 0 to 1000" in answer.text


def test_a_head_of_the_stream_ends(gateway: RunningGateway) -> None:
    answer = gateway.client.head(f"http://{gateway.admin}/api/events")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert gateway.post("/api/events").status_code == 405


def test_so_many_listen_and_no_more(gateway: RunningGateway) -> None:
    with contextlib.ExitStack() as streams:

        def listens() -> bool:
            with contextlib.ExitStack() as stream:
                told = stream.enter_context(listening(gateway, "?apps=0"))
                if told.response.status_code == 200:
                    streams.push(stream.pop_all())
                    return True
            assert told.response.status_code == 503
            return False

        # Those that other tests have left are forgotten with the next event that nobody takes.
        assert all(wait_until(listens, PATIENCE) for _ in range(MAX_LISTENERS))
        assert not listens()
    assert wait_until(lambda: streaming(gateway) == 200, PATIENCE)


def streaming(gateway: RunningGateway) -> int:
    with listening(gateway) as told:
        return told.response.status_code


def test_a_failed_reload_is_told_in_the_status(tmp_path: Path) -> None:
    with running_gateway(CONFIG, tmp_path) as gateway:
        gateway.write_config("nonsense: 1\n")
        assert gateway.post("/-/reload").status_code == 422
        last = gateway.get("/api/status").json()["last_reload"]
        assert last["successful"] is False
        assert "nonsense" in last["problems"][0]
        gateway.write_config(CONFIG.replace("  yes:", "  more: {static: allow}\n  yes:"))
        # No reload by hand: where the watch is the first of two, the last one has no changes to tell.
        wait_until(lambda: gateway.get("/api/status").json()["last_reload"]["successful"])
        last = gateway.get("/api/status").json()["last_reload"]
        assert last["successful"] is True
        assert last["changes"] == ["app more added"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gateway_that_ends_ends_its_streams_in_order(workers: int, tmp_path: Path) -> None:
    with running_gateway(CONFIG.replace("admin:", f"workers: {workers}, admin:"), tmp_path) as gateway:
        with listening(gateway) as told:
            assert told.next()[0] == "hello"
            gateway.process.terminate()
            # Cut off at the end of the admin port's patience, it would raise.
            for _ in range(500):
                if told.next()[0] == "":
                    break
        assert gateway.process.wait(PATIENCE) == 0


def test_a_thousand_apps_are_told_as_many_as_are_wanted_the_busy_first(tmp_path: Path) -> None:
    config = LISTEN + "apps:\n" + "".join(f"  tenant-{number}: {{static: allow}}\n" for number in range(1000))
    with running_gateway(config, tmp_path) as gateway:
        gateway.get("/api/activity")
        gateway.hook(appKey="tenant-700")
        with listening(gateway, "?apps=1000") as told:
            found = told.until(lambda name, data: name == "activity" and data["total"]["per_second"] > 0)
        assert (len(found["apps"]), found["app_count"]) == (1000, 1000)
        assert len({row["app"] for row in found["apps"]}) == 1000
        assert found["apps"][0]["app"] == "tenant-700"
        # With so many apps, histograms do not tell them apart.
        assert found["apps"][0]["p50_ms"] is None
        assert found["total"]["p50_ms"] > 0
        assert len(gateway.get("/api/activity").json()["apps"]) == 50
