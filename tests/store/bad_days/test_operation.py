"""What operators do, and what happens to a process without its end: restarts, reloads, a store that is stopped."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.store.bad_days.stage import DOWN, UP, bad_day, store_is_up, store_pid
from tests.support.programs import free_port

pytestmark = pytest.mark.slow

EVENTS: Final = 3000
CALLS: Final = 30


def test_restarts_amid_outage_and_recovery_lose_and_double_nothing(tmp_path: Path) -> None:
    """No crash, so no excuse: each event is delivered once."""
    with bad_day("restarts", tmp_path) as day, ExitStack() as stack:
        config = day.config(listen=f"127.0.0.1:{free_port()}", workers=2)
        gateway = stack.enter_context(day.gateway(config))
        with day.load([gateway], calls=CALLS, events=EVENTS // CALLS) as load:
            load.wait_for(EVENTS // 10)
            day.backend.follow(DOWN)
            for part in (3, 5, 7):
                load.wait_for(EVENTS * part // 10)
                if part == 5:
                    day.backend.follow(UP)
                assert gateway.stop(signal.SIGTERM) == 0
                gateway = stack.enter_context(day.gateway(config))
        found = day.close()
        assert found.redelivered >= EVENTS // 10
        assert found.promised >= EVENTS * 0.9


def test_reloads_amid_outage_and_recovery_lose_and_double_nothing(tmp_path: Path) -> None:
    with bad_day("reloads", tmp_path) as day:
        configs = [day.config(workers=2, spool={"attempts": attempts}) for attempts in (9, 10)]
        with day.gateway(configs[0]) as gateway:
            with day.load([gateway], calls=CALLS, events=EVENTS // CALLS) as load:
                load.wait_for(EVENTS // 10)
                day.backend.follow(DOWN)
                for number in range(12):
                    load.wait_for(EVENTS * (number + 2) // 14)
                    if number == 5:
                        day.backend.follow(UP)
                    gateway.reload(configs[(number + 1) % 2])
            found = day.close()
            assert found.promised == EVENTS
            assert found.redelivered >= EVENTS // 10


def test_a_store_process_that_is_stopped(tmp_path: Path) -> None:
    """Events wait no longer than their budget; what was on its way is delivered once it goes on, and once."""
    with bad_day("the store's process stopped for 4 s", tmp_path) as day, day.gateway(day.config()) as gateway:
        day.backend.follow(DOWN)
        assert day.send(gateway, "before") == {200: 10}
        pid = store_pid(gateway)
        os.kill(pid, signal.SIGSTOP)
        until = time.monotonic() + 4
        with day.load([gateway], calls=8, events=4) as load:
            pass
        assert load.statuses() == {403: 32}
        assert max(one.ended - one.begun for one in load.sent) < 1.0 + 2.0, "the budget is 1 s"
        time.sleep(max(0.0, until - time.monotonic()))
        os.kill(pid, signal.SIGCONT)
        assert store_is_up(gateway)
        assert day.send(gateway, "after") == {200: 10}
        day.backend.follow(UP)
        found = day.close()
        assert store_pid(gateway) == pid
        assert found.delivered > found.promised, "what was committed late is delivered too"
