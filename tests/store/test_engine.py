"""Opening databases, and the words for what is wrong with one."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.engine import (
    Database,
    Databases,
    Kind,
    Part,
    StoreError,
    checkpoint,
    open_databases,
    parse_url,
    shrink,
    spares_connection,
    translate,
)
from gateway.store.migrate import migrate
from gateway.store.schema import spool_pause

PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL
    "auto_vacuum": 2,  # INCREMENTAL
    "busy_timeout": 5000,
    "journal_size_limit": 64 * 2**20,
    "cache_size": -8192,
}


@pytest.mark.parametrize("url", ["sqlite:/a/b.db", "sqlite:///a/b.db", "sqlite:////a/b.db"])
def test_a_path_may_have_any_number_of_slashes(url: str) -> None:
    where = parse_url(url)
    assert where.path == Path("/a/b.db")
    assert where.file(Part.SPOOL) == Path("/a/b.spool.db")
    assert where.file(Part.HISTORY) == Path("/a/b.history.db")
    assert where.lock_file == Path("/a/b.lock")
    assert str(where) == "/a/b.db"


def test_a_server_is_named_without_its_password() -> None:
    where = parse_url("postgresql://gateway:secret@db.example:5433/wcs?sslmode=require")
    assert where.url.drivername == "postgresql+psycopg"
    assert (where.url.host, where.url.port, where.url.database) == ("db.example", 5433, "wcs")
    assert "secret" not in str(where)
    assert "db.example" in str(where)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:store.db", "names no absolute path"),
        ("sqlite:///", "names no absolute path"),
        ("mysql://a/b", "write sqlite:///path/to/store.db, or postgresql://"),
        ("", "write sqlite:///path/to/store.db, or postgresql://"),
        ("postgresql:nothing", "write sqlite:///path/to/store.db, or postgresql://"),
    ],
)
def test_a_url_that_is_neither_is_refused(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        parse_url(url)


@given(st.text())
def test_no_url_raises_anything_else(url: str) -> None:
    for text in (url, f"sqlite:{url}", f"postgresql:{url}", f"postgresql://{url}"):
        with contextlib.suppress(StoreError):
            assert parse_url(text).engine in ("sqlite", "postgresql")


def test_a_file_has_the_pragmas_that_durability_needs(tmp_path: Path) -> None:
    database = open_databases(f"sqlite:{tmp_path}/deep/er/store.db").spool
    with database.write() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in (
                "journal_mode",
                "synchronous",
                "auto_vacuum",
                "busy_timeout",
                "journal_size_limit",
                "cache_size",
            )
        }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "auto_vacuum": 2,  # INCREMENTAL
        "busy_timeout": 5000,
        "journal_size_limit": 64 * 2**20,
        "cache_size": -8192,
    }
    database.close()


def test_what_callers_said_is_not_for_everyone_to_read(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        database = open_databases(f"sqlite:{tmp_path}/new/store.db").spool
        with database.read() as connection:  # the first one to come
            connection.exec_driver_sql("SELECT 1")
        migrate(database)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (database.file.parent, *database.files())}
    assert modes == {"new": 0o750, **dict.fromkeys([path.name for path in database.files()], 0o640)}
    database.close()


def test_a_reader_sees_one_state_and_cannot_write(databases: Databases) -> None:
    database = databases.spool
    migrate(database)
    count = sa.select(sa.func.count()).select_from(spool_pause)
    with database.read() as reader:
        assert reader.scalar(count) == 0
        with database.write() as writer:
            writer.execute(spool_pause.insert().values(kind="all", name=""))
        assert reader.scalar(count) == 0
    with database.read() as reader:
        assert reader.scalar(count) == 1
    if database.is_sqlite:
        with pytest.raises(StoreError) as caught, database.read() as reader:
            reader.execute(spool_pause.delete())
        assert caught.value.kind is Kind.READ_ONLY


def test_what_fails_in_a_transaction_is_not_committed(databases: Databases) -> None:
    database = databases.spool
    migrate(database)

    def fail() -> None:
        with database.write() as connection:
            connection.execute(spool_pause.insert().values(kind="all", name=""))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(spool_pause)) == 0
    assert database.size() > 0


def test_free_room_goes_back_and_the_log_is_emptied(tmp_path: Path) -> None:
    database = open_databases(f"sqlite:{tmp_path}/store.db").spool
    migrate(database)
    with database.write() as connection:
        for number in range(100):
            connection.execute(spool_pause.insert().values(kind="app", name=f"{number}" * 2000))
    with database.write() as connection:
        connection.execute(spool_pause.delete())
    before = database.size()
    for _ in range(100):
        with database.write() as connection:
            if not shrink(connection, 10):
                break
    else:
        pytest.fail("there is always something to give back")
    connection = database.connect()
    assert checkpoint(connection)
    connection.close()
    assert database.size() < before / 4
    database.close()


# --- what is wrong, in words ---


def test_a_damaged_file(tmp_path: Path) -> None:
    database = open_databases(f"sqlite:{tmp_path}/store.db").spool
    database.file.write_bytes(b"no database" * 1000)
    with pytest.raises(
        StoreError, match=r"store\.spool\.db is damaged \(file is not a database\): restore a backup"
    ) as caught:
        database.connect()
    assert caught.value.kind is Kind.CORRUPT
    assert not spares_connection(caught.value)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    database = open_databases(f"sqlite:{tmp_path}/file/store.db").spool
    with pytest.raises(StoreError, match=r"file: (file exists|not a directory)"):
        database.connect()


def test_a_file_that_is_a_folder(tmp_path: Path) -> None:
    database = open_databases(f"sqlite:{tmp_path}/store.db").spool
    database.file.mkdir()
    with pytest.raises(StoreError, match=r"store\.spool\.db cannot be opened") as caught:
        database.connect()
    assert caught.value.kind is Kind.PERMISSION


def sqlite_error(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("something")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("SQLITE_FULL", Kind.FULL, "no space left for"),
        ("SQLITE_READONLY_DBMOVED", Kind.READ_ONLY, "cannot be written"),
        ("SQLITE_CORRUPT_INDEX", Kind.CORRUPT, "is damaged"),
        ("SQLITE_NOTADB", Kind.CORRUPT, "is damaged"),
        ("SQLITE_BUSY_SNAPSHOT", Kind.BUSY, "is locked by another process"),
        ("SQLITE_IOERR_FSYNC", Kind.DISK, "reading or writing failed (SQLITE_IOERR_FSYNC)"),
        ("SQLITE_CANTOPEN", Kind.PERMISSION, "cannot be opened"),
        ("SQLITE_ERROR", Kind.OTHER, "something"),
    ],
)
def test_words_for_errors_of_sqlite(tmp_path: Path, name: str, kind: Kind, said: str) -> None:
    database = open_databases(f"sqlite:{tmp_path}/store.db").spool
    error = translate(sa.exc.OperationalError("SELECT", {}, sqlite_error(name)), database)
    assert error.kind is kind
    assert said in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(28, Kind.FULL), (30, Kind.READ_ONLY), (13, Kind.PERMISSION), (5, Kind.DISK), (99, Kind.OTHER)],
)
def test_words_for_errors_of_the_system(tmp_path: Path, number: int, kind: Kind) -> None:
    database = open_databases(f"sqlite:{tmp_path}/store.db").spool
    error = translate(OSError(number, os.strerror(number), "/some/where"), database)
    assert error.kind is kind
    assert str(error).startswith("/some/where: ")


def postgres_error(database: Database) -> StoreError:
    with pytest.raises(StoreError) as caught:
        database.connect()
    return caught.value


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        error = postgres_error(open_databases(f"postgresql://a:secret@127.0.0.1:{port}/b").spool)
    assert error.kind is Kind.UNREACHABLE
    assert str(error).startswith("PostgreSQL at 127.0.0.1 is not reachable: ")
    assert "secret" not in str(error)


def test_a_server_that_says_nothing_is_not_waited_for_longer_than_a_few_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = open_databases(f"postgresql://a@127.0.0.1:{silent.getsockname()[1]}/b?connect_timeout=2").spool
        started = time.monotonic()
        error = postgres_error(database)
        assert error.kind is Kind.UNREACHABLE
        assert time.monotonic() - started < 30  # not for ever


@pytest.mark.parametrize("store_url", [pytest.param("postgresql", marks=pytest.mark.process)], indirect=True)
def test_words_for_errors_of_a_server(databases: Databases, store_url: str) -> None:
    database = databases.spool
    migrate(database)

    def fail(statement: str) -> StoreError:
        with pytest.raises(StoreError) as caught, database.write() as connection:
            connection.exec_driver_sql(statement)
        return caught.value

    assert fail("SET statement_timeout = 50; SELECT pg_sleep(5)").kind is Kind.UNREACHABLE
    assert fail("SET TRANSACTION READ ONLY; DELETE FROM spool_pause").kind is Kind.READ_ONLY
    assert fail("SELECT pg_terminate_backend(pg_backend_pid())").kind is Kind.UNREACHABLE
    assert fail("SELECT 1 / 0").kind is Kind.OTHER
    nowhere = open_databases(store_url.rpartition("/")[0] + "/nowhere").spool
    assert 'database "nowhere" does not exist' in str(postgres_error(nowhere))
    stranger = open_databases(store_url.replace("gateway@", "stranger@")).spool
    assert 'role "stranger" does not exist' in str(postgres_error(stranger))
