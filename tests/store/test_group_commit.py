"""The writer: what shares a transaction, what fails alone, and what is believed after a failure."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.engine import Database, Databases, Kind, StoreError, open_databases
from gateway.store.group_commit import GroupCommit
from gateway.store.migrate import migrate
from gateway.store.schema import spool_pause
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.programs import require

Start = Callable[..., GroupCommit]


@pytest.fixture
def database(databases: Databases) -> Database:
    return databases.spool


@pytest.fixture
def start(database: Database) -> Iterator[Start]:
    """Starts a writer, which ends with the test."""
    started: list[GroupCommit] = []

    def begin(**options: Any) -> GroupCommit:
        group = GroupCommit(database, **options)
        group.start()
        started.append(group)
        return group

    yield begin
    for group in started:
        group.close()


def insert(connection: sa.Connection, names: Sequence[str]) -> list[str | StoreError]:
    """A batch: each name once; ``no`` is refused, and a second one of the same name is an error of the database."""
    results: list[str | StoreError] = []
    for name in names:
        if name == "no":
            results.append(StoreError("not that one"))
        else:
            connection.execute(spool_pause.insert().values(kind="app", name=name))
            results.append(name.upper())
    return results


def names(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.scalars(sa.select(spool_pause.c.name)))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_waits_together_is_committed_together(start: Start, database: Database) -> None:
    together: list[int] = []
    group = start(most=4, gather=0.5, committing=lambda results: together.append(len(results)))
    assert await asyncio.gather(*(group.submit(insert, name) for name in "abcdefgh")) == list("ABCDEFGH")
    assert names(database) == set("abcdefgh")
    assert [count for count in together if count > 1] == [4, 4]


async def test_nothing_is_done_before_its_commit(start: Start, database: Database) -> None:
    is_committing, may_commit = threading.Event(), threading.Event()

    def wait(results: Sequence[Any]) -> None:
        if "A" in results:
            is_committing.set()
            may_commit.wait(20)

    group = start(committing=wait)
    done = group.submit(insert, "a")
    await until(is_committing.is_set)
    await asyncio.sleep(0.05)
    assert not done.done()
    assert names(database) == set()
    may_commit.set()
    assert await done == "A"
    assert names(database) == {"a"}


async def test_one_that_fails_takes_no_other_with_it(start: Start, database: Database) -> None:
    group = start(gather=0.1)
    results = await asyncio.gather(
        *(group.submit(insert, name) for name in ["a", "b", "a", "no", "c"]), return_exceptions=True
    )
    assert [results[0], results[1], results[4]] == ["A", "B", "C"]
    assert isinstance(results[2], StoreError)
    assert str(results[3]) == "not that one"
    assert names(database) == {"a", "b", "c"}
    assert group.state == (True, None)


async def test_a_defect_of_one_item_is_its_own(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    def divide(connection: sa.Connection, items: Sequence[int]) -> list[float]:
        return [1 / item for item in items]

    group = start(gather=0.1)
    results = await asyncio.gather(*(group.submit(divide, item) for item in (1, 0, 2)), return_exceptions=True)
    assert [results[0], results[2]] == [1.0, 0.5]
    assert str(results[1]) == "a defect: ZeroDivisionError: division by zero"
    assert "defect" in caplog.text


async def test_an_action_has_a_transaction_of_its_own(start: Start, database: Database) -> None:
    def fail(connection: sa.Connection) -> None:
        insert(connection, ["lost"])
        raise StoreError("changed its mind")

    group = start(gather=0.1)
    kept, failed = group.submit(insert, "a"), group.run(fail)
    assert await kept == "A"
    with pytest.raises(StoreError, match="changed its mind"):
        await failed
    assert names(database) == {"a"}


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_a_commit_that_is_refused_leaves_no_transaction_behind(start: Start, database: Database) -> None:
    def enforce(connection: sa.Connection) -> None:
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA foreign_keys = ON")
        driver.execute("CREATE TABLE child (id INTEGER REFERENCES spool_event (id) DEFERRABLE INITIALLY DEFERRED)")

    group = start(opened=enforce)
    with pytest.raises(StoreError, match="FOREIGN KEY constraint failed"):
        await group.run(lambda connection: connection.exec_driver_sql("INSERT INTO child VALUES (7)"))
    assert await group.submit(insert, "a") == "A"
    assert names(database) == {"a"}
    assert group.state == (True, None)


async def test_a_full_queue_and_one_that_ends_say_so_at_once(start: Start) -> None:
    group = start(gather=0.2, max_queued=2000)
    first, second = group.submit(insert, "a"), group.submit(insert, "b", size=5000)
    with pytest.raises(StoreError, match="its queue is full"):
        await second
    assert await first == "A"
    await asyncio.to_thread(group.close)
    with pytest.raises(StoreError, match="the store is ending"):
        await group.submit(insert, "c")


async def test_what_waits_at_the_end_is_written(start: Start, database: Database) -> None:
    group = start(gather=5.0)
    done = [group.submit(insert, name) for name in "abc"]
    await asyncio.to_thread(group.close)
    assert await asyncio.gather(*done) == ["A", "B", "C"]


async def test_a_full_disk_fails_all_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    database = open_databases(f"sqlite:{tmp_path}/store.db").spool
    limits: list[Any] = []

    def limit(connection: sa.Connection) -> None:
        driver: Any = connection.connection.driver_connection
        limits.append(driver)

    states: list[tuple[bool, str | None]] = []
    group = GroupCommit(database, opened=limit, changed=lambda up, reason: states.append((up, reason)))
    group.start()

    def pages(connection: sa.Connection) -> None:
        used = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {used + 2}")

    def grow(connection: sa.Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 100000")

    try:
        await group.run(pages)
        results = await asyncio.gather(
            *(group.submit(insert, "x" * 4000 + name) for name in "abcdef"), return_exceptions=True
        )
        assert all(isinstance(result, StoreError) and result.kind is Kind.FULL for result in results)
        assert "no space left for" in str(results[0])
        assert names(database) == set()
        assert states[1][0] is False
        await group.run(grow)
        assert await group.submit(insert, "y" * 4000) == "Y" * 4000
        await until(lambda: group.state == (True, None))
        assert len(limits) == 1  # the same connection all the time
    finally:
        group.close()
        database.close()


async def test_a_database_that_cannot_be_opened_is_tried_again_until_it_can(tmp_path: Path) -> None:
    database = open_databases(f"sqlite:{tmp_path}/store.db").spool
    database.file.write_bytes(b"this is no database at all, but long enough to look at" * 100)
    group = GroupCommit(database)
    group.start()
    try:
        await until(lambda: "damaged" in (group.state[1] or ""))
        with pytest.raises(StoreError, match=r"store\.spool\.db is damaged"):
            await group.submit(insert, "a")
        database.file.unlink()
        await until(lambda: group.state == (True, None))
        assert await group.submit(insert, "a") == "A"
    finally:
        group.close()
        database.close()


FAILING_DISK = """
import asyncio, json, sys
from gateway.store.engine import open_databases
from gateway.store.group_commit import GroupCommit
from gateway.store.spool import Spool
from tests.store.spooled import make_event

async def main():
    database = open_databases(sys.argv[1]).spool
    opened = []
    group = GroupCommit(database, opened=opened.append)
    spool = Spool(database)
    group.start()
    told = []
    for number in range(60):
        event = make_event(f"call {number}")
        try:
            await group.submit(spool.add, event)
            told.append([event.call_id, None])
        except Exception as exc:
            told.append([event.call_id, str(exc)])
            await asyncio.sleep(0.05)
    group.close()
    print(json.dumps([told, len(opened)]))

asyncio.run(main())
"""


def test_after_a_failed_fsync_only_what_is_on_the_disk_is_believed(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/store.db"
    strace = [require("strace", "strace"), "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"]
    fault = ["-e", "inject=fsync,fdatasync:error=EIO:when=30..33"]
    done = subprocess.run(
        [*strace, *fault, sys.executable, "-c", FAILING_DISK, url], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told, opened = json.loads(done.stdout)
    kept = {call for call, error in told if error is None}
    errors = [error for _, error in told if error is not None]
    assert errors
    assert any("SQLITE_IOERR_FSYNC" in error for error in errors), errors
    assert told[-1][1] is None
    assert opened > 1  # the connection was not used any further
    database = open_databases(url).spool
    with database.read() as connection:
        found = set(connection.exec_driver_sql("SELECT call_id FROM spool_event").scalars())
    database.close()
    assert kept <= found


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One that these tests may stop."""
    with postgres_server() as server:
        yield server


async def test_a_server_that_goes_away_and_comes_back(server: PostgresServer) -> None:
    opened: list[int] = []
    with running(server, opened=lambda _: opened.append(1)) as group:
        assert await group.submit(insert, "a") == "A"
        server.stop()
        with pytest.raises(StoreError) as caught:
            await group.submit(insert, "b")
        assert caught.value.kind is Kind.UNREACHABLE
        assert not group.state[0]
        server.start()
        await until(lambda: group.state == (True, None))
        assert await group.submit(insert, "c") == "C"
        assert await group.run(lambda connection: set(connection.scalars(sa.select(spool_pause.c.name)))) == {"a", "c"}
        assert len(opened) == 2


CANCEL = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


async def test_a_commit_that_hangs_is_given_up(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.group_commit._HANG_LIMIT", 1.0)
    with running(server) as group:
        assert await group.submit(insert, "a") == "A"
        server.set_standby("nowhere")
        assert (await first_error(group)).kind is Kind.UNREACHABLE
        server.set_standby("")
        await until(lambda: group.state == (True, None))
        assert await group.submit(insert, "c") == "C"


async def test_a_commit_that_its_standby_never_had_is_not_believed(server: PostgresServer) -> None:
    with running(server) as group:
        assert await group.submit(insert, "a") == "A"
        server.set_standby("nowhere")
        waiting = asyncio.ensure_future(first_error(group))
        await until(lambda: server.query(CANCEL) == "1")
        assert "PostgreSQL has committed, but perhaps not on its standby" in str(await waiting)
        server.set_standby("")
        await until(lambda: group.state == (True, None))
        assert await group.submit(insert, "c") == "C"


async def first_error(group: GroupCommit) -> StoreError:
    """Of the first item that is not committed: the server takes its new configuration a moment later."""
    for number in itertools.count():
        try:
            await group.submit(insert, f"b{number}")
        except StoreError as error:
            return error
    raise AssertionError("unreachable")


@contextmanager
def running(server: PostgresServer, **options: Any) -> Iterator[GroupCommit]:
    """A writer to a new database of this server."""
    database = open_databases(server.new_database()).spool
    group = GroupCommit(database, **options)
    group.start()
    try:
        yield group
    finally:
        group.close()
        database.close()


@pytest.fixture(scope="module")
def kept_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One for all examples of a property."""
    database = open_databases(f"sqlite:{tmp_path_factory.mktemp('group')}/store.db").spool
    migrate(database)
    yield database
    database.close()


@given(batches=st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5), max_size=4))
def test_what_is_reported_done_is_in_the_database_and_nothing_else(
    kept_database: Database, batches: list[list[str]]
) -> None:
    with kept_database.write() as connection:
        connection.execute(spool_pause.delete())

    async def play() -> set[str]:
        group = GroupCommit(kept_database, gather=0.0)
        group.start()
        try:
            done: set[str] = set()
            for batch in batches:
                results = await asyncio.gather(*(group.submit(insert, name) for name in batch), return_exceptions=True)
                done.update(name for name, result in zip(batch, results, strict=True) if result == name.upper())
            return done
        finally:
            group.close()

    assert asyncio.run(play()) == names(kept_database) == {name for batch in batches for name in batch}
