"""Workers share what one process would have: duplicates, limits and ejections hold in sum."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import pytest

from tests.server.workers.gated import WORKERS
from tests.server.workers.hooks import connected
from tests.server.workers.processes import OUTAGE, holder_of, is_whole_without, pids_of
from tests.support.gateways import Answer, RunningGateway, read_answer, running_gateway, wait_until
from tests.support.pacing import Mode, PacedBackend, configuration, hook_body

METHOD: Final = b"OnCallEvent"
LONG: Final = "14s"
APP: Final[dict[str, Any]] = {"upstream": "u", "timeout": LONG}
SERVER: Final = {"workers": WORKERS}


class Line:
    """A kept connection to one of the workers."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.pid = pid
        self._sock = sock
        self._stream: BufferedReader = sock.makefile("rb")

    def send(self, body: bytes) -> Line:
        head = b"POST /rest/%b HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % (METHOD, len(body))
        self._sock.sendall(head + body)
        return self

    def answer(self) -> Answer:
        return read_answer(self._stream)

    def ask(self, body: bytes) -> Answer:
        return self.send(body).answer()

    def has_answer(self) -> bool:
        """Whether some of an answer is here that nobody has read."""
        return bool(select.select([self._sock], [], [], 0)[0])


class Lines:
    """Connections, as many to each worker as a test wants."""

    def __init__(self, gateway: RunningGateway, stack: contextlib.ExitStack) -> None:
        self._gateway = gateway
        self._stack = stack
        self._spare: list[Line] = []

    def each(self, count: int = 1) -> list[list[Line]]:
        """So many lines to each worker; the lists in the order of the workers' pids."""
        pids = sorted(pids_of(self._gateway))
        for _ in range(400):
            by_pid = {pid: [line for line in self._spare if line.pid == pid][:count] for pid in pids}
            if all(len(lines) == count for lines in by_pid.values()):
                taken = [by_pid[pid] for pid in pids]
                self._spare = [line for line in self._spare if not any(line in lines for lines in taken)]
                return taken
            sock = self._stack.enter_context(connected(self._gateway))
            port = sock.getsockname()[1]
            pid = self._holder_of(port, pids)
            self._spare.append(Line(sock, pid))
        raise AssertionError("one worker gets no connections")

    def _holder_of(self, port: int, pids: list[int]) -> int:
        """The worker that has accepted the connection from this port."""
        pid: int | None = wait_until(lambda: holder_of(port, self._gateway, pids), 10)
        assert pid is not None
        return pid


@pytest.fixture
def backend() -> Iterator[PacedBackend]:
    with PacedBackend() as running:
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = configuration({}, {"nobody": {"static": "reject"}}, server=SERVER)
    with running_gateway(config, tmp_path_factory.mktemp("sharing")) as gateway:
        yield gateway


@pytest.fixture
def lines(running: RunningGateway) -> Iterator[Lines]:
    with contextlib.ExitStack() as stack:
        yield Lines(running, stack)


def serve(gateway: RunningGateway, backend: PacedBackend, apps: dict[str, dict[str, Any]], **sections: Any) -> None:
    """Put these apps in force, before this backend; repeats count unless a section says otherwise."""
    upstream = {"url": backend.url, "breaker": "off", **sections.pop("upstream", {})}
    sections.setdefault("defaults", {})
    sections["server"] = {**SERVER, **sections.get("server", {})}
    gateway.reload(configuration({"u": upstream}, apps, **sections))


def is_refused(answer: Answer) -> bool:
    return "connection_limit_reached" in answer.headers.get("proxy-status", "")


# --- duplicates ---


@pytest.mark.parametrize("mode", [Mode.OK, Mode.DENY])
def test_the_same_hook_at_two_workers_at_once_is_decided_once(
    running: RunningGateway, backend: PacedBackend, lines: Lines, mode: Mode
) -> None:
    serve(running, backend, {"a": APP})
    backend.mode = mode
    (one,), (other,) = lines.each()
    bodies = [hook_body("a") for _ in range(300)]
    for number, body in enumerate(bodies):
        first, second = (one, other) if number % 2 else (other, one)
        first.send(body)
        second.send(body)
        verdicts = [(answer.status, answer.body) for answer in (first.answer(), second.answer())]
        assert verdicts[0] == verdicts[1]
        assert verdicts[0][0] == (200 if mode is Mode.OK else 403)
    assert Counter(request.body for request in backend.hooks) == dict.fromkeys(bodies, 1)
    # A hook is counted once its answer is out.
    assert wait_until(lambda: running.metric("gateway_hooks_total", app="a", source="duplicate") >= len(bodies))


def test_a_repeat_at_another_worker_waits_for_the_verdict_and_gets_it_later_too(
    running: RunningGateway, backend: PacedBackend, lines: Lines
) -> None:
    serve(running, backend, {"a": APP, "b": {**APP, "timeout": "1500ms"}, "c": {**APP, "dedupe": "400ms"}})
    (one,), (other,) = lines.each()
    backend.mode = Mode.HOLD
    body = hook_body("a")
    one.send(body)
    assert wait_until(lambda: backend.held == 1)
    other.send(body)
    assert wait_until(lambda: running.metric("gateway_hooks_in_flight", app="a") == 2)
    backend.release()
    assert one.answer().body == other.answer().body == other.ask(body).body == one.ask(body).body
    assert backend.count == 1

    backend.mode = Mode.HOLD  # a failure that the backend has seen is kept like a verdict
    late = hook_body("b")
    statuses = [one.ask(late).headers["proxy-status"], other.ask(late).headers["proxy-status"]]
    assert statuses == ["gateway; error=http_response_timeout"] * 2
    assert backend.count == 2
    backend.release()

    brief = hook_body("c")
    assert one.ask(brief).status == 200
    assert wait_until(lambda: other.ask(brief).status == 200 and backend.count > 3)


def test_what_no_backend_can_have_seen_may_be_asked_again_at_another_worker(
    running: RunningGateway, backend: PacedBackend, lines: Lines
) -> None:
    serve(running, backend, {"a": APP})
    (one,), (other,) = lines.each()
    body = hook_body("a")
    backend.kill()
    assert one.ask(body).status == 403
    backend.revive()
    assert (other.ask(body).status, one.ask(body).status, backend.count) == (200, 200, 1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_repeat_whose_first_is_lost_with_its_worker_is_asked_again_within_its_budget(
    tmp_path: Path, backend: PacedBackend, how: signal.Signals
) -> None:
    app = {**APP, "timeout": "5s", "dedupe": "5m"}  # longer than a worker may take to be replaced
    config = configuration({"u": {"url": backend.url}}, {"a": app}, server=SERVER)
    with running_gateway(config, tmp_path) as gateway, contextlib.ExitStack() as stack:
        (one,), (other,) = Lines(gateway, stack).each()
        backend.mode = Mode.HOLD
        body = hook_body("a")
        one.send(body)
        assert wait_until(lambda: backend.held == 1)
        other.send(body)
        assert wait_until(lambda: gateway.metric("gateway_hooks_in_flight", app="a") == 2)
        assert backend.count == 1
        backend.mode = Mode.OK
        os.kill(one.pid, how)
        assert other.answer().status == 200, "past its budget it would be 403"
        assert [request.body for request in backend.hooks] == [body] * 2
        assert other.ask(body).status == 200
        assert backend.count == 2
        if how is signal.SIGKILL:  # and its successor knows the verdict
            assert wait_until(lambda: is_whole_without(gateway, one.pid), OUTAGE)
            for (line,) in Lines(gateway, stack).each():
                assert line.ask(body).status == 200
            assert backend.count == 2
        else:
            os.kill(one.pid, signal.SIGCONT)


# --- limits ---


def test_an_app_s_rate_and_burst_hold_in_sum_and_may_be_used_up_at_one_worker(
    running: RunningGateway, backend: PacedBackend, lines: Lines
) -> None:
    serve(running, backend, {"a": {**APP, "rate_limit": "60/m burst 20"}, "b": {**APP, "rate_limit": "60/m burst 20"}})
    (one,), (other,) = lines.each()
    began = time.monotonic()
    uneven = [is_refused(one.ask(hook_body("a"))) for _ in range(25)]
    assert uneven[:20] == [False] * 20, "all of the burst at one worker"
    rest = [is_refused(other.ask(hook_body("a"))) for _ in range(10)]
    even = [is_refused(line.ask(hook_body("b"))) for _ in range(20) for line in (one, other)]
    more = int(time.monotonic() - began) + 1
    assert [*uneven, *rest].count(False) <= 20 + more
    assert 20 <= even.count(False) <= 20 + more


def test_max_in_flight_holds_in_sum_and_may_be_used_up_at_one_worker(
    running: RunningGateway, backend: PacedBackend, lines: Lines
) -> None:
    apps = {"a": {**APP, "max_in_flight": 4}, "b": APP}
    serve(running, backend, apps, server={"max_in_flight": 6})
    ones, others = lines.each(5)
    backend.mode = Mode.HOLD
    held = [line.send(hook_body("a")) for line in ones[:4]]
    assert wait_until(lambda: backend.held == 4)
    assert is_refused(ones[4].ask(hook_body("a")))
    assert is_refused(others[4].ask(hook_body("a")))
    held += [line.send(hook_body("b")) for line in others[:2]]
    assert wait_until(lambda: backend.held == 6)
    assert is_refused(ones[4].ask(hook_body("b")))
    assert is_refused(others[4].ask(hook_body("b")))
    backend.release()
    assert [line.answer().status for line in held] == [200] * 6
    assert {line.ask(hook_body("a")).status for line in (*ones, *others)} == {200}


def test_the_places_of_a_worker_that_dies_are_free_again(tmp_path: Path, backend: PacedBackend) -> None:
    app = {**APP, "max_in_flight": 2}
    config = configuration({"u": {"url": backend.url}}, {"a": app}, server={**SERVER, "max_in_flight": 2})
    with running_gateway(config, tmp_path) as gateway, contextlib.ExitStack() as stack:
        ones, others = Lines(gateway, stack).each(2)
        backend.mode = Mode.HOLD
        for line in ones:
            line.send(hook_body("a"))
        assert wait_until(lambda: backend.held == 2)
        assert is_refused(others[0].ask(hook_body("a")))
        backend.mode = Mode.OK
        os.kill(ones[0].pid, signal.SIGKILL)
        assert wait_until(lambda: others[0].ask(hook_body("a")).status == 200, OUTAGE)


# --- ejections ---


def test_failures_at_all_workers_count_together_and_an_ejection_is_one_for_all(
    running: RunningGateway, backend: PacedBackend, lines: Lines
) -> None:
    upstream = {"breaker": {"failures": 4, "window": "1m", "open_for": "1h"}}
    serve(running, backend, {"a": APP}, upstream=upstream)
    (one,), (other,) = lines.each()
    backend.mode = Mode.UNAVAILABLE
    statuses = [line.ask(hook_body("a")).headers["proxy-status"] for line in (one, other, one, other)]
    assert all("received-status=503" in status for status in statuses)
    for line in (one, other, one, other):
        assert "destination_unavailable" in line.ask(hook_body("a")).headers["proxy-status"]
    assert backend.count == 4
    assert running.metric("gateway_target_ejections_total", upstream="u") == 1
    (target,) = running.get("/api/upstreams").json()["upstreams"][0]["targets"]
    assert (target["workers"], target["workers_ejected"]) == (WORKERS, WORKERS)


def test_all_workers_together_send_one_probe_and_its_success_lets_all_in(
    running: RunningGateway, backend: PacedBackend, lines: Lines
) -> None:
    upstream = {"breaker": {"failures": 2, "window": "1m", "open_for": "500ms"}}
    serve(running, backend, {"a": APP}, upstream=upstream)
    (one, *ones), (other, *others) = lines.each(3)
    backend.mode = Mode.UNAVAILABLE
    for line in (one, other):
        assert line.ask(hook_body("a")).status == 403
    backend.mode = Mode.HOLD
    before = backend.count

    def probed() -> bool:
        asked = [line.send(hook_body("a")) for line in (ones[0], others[0])]
        assert wait_until(lambda: backend.held > 0 or all(line.has_answer() for line in asked))
        return backend.held > 0 or not [line.answer() for line in asked]

    assert wait_until(probed)
    assert backend.count == before + 1, "one probe"
    for line in (ones[1], others[1]):
        assert "destination_unavailable" in line.ask(hook_body("a")).headers["proxy-status"]
    assert backend.count == before + 1
    backend.release()
    for line in (ones[0], others[0]):
        line.answer()
    for line in itertools.chain(ones[1:], others[1:], (one, other)):
        assert line.ask(hook_body("a")).status == 200


# --- connections ---


def test_connections_to_a_target_hold_in_sum_and_may_be_used_up_at_one_worker(
    running: RunningGateway, backend: PacedBackend, lines: Lines
) -> None:
    serve(running, backend, {"a": APP}, upstream={"max_connections": 3})
    ones, others = lines.each(6)
    backend.mode = Mode.HOLD
    held = [line.send(hook_body("a")) for line in ones[:5]]
    assert wait_until(lambda: backend.held == 3)
    held += [line.send(hook_body("a")) for line in others]
    assert wait_until(lambda: running.metric("gateway_hooks_in_flight", app="a") == 11)
    assert (backend.held, backend.count) == (3, 3)
    backend.release()
    assert [line.answer().status for line in held] == [200] * 11
    assert backend.most_in_hand == 3
    assert {line.ask(hook_body("a")).status for line in (*ones, *others)} == {200}


def test_one_connection_for_all_workers_goes_from_one_to_the_other(
    running: RunningGateway, backend: PacedBackend, lines: Lines
) -> None:
    serve(running, backend, {"a": APP}, upstream={"max_connections": 1})
    backend.delay = 0.01
    ones, others = lines.each(4)
    for _ in range(5):
        sent = [line.send(hook_body("a")) for line in (*ones, *others)]
        assert [line.answer().status for line in sent] == [200] * 8
    assert backend.most_in_hand == 1
