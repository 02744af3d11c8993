"""A gateway that was held up itself (a machine paused, a CPU that others had) blames nobody for it, and loses nothing.

Held up it is by SIGSTOP, as a hypervisor would, for longer than the hooks' budget.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from httpx import Response

from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.pacing import Mode, PacedBackend, configuration

BUDGET: Final = 3.0
LAG_THRESHOLD: Final = 4.0
HOOKS: Final = 12
"""More than twice as many failures as open a breaker."""


@pytest.fixture
def backend() -> Iterator[PacedBackend]:
    with PacedBackend(Mode.HOLD) as running:
        yield running


@pytest.fixture
def gateway(backend: PacedBackend, tmp_path: Path) -> Iterator[RunningGateway]:
    text = configuration({"u": {"url": backend.url}}, {"a": {"upstream": "u", "timeout": f"{BUDGET:g}s"}})
    with running_gateway(text, tmp_path) as running:
        yield running


@contextlib.contextmanager
def held_up(gateway: RunningGateway) -> Iterator[None]:
    """Stop the process for LAG_THRESHOLD seconds, in which the block is done."""
    os.kill(gateway.pid, signal.SIGSTOP)
    try:
        until = time.monotonic() + LAG_THRESHOLD
        yield
        time.sleep(max(0.0, until - time.monotonic()))
    finally:
        os.kill(gateway.pid, signal.SIGCONT)


@contextlib.contextmanager
def hooks_in_hand(gateway: RunningGateway, backend: PacedBackend) -> Iterator[list[Future[Response]]]:
    """Hooks that the backend has and has not answered yet."""
    with ThreadPoolExecutor(HOOKS) as threads:
        sent = [threads.submit(gateway.hook, appKey="a", callId=f"{number}") for number in range(HOOKS)]
        assert wait_until(lambda: backend.held == HOOKS)
        yield sent


def statuses(sent: list[Future[Response]]) -> list[int]:
    return [future.result().status_code for future in sent]


def noticed(gateway: RunningGateway) -> bool:
    """Whether metric and log tell of the hold-up; they may tell of shorter ones too, that this machine had itself."""
    told = [line["held_up_ms"] / 1000 for line in gateway.lines() if line.get("event") == "held_up"]
    return (
        max(told, default=0.0) > LAG_THRESHOLD / 2
        and gateway.metric("gateway_held_up_seconds_total") >= sum(told) - 0.01
    )


def ejections(gateway: RunningGateway) -> float:
    return gateway.metric("gateway_target_ejections_total", upstream="u")


def test_answers_that_came_while_it_was_held_up_are_the_hooks_verdicts(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    with hooks_in_hand(gateway, backend) as sent:
        with held_up(gateway):
            backend.release()
        assert statuses(sent) == [200] * HOOKS
    assert ejections(gateway) == 0
    assert wait_until(lambda: noticed(gateway))


def test_a_backend_whose_answers_had_not_come_when_it_was_held_up_is_not_blamed(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    with hooks_in_hand(gateway, backend) as sent:
        with held_up(gateway):
            pass
        assert statuses(sent) == [403] * HOOKS
    backend.release()
    assert ejections(gateway) == 0
    assert gateway.hook(appKey="a", callId="after").status_code == 200

    def said() -> list[str]:
        return [line["error"] for line in gateway.access_lines() if line["reason"] == "timeout"]

    assert wait_until(lambda: len(said()) == HOOKS)
    assert all("this gateway itself was held up for " in error for error in said())


def test_a_hook_that_comes_on_a_connection_whose_time_ran_out_meanwhile_is_answered(
    backend: PacedBackend, tmp_path: Path
) -> None:
    text = configuration({"u": {"url": backend.url}}, {"a": {"static": "allow"}}, server={"keepalive_timeout": "3s"})
    hook = b'POST /rest/my_api/OnCallEvent HTTP/1.1\r\nHost: gw\r\nContent-Length: 14\r\n\r\n{"appKey":"a"}'
    with running_gateway(text, tmp_path) as gateway, gateway.connect() as sock:
        for _ in range(2):
            sock.sendall(hook)
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
            with held_up(gateway):
                sock.sendall(hook)
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
