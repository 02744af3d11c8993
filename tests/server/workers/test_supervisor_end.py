"""Told to end, all workers answer what they have begun."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.server.workers.gated import Gate, configuration
from tests.server.workers.hooks import connected, status_in, under_way
from tests.server.workers.processes import is_alive, pids_of
from tests.support.faulty import FaultyBackend
from tests.support.gateways import STOP_LIMIT, RunningGateway, running_gateway, wait_until


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
        gateway.process.send_signal(signal.SIGTERM)
        assert wait_until(lambda: is_refused(gateway))
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.wait(25)  # seconds; the drain would take 50
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
