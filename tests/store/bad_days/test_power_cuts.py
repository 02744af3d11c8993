"""The power is cut at random moments: what was answered 200 by then is on the disk, undamaged and in order.

A real gateway writes; a library that it loads keeps a journal of what its store writes and syncs
(``tests/support/powercut``). The journal is then cut at many moments, any part of what was not synced is lost, and
gateway.store opens what is left.
"""

from __future__ import annotations

import errno
import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from gateway.store.engine import StoreError, open_databases
from gateway.store.messages import Settle
from gateway.store.migrate import migrate
from gateway.store.records import SpooledEvent
from gateway.store.spool import Spool
from tests.store.bad_days.stage import DOWN, FIGURES, UP, Day, bad_day, store_is_up, store_pid
from tests.support import powercut
from tests.support.powercut import Faults, PowerCuts
from tests.support.spool_oracle import Crash, Findings, Received, judge

CALLS: Final = 20

WITHOUT_SYNC: Final = """
import sqlite3

class Cursor(sqlite3.Cursor):
    def execute(self, text, *arguments):
        return super().execute(text.replace("synchronous = FULL", "synchronous = OFF"), *arguments)

class Connection(sqlite3.Connection):
    def cursor(self, factory=Cursor):
        return super().cursor(factory)

def connect(*arguments, real=sqlite3.connect, **options):
    return real(*arguments, **{"factory": Connection, **options})

sqlite3.connect = sqlite3.dbapi2.connect = connect
"""
"""Python's own start file: no process of the gateway has SQLite sync anything."""


def drain(directory: Path) -> list[SpooledEvent]:
    """Every event that the store has in this directory, in the order in which they would be delivered."""
    with closing(sqlite3.connect(directory / "store.spool.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    databases = open_databases(f"sqlite:///{directory}/store.db")
    try:
        migrate(databases.spool)
        spool, found = Spool(databases.spool), list[SpooledEvent]()
        while True:
            with databases.spool.write() as connection:
                taken = spool.take(connection, "spooled", 500)
                spool.settle(connection, [Settle(delivery.id, "delivered") for delivery in taken])
            found += [delivery.event for delivery in taken]
            if not taken:
                break
        with databases.spool.read() as connection:
            assert not list(spool.keys(connection)), "events that are never the first of their key"
        return found
    finally:
        databases.close()


def judge_cut(day: Day, moment: float, kept: Sequence[SpooledEvent]) -> Findings:
    """As if all that is on the disk at this moment were delivered now."""
    received = [one for one in day.backend.received() if (one.answered or one.asked) <= moment]
    for place, event in enumerate(kept):
        at = moment + 1 + place / 1000
        received.append(
            Received(
                id=json.loads(event.body)["id"],
                digest=hashlib.sha256(event.body).hexdigest()[:16],
                asked=at,
                redelivery="1",
                idempotency_key=event.request_id,
                answered=at + 0.0005,
                status=200,
                read=True,
            )
        )
    sent = [one if one.ended <= moment else one._replace(status=0) for one in day.sent if one.begun <= moment]
    return judge(sent, received, crashes=[Crash(moment, moment)])


def play_cuts(day: Day, count: int) -> tuple[int, int, int]:
    """How many promises were judged, how many of their events were lost, and how many databases were damaged."""
    cuts = PowerCuts(day.directory / "journal", seed=14)
    promised = lost = damaged = 0
    for number, moment in enumerate(cuts.moments(count)):
        directory = day.directory / f"cut-{number}"
        directory.mkdir()
        cuts.rebuild(moment, directory)
        try:
            found = judge_cut(day, moment, drain(directory))
        except (AssertionError, StoreError, sqlite3.DatabaseError):
            damaged += 1
            continue
        promised, lost = promised + found.promised, lost + len(found.lost)
        broken = found.violations.keys() - {"lost", "rekeyed", "doubled"}
        assert not broken, (moment, found.violations)
    if FIGURES:
        with open(FIGURES, "a") as file:
            file.write(f"{day.name}, {count} cuts: {promised} promises judged, {lost} lost, {damaged} damaged\n")
    return promised, lost, damaged


def live_through(
    day: Day, events: int, faults: Faults | None = None, variables: Mapping[str, str] | None = None
) -> None:
    """A backend that is up, down and up again; a store process that is killed; with *faults*, syncs that fail once."""
    directory = day.directory / "disk"
    directory.mkdir()
    environment = powercut.environment(directory, day.directory / "journal", faults.path if faults else None)
    config = day.config(store=f"sqlite:{directory}/store.db")
    with (
        day.gateway(config, environment={**environment, **(variables or {})}) as gateway,
        day.load([gateway], calls=CALLS, events=events // CALLS) as load,
    ):
        load.wait_for(events // 10)
        day.backend.follow(DOWN)
        load.wait_for(events * 4 // 10)
        if faults:
            faults.set(sync=errno.EIO)
            load.wait_for(events * 5 // 10)
            faults.set()
            assert store_is_up(gateway)
        day.backend.follow(UP)
        load.wait_for(events * 6 // 10)
        day.backend.follow(DOWN)
        pid = store_pid(gateway)
        day.kill(pid)
        store_pid(gateway, pid)
        assert store_is_up(gateway)


@pytest.mark.slow
def test_power_cuts_lose_nothing_that_was_promised(tmp_path: Path) -> None:
    count = 200
    with bad_day("power cut", tmp_path) as day:
        live_through(day, 500)
        promised, lost, damaged = play_cuts(day, count)
        assert (lost, damaged) == (0, 0)
        assert promised > 50 * count, "the cuts came before there was anything to lose"


@pytest.mark.slow
def test_power_cuts_after_a_sync_that_failed(tmp_path: Path) -> None:
    """What a failed sync was to write is never written by a later one: the store must not count on it."""
    count = 20
    with bad_day("power cut, and a sync that failed", tmp_path) as day:
        live_through(day, 500, Faults(tmp_path / "faults"))
        promised, lost, damaged = play_cuts(day, count)
        assert (lost, damaged) == (0, 0)
        assert promised > 50 * count


@pytest.mark.slow
def test_a_store_that_does_not_sync_is_seen_to_lose_events(tmp_path: Path) -> None:
    """The counterpart: the same with ``synchronous=OFF`` in the place of FULL."""
    with bad_day("power cut, synchronous=OFF (must lose)", tmp_path) as day:
        (tmp_path / "sitecustomize.py").write_text(WITHOUT_SYNC)
        live_through(day, 500, variables={"PYTHONPATH": str(tmp_path)})
        _, lost, damaged = play_cuts(day, 30)
        assert lost + damaged > 10
