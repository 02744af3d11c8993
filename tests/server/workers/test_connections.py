"""New connections find a worker that lives, are shared out evenly, and are refused at once where none lives."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from tests.server.workers.gated import configuration
from tests.server.workers.hooks import client_of, connected, hook_of, send, send_one
from tests.server.workers.processes import OUTAGE, holder_of, is_whole_without, pids_of
from tests.support.gateways import RunningGateway, running_gateway, wait_until

KEPT = 64


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway that does not close a connection while a busy machine looks who has it."""
    with running_gateway(configuration(read_timeout="2m"), tmp_path_factory.mktemp("static")) as gateway:
        yield gateway


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # it was silent for too long
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def without_workers(gateway: RunningGateway) -> Iterator[list[int]]:
    """Both are killed, and cannot be replaced while the block lasts."""
    victims = pids_of(gateway)
    limit = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (3, limit[1]))
    try:
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        assert wait_until(lambda: gateway.log.read_text().count("is not replaced yet") >= len(victims))
        yield victims
    finally:
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, limit)
    assert wait_until(lambda: is_whole_without(gateway, *victims), OUTAGE), gateway.log.read_text()


def test_new_connections_are_answered_beside_a_stopped_worker(static: RunningGateway) -> None:
    with stopped(pids_of(static)[0]):
        for _ in range(20):
            with connected(static) as sock:
                sock.settimeout(4.0)  # once, each second connection waited for over ten
                body = hook_of("defaultApp")
                head = b"POST /OnCallEvent HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % len(body)
                sock.sendall(head + body)
                assert sock.recv(12) == b"HTTP/1.1 200"
    assert wait_until(lambda: len(pids_of(static)) == 2, OUTAGE)


@pytest.mark.parametrize("in_one_burst", [False, True], ids=["one by one", "in one burst"])
def test_kept_connections_are_shared_out_evenly(static: RunningGateway, in_one_burst: bool) -> None:
    pids = pids_of(static)
    with contextlib.ExitStack() as stack:
        if in_one_burst:
            for pid in pids:
                stack.enter_context(stopped(pid))
        socks = [stack.enter_context(connected(static)) for _ in range(KEPT)]
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        ports = [sock.getsockname()[1] for sock in socks]

        def split() -> Counter[int | None]:
            return Counter(holder_of(port, static, pids) for port in ports)

        assert wait_until(lambda: None not in split())
        assert min(split().values()) >= KEPT // 2 - 12, split()


def test_a_successor_gets_new_connections_until_it_has_as_many(static: RunningGateway) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(KEPT // 2):
            stack.enter_context(connected(static))
        victim = pids_of(static)[0]
        os.kill(victim, signal.SIGKILL)
        assert wait_until(lambda: is_whole_without(static, victim), OUTAGE), static.log.read_text()
        pids = pids_of(static)
        ports = [stack.enter_context(connected(static)).getsockname()[1] for _ in range(KEPT // 4)]
        assert wait_until(lambda: None not in [holder_of(port, static, pids) for port in ports])
        by = Counter(holder_of(port, static, pids) for port in ports)
        assert by[pids[1]] >= KEPT // 4 - 6 or by[pids[0]] >= KEPT // 4 - 6, by


def test_while_no_worker_lives_connections_are_refused_at_once_and_then_served_again(static: RunningGateway) -> None:
    with without_workers(static):
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                connected(static).close()
    assert send_one(static, hook_of("defaultApp")) == 200


def test_hooks_sent_while_workers_are_killed_one_after_the_other_are_all_answered(static: RunningGateway) -> None:
    """Each on a new connection; one that its worker takes with it is repeated once, as Java's client does."""
    unanswered = 0
    for _ in range(3):
        victim = pids_of(static)[0]
        os.kill(victim, signal.SIGKILL)
        for _ in range(40):
            for _attempt in range(2):
                try:
                    with client_of(static) as client:
                        assert send(client, hook_of("defaultApp"))[0] == 200
                    break
                except (ConnectionError, OSError):
                    continue
            else:
                unanswered += 1
        assert wait_until(partial(is_whole_without, static, victim), OUTAGE), static.log.read_text()
    assert unanswered == 0
