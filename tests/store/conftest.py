"""Databases for the tests of the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.store.engine import Database, Databases, open_databases
from gateway.store.migrate import migrate
from gateway.store.schema import history_block, history_body, history_shadow, history_shard
from tests.store.histories import EmptyDatabase, Kept
from tests.support.postgres import PostgresServer, postgres_server


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmptyDatabase]:
    database = open_databases(f"sqlite:{tmp_path_factory.mktemp('history')}/store.db").history
    migrate(database)

    def emptied() -> Database:
        with database.write() as connection:
            for table in (history_block, history_shard, history_body, history_shadow):
                connection.execute(sa.delete(table))
        return database

    yield emptied
    database.close()


@pytest.fixture
def kept(empty_database: EmptyDatabase) -> Kept:
    return Kept(empty_database())


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests; each makes a database of its own."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.process)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store, on either engine."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/store.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def databases(store_url: str) -> Iterator[Databases]:
    """An empty store, without tables."""
    opened = open_databases(store_url)
    yield opened
    opened.close()
