"""A worker may die, hang or be told to end, and the service goes on."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Final

from tests.server.workers.gated import CLIENTS, WORKERS, Gate, configuration
from tests.server.workers.hooks import Load, hook_of, send_one, status_in, under_way
from tests.server.workers.processes import (
    OUTAGE,
    count_becomes,
    counters_of,
    holder_of,
    is_alive,
    is_whole_without,
    pids_of,
    status_at_each,
)
from tests.support.faulty import FaultyBackend
from tests.support.gateways import RunningGateway, running_gateway, wait_until

SILENCE: Final = 30.0
"""Seconds until a worker that hangs is replaced, its two seconds of silence included."""


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
        assert count_becomes(gateway, 0, "gateway_hooks_in_flight")
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
        assert count_becomes(gateway, 0, "gateway_hooks_in_flight")


def test_workers_that_die_while_the_file_is_broken_come_back_with_the_configuration_in_force(
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
            # The parent too has then stood still for longer than the limit of silence.
            assert wait_until(lambda: is_whole_without(hanging, victim), SILENCE), hanging.log.read_text()
        finally:
            os.kill(held_up.pid, signal.SIGCONT)
        assert not is_alive(victim)
        assert hanging.metric("gateway_worker_deaths_total") == 1
        hanging.wait_for_line(lambda line: "silent" in line.get("message", ""))
        assert set(status_at_each(hanging, "defaultApp").values()) == {200}
        # Two rounds of asking who lives go by.
        assert not wait_until(lambda: held_up.metric("gateway_worker_deaths_total") > 0, 2.5), held_up.log.read_text()
        assert pids_of(held_up) == survivors
