"""Backends that take one event never, or take events and die; clocks that jump; an app that gets another name."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Final

import pytest

from tests.store.bad_days.stage import DOWN, UP, bad_day
from tests.support.gateways import wait_until
from tests.support.programs import missing
from tests.support.spool_backend import Script

FAKETIME: Final = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
EVENTS: Final = 300
CALLS: Final = 10


@pytest.mark.slow
def test_a_poison_event_becomes_a_dead_letter_and_its_call_goes_on(tmp_path: Path) -> None:
    poison = {f"call-{call}/5": 500 for call in (3, 7)}
    with bad_day("a poison event", tmp_path) as day, day.gateway(day.config(spool={"attempts": 3})) as gateway:
        day.backend.follow(DOWN)
        with day.load([gateway], calls=CALLS, events=EVENTS // CALLS) as load:
            load.wait_for(EVENTS * 2 // 3)
            day.backend.follow(Script(poison=poison))
        assert load.statuses() == {200: EVENTS}
        day.accounted |= poison.keys()
        found = day.close()
        assert found.delivered == EVENTS - len(poison)
        assert wait_until(lambda: gateway.get("/api/spool").json()["dead"] == len(poison))
        tries = [one.redelivery for one in day.backend.received() if one.id in poison]
        assert sorted(map(str, tries)) == ["1", "1", "2", "2", "3", "3"]
        assert wait_until(lambda: gateway.metric("gateway_spool_dead_total") == len(poison))


@pytest.mark.slow
def test_a_backend_that_takes_events_and_dies_amid_the_recovery(tmp_path: Path) -> None:
    """Those that it had taken without an answer come again; the others come once."""
    with (
        bad_day("a backend that accepts and dies amid recovery", tmp_path) as day,
        day.gateway(day.config()) as gateway,
    ):
        day.backend.follow(DOWN)
        with day.load([gateway], calls=CALLS, events=EVENTS // CALLS) as load:
            load.wait_for(EVENTS // 2)
            for _ in range(3):
                day.backend.follow(Script(die_after=20))
                day.backend.wait()
                day.backend.start(DOWN)
            day.backend.follow(Script(lose=5))
        found = day.close()
        assert found.promised == EVENTS
        unanswered = [one.id for one in day.backend.received() if one.answered is None]
        assert len(unanswered) >= 8
        attempts = [one.id for one in day.backend.received()]
        assert all(attempts.count(event) > 1 for event in unanswered)


@pytest.mark.slow
def test_a_reload_that_renames_the_app_loses_nothing(tmp_path: Path) -> None:
    """The events of the old name wait for it: they are dropped by hand, or delivered once the name is back."""
    with bad_day("a reload that renames the app", tmp_path) as day, day.gateway(day.config()) as gateway:
        day.backend.follow(DOWN)
        assert day.send(gateway, "before") == {200: 10}
        gateway.reload(day.config(app="spoo*"))
        assert day.send(gateway, "after") == {200: 10}
        day.backend.follow(UP)
        assert wait_until(lambda: len({one.id for one in day.backend.received()}) >= 10)
        time.sleep(1.5)
        assert {one.id.partition("-")[0] for one in day.backend.received()} == {"after"}
        apps = {app["app"]: app for app in gateway.get("/api/spool").json()["apps"]}
        assert (apps["spooled"]["events"], apps["spooled"]["configured"]) == (10, False)
        gateway.reload(day.config())
        found = day.close()
        assert (found.promised, found.delivered) == (20, 20)


@pytest.mark.real
@pytest.mark.slow
def test_a_clock_that_jumps_breaks_neither_order_nor_backoff(tmp_path: Path) -> None:
    if not FAKETIME:
        missing("libfaketimeMT.so.1", "libfaketime")
    clock = tmp_path / "clock"
    clock.write_text("+0d\n")
    environment = {
        "LD_PRELOAD": str(FAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    jumps = itertools.cycle(["+400d", "-400d", "+0d", "-30m", "+50m"])
    with (
        bad_day("the clock jumps", tmp_path) as day,
        day.gateway(day.config(), environment=environment) as gateway,
    ):
        day.backend.follow(DOWN)
        with day.load([gateway], calls=CALLS, events=EVENTS // CALLS) as load:
            for part in range(1, 9):
                load.wait_for(EVENTS * part // 10)
                clock.write_text(next(jumps) + "\n")
                if part == 6:
                    day.backend.follow(UP)
        clock.write_text("+0d\n")
        found = day.close()
        assert found.delivered == EVENTS
        assert found.promised >= EVENTS // 2, "libfaketime alone makes commits late"
