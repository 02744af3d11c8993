"""The store's process beside the others: whichever of them dies, what was promised is delivered, in order."""

from __future__ import annotations

import functools
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.server.kept import (
    PATIENCE,
    configuration,
    descriptors,
    resident,
    store_pid,
    waiting,
    worker_pids,
)
from tests.server.workers.processes import is_alive
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.spool_backend import EventBackend, Script
from tests.support.spool_load import EventLoad
from tests.support.spool_oracle import Crash, Findings, judge

DOWN: Final = Script(up=False)
UP: Final = Script()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def backend(directory: Path) -> Iterator[EventBackend]:
    with EventBackend(directory) as running:
        yield running


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def gateway(request: Any, backend: EventBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Used by all tests here, in their order; each leaves an empty spool behind."""
    with running_gateway(configuration(backend, request.param), tmp_path_factory.mktemp("gateway")) as running:
        store_pid(running)  # on a busy machine the gateway begins without it
        yield running


@pytest.fixture
def load(gateway: RunningGateway, backend: EventBackend, request: Any) -> Iterator[EventLoad]:
    """Events of twelve calls, one after the other in each, while the backend is down at first."""
    backend.follow(DOWN)
    name = f"{request.node.name}-call"
    with EventLoad([gateway.hooks], calls=12, events=8, pause=0.02, name=name) as running:
        yield running


def kill_whole(gateway: RunningGateway, others: list[int]) -> None:
    """``kill -9`` of its main process; the others end because of that."""
    os.kill(gateway.pid, signal.SIGKILL)
    gateway.process.wait()
    assert wait_until(lambda: not any(map(is_alive, others)), PATIENCE)


def is_ended(pid: int) -> bool:
    return not is_alive(pid)


def has_other_store(gateway: RunningGateway, killed: int) -> bool:
    """Whether a successor answers."""
    return store_pid(gateway) not in (0, killed) and waiting(gateway) < math.inf


def has_descriptors(pid: int, count: int) -> bool:
    return descriptors(pid) == count


def verdict(load: EventLoad, backend: EventBackend, gateway: RunningGateway, crashes: list[Crash]) -> Findings:
    """What became of the events, once the spool is empty."""
    load.wait()
    backend.follow(UP)
    assert wait_until(lambda: waiting(gateway) == 0, PATIENCE), gateway.log.read_text()
    mine = {one.id for one in load.sent}
    found = judge(load.sent, [each for each in backend.received() if each.id in mine], crashes=crashes)
    assert found.violations == {}, f"{found}\n{gateway.log.read_text()}"
    return found


def test_the_first_event_after_the_start_is_kept_in_files_that_nobody_else_can_read(
    gateway: RunningGateway, backend: EventBackend
) -> None:
    backend.follow(DOWN)
    with EventLoad([gateway.hooks], calls=1, events=1, name=f"first-{gateway.pid}") as load:
        load.wait()
    assert [each.status for each in load.sent] == [200]
    directory = gateway.config.parent
    files = [*directory.glob("store.*.db"), *directory.glob("store.*.db-wal"), directory / "store.lock"]
    assert len(files) == 5
    assert {file.stat().st_mode & 0o077 for file in files} == {0}
    assert verdict(load, backend, gateway, []).redelivered == 1


def test_events_of_an_outage_are_kept_and_delivered_in_order(
    gateway: RunningGateway, backend: EventBackend, load: EventLoad
) -> None:
    assert store_pid(gateway)
    load.wait()
    assert load.statuses() == {200: 96}
    assert waiting(gateway) == 96
    assert wait_until(lambda: gateway.metric("gateway_spool_events", upstream="php") == 96)
    assert gateway.metric("gateway_spool_bytes", upstream="php") > 96 * 200
    assert gateway.metric("gateway_spool_oldest_age_seconds", upstream="php") > 0
    earlier = gateway.metric("gateway_spool_redelivered_total")  # of other tests, all delivered
    assert gateway.metric("gateway_store_commit_seconds_count") == earlier + 96
    found = verdict(load, backend, gateway, [])
    assert (found.promised, found.redelivered) == (96, 96)
    assert wait_until(lambda: gateway.metric("gateway_spool_redelivered_total") == earlier + 96)
    assert wait_until(lambda: gateway.metric("gateway_spool_oldest_age_seconds") == 0)


def test_when_the_store_s_process_is_killed_what_it_confirmed_is_delivered_and_another_one_goes_on(
    gateway: RunningGateway, backend: EventBackend, load: EventLoad
) -> None:
    pid = store_pid(gateway)
    load.wait_for(20)
    crash = Crash.by(lambda: os.kill(pid, signal.SIGKILL))
    assert wait_until(functools.partial(is_ended, pid))
    assert store_pid(gateway) != pid
    found = verdict(load, backend, gateway, [crash])
    assert 20 <= found.promised <= 96
    assert gateway.wait_for_line(lambda line: line.get("event") == "store_died")


@pytest.mark.slow
def test_a_silent_store_is_replaced_and_no_hook_waits_for_it(gateway: RunningGateway, backend: EventBackend) -> None:
    backend.follow(UP)
    pid = store_pid(gateway)
    os.kill(pid, signal.SIGSTOP)
    for number in range(20):
        answer = gateway.hook("CallStatusEvent", id=f"silent-{number}-{gateway.pid}", callId=f"silent-{number}")
        assert answer.status_code == 200, "the backend has it: nothing needs to be kept"
    assert wait_until(lambda: not is_alive(pid), PATIENCE)
    assert store_pid(gateway) != pid


def test_a_reload_is_taken_by_the_store_too_and_another_store_needs_a_restart(
    gateway: RunningGateway, backend: EventBackend
) -> None:
    workers = len(worker_pids(gateway)) or 1
    pid = store_pid(gateway)
    changed = configuration(
        backend, workers, store={"url": "sqlite:other.db"}, log={"level": "debug"}, history={"keep": "2d"},
        upstreams={"php": {"url": backend.url}, "more": {"url": backend.url}},
    )  # fmt: skip
    report = gateway.reload(changed)
    assert "store changed (takes effect after a restart)" in report["changes"]
    assert "history changed" in report["changes"]
    labels = wait_until(lambda: 'gateway_spool_events{upstream="more"}' in gateway.get("/metrics").text)
    assert labels, "the store's process has the new configuration"
    gateway.reload(configuration(backend, workers))
    assert store_pid(gateway) == pid


def test_when_the_worker_that_redelivers_is_killed_another_one_does(
    gateway: RunningGateway, backend: EventBackend, load: EventLoad
) -> None:
    if not worker_pids(gateway):
        pytest.skip("one process has no worker that could be killed alone")
    load.wait()
    assert wait_until(lambda: waiting(gateway) == 96)
    backend.follow(Script(delay=0.05))
    load.stop()
    pid = worker_pids(gateway)[0]
    assert wait_until(lambda: waiting(gateway) < 90)
    crash = Crash.by(lambda: os.kill(pid, signal.SIGKILL))
    found = verdict(load, backend, gateway, [crash])
    assert found.promised == 96


@pytest.mark.slow
def test_what_was_opened_for_it_is_closed_again(gateway: RunningGateway) -> None:
    """After all the deaths above; the first one's figures are those of a gateway whose store has died once."""
    store_pid(gateway)
    before = None
    for _ in range(3):
        killed = store_pid(gateway)
        os.kill(killed, signal.SIGKILL)
        assert wait_until(functools.partial(is_ended, killed))
        assert wait_until(functools.partial(has_other_store, gateway, killed), PATIENCE)
        assert descriptors(store_pid(gateway)) < 64
        before = before or descriptors(gateway.pid)
        assert wait_until(functools.partial(has_descriptors, gateway.pid, before))
    assert resident(gateway.pid) < 400 * 2**20


@pytest.mark.slow
def test_told_to_end_it_keeps_what_it_has_and_delivers_it_after_the_restart(tmp_path: Path) -> None:
    with EventBackend(tmp_path) as backend:
        config = configuration(backend, 2, store={"url": f"sqlite:{tmp_path}/store.db"})
        (tmp_path / "next").mkdir()
        backend.follow(DOWN)
        with running_gateway(config, tmp_path) as gateway:
            store = store_pid(gateway)
            with EventLoad([gateway.hooks], calls=8, events=40, pause=0.01, name="drain") as load:
                load.wait_for(40)
                assert gateway.stop() == 0
                load.stop()
            assert not is_alive(store)
            assert gateway.lines()[-1]["message"] == "stopped"
        with running_gateway(config, tmp_path / "next") as gateway:
            backend.follow(UP)
            store_pid(gateway)
            found = verdict(load, backend, gateway, [])
            assert found.promised >= 40


@pytest.mark.slow
def test_when_the_main_process_is_killed_the_store_s_process_ends_too_and_the_next_gateway_delivers(
    tmp_path: Path,
) -> None:
    with EventBackend(tmp_path) as backend:
        config = configuration(backend, 2, store={"url": f"sqlite:{tmp_path}/store.db"})
        (tmp_path / "next").mkdir()
        backend.follow(DOWN)
        with running_gateway(config, tmp_path) as gateway:
            store, workers = store_pid(gateway), worker_pids(gateway)
            with EventLoad([gateway.hooks], calls=8, events=40, pause=0.01, name="killed") as load:
                load.wait_for(40)
                crash = Crash.by(lambda: kill_whole(gateway, [store, *workers]))
                load.stop()
        with running_gateway(config, tmp_path / "next") as gateway:
            backend.follow(UP)
            store_pid(gateway)
            found = verdict(load, backend, gateway, [crash])
            assert found.promised >= 40
