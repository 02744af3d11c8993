"""Databases for the tests of the store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from gateway.store.engine import Database, open_databases
from gateway.store.migrate import migrate
from gateway.store.schema import history_block, history_body, history_shadow, history_shard
from tests.store.histories import EmptyDatabase, Kept


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
