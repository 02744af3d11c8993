"""Free pages of a SQLite file go back to the file system in the transaction that is open, not more than was asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.store.engine import Database, open_databases
from gateway.store.free_pages import give_back_pages, pragma
from gateway.store.migrate import migrate
from gateway.store.schema import history_body


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = open_databases(f"sqlite:{tmp_path}/store.db").history
    migrate(database)
    with database.write() as connection:
        connection.execute(sa.insert(history_body), [{"id": n, "data": b"x" * 100_000} for n in range(10)])
    with database.write() as connection:
        connection.execute(sa.delete(history_body))
    return database


def test_pages_are_given_back_step_by_step(database: Database) -> None:
    with database.write() as connection:
        pages, free = pragma(connection, "page_count"), pragma(connection, "freelist_count")
        assert free > 200
        assert give_back_pages(connection, 100) == 100
        assert pragma(connection, "page_count") == pages - 100
    with database.write() as connection:
        assert give_back_pages(connection, 10_000) == free - 100
        assert give_back_pages(connection, 10_000) == 0
    with database.read() as connection:
        assert pragma(connection, "freelist_count") == 0


def test_a_transaction_that_fails_has_given_back_none(database: Database) -> None:
    with database.read() as connection:
        pages = pragma(connection, "page_count")

    def fail() -> None:
        with database.write() as connection:
            give_back_pages(connection, 100)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.read() as connection:
        assert pragma(connection, "page_count") == pages
