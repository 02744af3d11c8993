"""``kill -9`` of the gateway, of a worker, of the store's process, amid many events."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.store.bad_days.stage import DOWN, UP, bad_day, store_is_up, store_pid, worker_pids
from tests.support.programs import free_port

MANY: Final = 10_000
CALLS: Final = 20


@pytest.mark.slow
@pytest.mark.parametrize(("events", "workers"), [(MANY, 1), (2000, 2)])
def test_kill_of_the_gateway(tmp_path: Path, events: int, workers: int) -> None:
    """Of its main process, while its backend is down, and again amid the recovery."""
    with bad_day(f"kill -9 of the gateway, {workers} workers, {events}", tmp_path) as day, ExitStack() as stack:
        config = day.config(listen=f"127.0.0.1:{free_port()}", workers=workers)
        gateway = stack.enter_context(day.gateway(config))
        with day.load([gateway], calls=CALLS, events=events // CALLS) as load:
            load.wait_for(events // 10)
            day.backend.follow(DOWN)
            load.wait_for(events // 3)
            day.kill_gateway(gateway)
            gateway = stack.enter_context(day.gateway(config))
            load.wait_for(events // 2)
            day.backend.follow(UP)
            load.wait_for(events * 3 // 4)
            day.kill_gateway(gateway)
            stack.enter_context(day.gateway(config))
        found = day.close(beside_unanswered=8)
        assert found.redelivered >= events // 10
        assert found.promised >= events * 0.8


@pytest.mark.slow
def test_kill_of_each_worker(tmp_path: Path) -> None:
    """One of them redelivers: another takes that over."""
    events = MANY
    with bad_day(f"kill -9 of workers, {events}", tmp_path) as day, day.gateway(day.config(workers=2)) as gateway:
        with day.load([gateway], calls=CALLS, events=events // CALLS) as load:
            load.wait_for(events // 10)
            day.backend.follow(DOWN)
            load.wait_for(events // 3)
            for pid in worker_pids(gateway)[:1]:
                day.kill(pid)
            load.wait_for(events // 2)
            day.backend.follow(UP)
            load.wait_for(events * 6 // 10)
            day.kill(worker_pids(gateway)[0])
            load.wait_for(events * 8 // 10)
            day.kill(worker_pids(gateway)[-1])
        found = day.close(beside_unanswered=12)
        assert found.redelivered >= events // 10
        assert found.promised >= events * 0.9


@pytest.mark.slow
@pytest.mark.parametrize("events", [MANY])
def test_kill_of_the_store_process(tmp_path: Path, events: int) -> None:
    """It is started again; until then events get what the fallback says, and hooks beside feel nothing."""
    name = f"kill -9 of the store's process, {events}"
    with bad_day(name, tmp_path) as day, day.gateway(day.config(workers=2)) as gateway:
        gone: list[int] = []
        connections = 8 if events < 1000 else 100
        with day.load([gateway], calls=connections, events=events // connections, connections=connections,
                      pause=0.1) as load:  # fmt: skip
            load.wait_for(events // 10)
            day.backend.follow(DOWN)
            for part in (3, 5, 7):
                load.wait_for(events * part // 10)
                if part == 5:
                    day.backend.follow(UP)
                gone.append(store_pid(gateway, *gone))
                day.kill(gone[-1])
            assert store_pid(gateway, *gone)
        assert store_is_up(gateway)
        found = day.close()
        assert found.redelivered >= events // 10
        assert load.statuses().keys() <= {200, 403}
