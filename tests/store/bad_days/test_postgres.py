"""PostgreSQL that is killed, away, slow, or replaced by its standby; two gateways that share one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.store.bad_days.stage import DOWN, UP, bad_day, store_is_up
from tests.support.gateways import wait_until
from tests.support.postgres_pair import PostgresServer, postgres_pair, postgres_server
from tests.support.programs import free_port
from tests.support.slow_relay import SlowRelay

pytestmark = [pytest.mark.real, pytest.mark.slow]

MANY: Final = 10_000
AWAY: Final = 3.0
"""Seconds, in the place of a minute."""
CALLS: Final = 20


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


@pytest.fixture
def database(server: PostgresServer) -> PostgresServer:
    """The server, its database empty."""
    server.query("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return server


def test_kill_of_postgresql(database: PostgresServer, tmp_path: Path) -> None:
    """While the backend is down, and amid the recovery."""
    events = MANY
    with (
        bad_day(f"kill -9 of PostgreSQL, {events}", tmp_path) as day,
        day.gateway(day.config(store=database.url)) as gateway,
    ):
        with day.load([gateway], calls=100, events=events // 100, connections=100, pause=0.1) as load:
            load.wait_for(events // 10)
            day.backend.follow(DOWN)
            for part in (3, 5, 7):
                load.wait_for(events * part // 10)
                if part == 5:
                    day.backend.follow(UP)
                database.kill()
                database.start()
                assert store_is_up(gateway)
        found = day.close()
        assert load.statuses().keys() <= {200, 403}
        assert found.redelivered >= events // 10


def test_a_server_that_confirms_commits_before_they_are_on_the_disk(database: PostgresServer, tmp_path: Path) -> None:
    """``synchronous_commit = off`` is a usual setting of fast servers: what is promised is written all the same."""
    for setting in ("synchronous_commit = off", "wal_writer_delay = '10s'"):
        database.query(f"ALTER SYSTEM SET {setting}")
    database.query("SELECT pg_reload_conf()")
    try:
        with (
            bad_day("kill -9 of PostgreSQL with synchronous_commit = off", tmp_path) as day,
            day.gateway(day.config(store=database.url)) as gateway,
        ):
            day.backend.follow(DOWN)
            assert database.query("SHOW synchronous_commit") == "off"
            for number in range(5):
                assert day.send(gateway, f"kept{number}", 20, 4) == {200: 20}
                database.kill()
                database.start()
                assert store_is_up(gateway)
                assert wait_until(lambda: set(day.send(gateway, f"again{time.monotonic()}")) == {200})
            day.backend.follow(UP)
            day.close()
    finally:
        database.query("ALTER SYSTEM RESET ALL")
        database.query("SELECT pg_reload_conf()")


@pytest.mark.parametrize("how", ["stopped", "unreachable", "silent"])
def test_postgresql_is_away(database: PostgresServer, tmp_path: Path, how: str) -> None:
    """Nothing is promised meanwhile, and nobody waits longer than the budget; then all goes on by itself."""
    with (
        SlowRelay(database.port) as relay,
        bad_day(f"PostgreSQL away for {AWAY:g} s ({how})", tmp_path) as day,
        day.gateway(day.config(store=database.url.replace(str(database.port), str(relay.port)))) as gateway,
    ):
        day.backend.follow(DOWN)
        assert day.send(gateway, "before", 50) == {200: 50}
        {"stopped": database.stop, "unreachable": relay.cut, "silent": relay.hold}[how]()
        away = time.monotonic()
        number = 0
        while time.monotonic() < away + AWAY:
            with day.load([gateway], calls=8, events=3, name=f"amid{number}") as load:
                pass
            assert load.statuses() == {403: 24}, "promised without a commit"
            assert max(one.ended - one.begun for one in load.sent) < 1.0 + 2.0, "the budget is 1 s"
            number += 1
        assert store_is_up(gateway, up=False)
        if how == "stopped":
            database.start()
        else:
            relay.restore()
        assert store_is_up(gateway)
        assert wait_until(lambda: set(day.send(gateway, f"after{time.monotonic()}")) == {200})
        day.backend.follow(UP)
        day.close()


def test_postgresql_is_slow_by_two_seconds(database: PostgresServer, tmp_path: Path) -> None:
    with (
        SlowRelay(database.port) as relay,
        bad_day("PostgreSQL slow by 2 s", tmp_path) as day,
        day.gateway(day.config(store=database.url.replace(str(database.port), str(relay.port)))) as gateway,
    ):
        day.backend.follow(DOWN)
        assert day.send(gateway, "before") == {200: 10}
        relay.delay = 1.0  # either way
        with day.load([gateway], calls=8, events=3) as load:
            pass
        assert load.statuses() == {403: 24}
        assert max(one.ended - one.begun for one in load.sent) < 1.0 + 2.0, "the budget is 1 s"
        relay.delay = 0.0
        assert wait_until(lambda: set(day.send(gateway, f"after{time.monotonic()}")) == {200})
        day.backend.follow(UP)
        day.close()


def test_failing_over_to_a_synchronous_standby(tmp_path: Path) -> None:
    """What was promised is on both: the standby goes on with it."""
    events = 600
    with (
        postgres_pair() as pair,
        bad_day("PostgreSQL fails over to a standby", tmp_path) as day,
        day.gateway(day.config(store=pair.url)) as gateway,
    ):
        day.backend.follow(DOWN)
        with day.load([gateway], calls=CALLS, events=events // CALLS, pause=0.01) as load:
            load.wait_for(events // 3)
            pair.fail_over()
            load.wait_for(events * 2 // 3)
            assert store_is_up(gateway)
            day.backend.follow(UP)
        assert load.statuses().keys() <= {200, 403}
        found = day.close()
        assert found.redelivered >= events // 4
        assert pair.standby.query("SELECT count(*) FROM spool_event") == "0"


def test_two_gateways_share_one_database(database: PostgresServer, tmp_path: Path) -> None:
    """The events of one call arrive at both in turn, 1.2 s apart at least; then each gateway is killed once."""
    events = 600
    with bad_day(f"two gateways on one PostgreSQL, {events}", tmp_path) as day, ExitStack() as stack:
        day.gap = 1.0
        configs = [day.config(store=database.url, listen=f"127.0.0.1:{free_port()}") for _ in range(2)]
        both = [stack.enter_context(day.gateway(config)) for config in configs]
        calls = events // 10
        with day.load(both, calls=calls, events=10, connections=calls // 3, pause=0.4) as load:
            load.wait_for(events // 5)
            day.backend.follow(DOWN)
            load.wait_for(events // 2)
            day.backend.follow(UP)
            load.wait_for(events * 6 // 10)
            for index in range(2):
                day.kill_gateway(both[index])
                both[index] = stack.enter_context(day.gateway(configs[index]))
                load.wait_for(events * (7 + index) // 10)
        found = day.close(beside_unanswered=16)
        assert found.redelivered >= events // 5


def test_two_gateways_start_at_once_on_an_empty_database(database: PostgresServer, tmp_path: Path) -> None:
    """Both make the tables; and while neither dies, nothing is delivered twice."""
    with bad_day("two gateways start at once", tmp_path) as day, ExitStack() as stack:
        day.gap = 1.0
        config = day.config(store=database.url)
        both = [stack.enter_context(day.gateway(config, up=False)) for _ in range(2)]
        assert all(map(store_is_up, both))
        day.backend.follow(DOWN)
        with day.load(both, calls=30, events=8, connections=15, pause=0.6) as load:
            load.wait_for(120)
            day.backend.follow(UP)
        found = day.close()
        assert found.promised == 240
