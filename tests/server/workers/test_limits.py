"""The workers share out what is limited."""

from __future__ import annotations

import contextlib
import select
import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tests.server.workers.gated import CLIENTS, WORKERS, Gate, configuration
from tests.server.workers.hooks import connected, hook_of, send_one, status_in
from tests.server.workers.processes import count_becomes, pids_of
from tests.support.faulty import FaultyBackend
from tests.support.gateways import RunningGateway, running_gateway, wait_until


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
    # A hook is counted once its answer is out.
    assert count_becomes(shared, CLIENTS - 4, "gateway_hooks_total", app="few", reason="overload")


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
