"""A backlog of a million events costs disk, and neither memory nor time."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from gateway.policy.spooling import event_value, ordering_key, repeat_digest
from gateway.store.engine import open_databases
from gateway.store.migrate import migrate
from gateway.store.records import SpooledEvent
from gateway.store.spool import Spool
from tests.store.bad_days.stage import DOWN, FIGURES, UP, Day, bad_day, store_pid
from tests.support.gateways import RunningGateway, wait_until

EVENTS: Final = 1_000_000
MORE_MEMORY: Final = 48 * 2**20
"""Bytes that the store's process may need more than without a backlog: caches of its connections, and its table."""
COPIES: Final = """
    WITH RECURSIVE numbers(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < :events)
    INSERT INTO spool_event (id, key, head, dead, app, method, upstream, call_id, value, received, expires, due,
                             attempts, error, size, digest, event, body)
    SELECT n, randomblob(16), 1, 0, app, method, upstream, 'call-' || n, value, received + n / 1000.0, expires,
           due + n / 1000.0, 0, error, size, randomblob(16), event, body
    FROM numbers, spool_event WHERE id = 1
"""


def fill(directory: Path) -> None:
    """A spool with EVENTS events, each of a call of its own."""
    body = b'{"appKey": "spooled", "callId": "call-1", "id": "event"}'
    event = SpooledEvent(
        key=ordering_key("spooled", body),
        digest=repeat_digest("spooled", "CallStatusEvent", body),
        app="spooled",
        method="CallStatusEvent",
        upstream="spooled",
        request_id="request-1",
        received=time.time() - EVENTS / 1000,
        query=b"",
        client="192.0.2.1",
        scheme="http",
        fields=((b"content-type", b"application/json"),),
        body=body,
        cause="unreachable",
        error="connection refused",
        call_id="call-1",
        session_id=None,
        value=event_value("CallStatusEvent"),
        max_age=86400.0,
        max_size=2**40,
    )
    databases = open_databases(f"sqlite:///{directory}/store.db")
    migrate(databases.spool)
    with databases.spool.write() as connection:
        Spool(databases.spool).add(connection, [event])
    databases.close()
    with closing(sqlite3.connect(directory / "store.spool.db")) as database, database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute(COPIES, {"events": EVENTS})
        database.execute("UPDATE spool_count SET events = events * ?, bytes = bytes * ?", (EVENTS, EVENTS))


def memory(gateway: RunningGateway) -> int:
    """Bytes of the store's process that are its own."""
    status = Path(f"/proc/{store_pid(gateway)}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024


def shown(gateway: RunningGateway) -> float:
    """Seconds that the spool's status takes, and it is right."""
    began = time.monotonic()
    view = gateway.get("/api/spool").json()
    assert view["events"] > EVENTS * 0.9, view
    return time.monotonic() - began


@pytest.mark.slow
def test_a_million_events(tmp_path: Path) -> None:
    with bad_day("1,000,000 events", tmp_path) as day:
        day.backend.follow(DOWN)
        directory = tmp_path / "empty"
        directory.mkdir()
        with day.gateway(day.config(store=f"sqlite:{directory}/store.db")) as gateway:
            day.send(gateway, "little")
            empty = memory(gateway)
        day.sent.clear()
        try:
            fill(tmp_path)
            live_with_it(day, empty)
        finally:
            for file in tmp_path.glob("store.spool.db*"):
                file.unlink()


def live_with_it(day: Day, empty: int) -> None:
    config = day.config(spool={"max_size": "100GiB", "max_age": "24h"})
    began = time.monotonic()
    with day.gateway(config) as gateway:
        start = time.monotonic() - began
        statuses = sorted(shown(gateway) for _ in range(5))
        assert day.send(gateway, "kept") == {200: 10}
        up = time.monotonic()
        day.backend.follow(UP)
        assert wait_until(lambda: day.backend.count() > 1000, 60)
        first, second = day.backend.received()[:2]
        full = memory(gateway)
        if FIGURES:
            with open(FIGURES, "a") as file:
                file.write(
                    f"{day.name}: start {start:.1f} s, status {statuses[2] * 1000:.0f} ms, "
                    f"memory {full / 2**20:.0f} MiB beside {empty / 2**20:.0f} MiB, first redelivery "
                    f"{first.asked - up:.2f} s after the upstream was back, the next {second.asked - first.asked:.3f} s"
                    " later\n"
                )
        assert first.redelivery == "1"
        assert full < empty + MORE_MEMORY
