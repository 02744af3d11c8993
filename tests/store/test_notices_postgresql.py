"""Two gateways on one PostgreSQL: each knows which keys have a backlog at the other, and takes none of its events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.store.messages import Settle
from gateway.store.requests import SpoolStatus
from tests.store.serving import event, until
from tests.store.stores import Running, running
from tests.support.postgres import PostgresServer

KEYS = [bytes([number]) * 16 for number in range(5)]


def counts(it: Running) -> list[int]:
    return [it.at.writer.count(key) for key in KEYS]


@contextlib.asynccontextmanager
async def sharing(url: str, directory: Path) -> AsyncIterator[tuple[Running, Running]]:
    """Two gateways whose stores are open."""
    async with (
        running(directory, url=url, engine="postgresql") as one,
        running(directory, url=url, engine="postgresql") as other,
    ):
        await until(lambda: one.admin.up and other.admin.up)
        yield one, other


async def test_what_one_gateway_keeps_and_delivers_the_other_knows(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.new_database()
    async with sharing(url, tmp_path) as (one, other):
        await asyncio.gather(*(one.keep(event(b"%d" % number, key=KEYS[number % 5])) for number in range(50)))
        await until(lambda: counts(other) == counts(one) == [10] * 5)
        await asyncio.gather(*(other.keep(event(b"+%d" % number, key=KEYS[number])) for number in range(5)))
        await until(lambda: counts(one) == counts(other) == [11] * 5)

        mine, theirs = await asyncio.gather(one.worker.take("php", 3), other.worker.take("php", 10))
        assert not {each.id for each in mine} & {each.id for each in theirs}
        assert sorted(each.event.key for each in (*mine, *theirs)) == KEYS
        for it, taken in ((one, mine), (other, theirs)):
            for delivery in taken:
                it.worker.settle(Settle(delivery.id, "delivered"))
        await until(lambda: counts(one) == counts(other) == [10] * 5)

        await other.stop()
        await one.keep(event(b"meanwhile", key=KEYS[0]))
        await other.start()
        await until(lambda: counts(one) == counts(other) == [11, 10, 10, 10, 10])
        report = await other.admin.ask(SpoolStatus())
        assert report.apps[0].events == 51


async def test_changes_that_come_while_the_database_is_read_count_once(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.new_database()
    async with sharing(url, tmp_path) as (one, other):

        async def keep_on() -> None:
            for number in range(60):
                assert await one.keep(event(b"%d" % number, key=KEYS[number % 5])) is None

        keeping = asyncio.create_task(keep_on())
        assert other.store is not None
        while not keeping.done():
            other.store._spool._spawn_reading()
            await asyncio.sleep(0.02)
        await keeping
        await until(lambda: counts(one) == counts(other) == [12] * 5)
        await asyncio.sleep(0.3)
        assert counts(one) == counts(other) == [12] * 5


@pytest.mark.slow
async def test_when_the_server_restarts_both_keep_events_again_and_know_of_each_other(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.new_database()
    async with sharing(url, tmp_path) as (one, other):
        await one.keep(event(key=KEYS[0]))
        await until(lambda: counts(other)[0] == 1)
        postgres.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'wcs%'")
        for it in (one, other):
            while await it.keep(event(key=KEYS[1])) is not None:
                await asyncio.sleep(0.1)
        await until(lambda: counts(one) == counts(other))
        assert counts(one)[0] == 1
        assert counts(one)[1] >= 2
