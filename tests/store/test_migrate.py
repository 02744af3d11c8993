"""The migrations: from nothing, at the same time, and where the database is newer."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.store.engine import Database, Databases, Kind, Part, StoreError, open_databases
from gateway.store.migrate import migrate, newest, read_version, scripts
from gateway.store.schema import META, METADATA
from tests.support.postgres import PostgresServer

PARTS = tuple(Part)


def part_of(databases: Databases, part: Part) -> Database:
    return databases.spool if part is Part.SPOOL else databases.history


def described(database: Database) -> list[tuple[Any, ...]]:
    """All tables, columns, keys and indexes, as the database itself says."""
    with database.read() as connection:
        if database.is_sqlite:
            query = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE '%_version%'"
            return sorted(
                (kind, name, re.sub(r"\s+", " ", sql or "")) for kind, name, sql in connection.exec_driver_sql(query)
            )
        queries = (
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns"
            " WHERE table_schema = current_schema() AND table_name NOT LIKE '%%_version'",
            "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = current_schema()"
            " AND tablename NOT LIKE '%%_version'",
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = current_schema()::regnamespace AND conname NOT LIKE '%%_version%%'",
        )
        return sorted(tuple(map(str, row)) for query in queries for row in connection.exec_driver_sql(query))


@pytest.mark.parametrize("part", PARTS)
def test_migrations_from_nothing_give_exactly_the_tables_of_the_schema(
    databases: Databases, part: Part, request: pytest.FixtureRequest
) -> None:
    database = part_of(databases, part)
    assert migrate(database) == newest(part)
    if database.is_sqlite:
        other = open_databases(f"sqlite:{databases.where.path}.other.db")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        other = open_databases(server.new_database())
    made = part_of(other, part)
    try:
        with made.write() as connection:
            METADATA[part].create_all(connection)
        assert described(database) == described(made)
    finally:
        other.close()


@pytest.mark.parametrize("part", PARTS)
def test_a_database_without_tables_has_no_version_and_one_with_them_is_left_alone(
    databases: Databases, part: Part
) -> None:
    database = part_of(databases, part)
    assert read_version(database) is None
    migrate(database)
    assert read_version(database) == newest(part)
    assert migrate(database) == newest(part)


@pytest.mark.parametrize("part", PARTS)
def test_a_database_that_needs_a_newer_gateway_is_not_touched(databases: Databases, part: Part) -> None:
    database = part_of(databases, part)
    migrate(database)
    set_numbers(database, schema=newest(part) + 5, oldest=newest(part) + 3)
    before = described(database)
    with pytest.raises(StoreError) as caught:
        migrate(database)
    assert caught.value.kind is Kind.NEWER
    assert re.search(
        rf"belongs to a newer gateway: its tables have version {newest(part) + 5} and need a gateway that knows version"
        rf" {newest(part) + 3}; this one knows {newest(part)}\. Install the newer gateway",
        str(caught.value),
    )
    assert described(database) == before


@pytest.mark.parametrize("part", PARTS)
def test_a_newer_database_that_allows_older_gateways_is_used_as_it_is(databases: Databases, part: Part) -> None:
    database = part_of(databases, part)
    migrate(database)
    set_numbers(database, schema=newest(part) + 5)
    assert migrate(database) == newest(part) + 5


def set_numbers(database: Database, **numbers: int) -> None:
    meta = META[database.part]
    with database.write() as connection:
        for name, number in numbers.items():
            connection.execute(sa.update(meta).where(meta.c.name == name).values(number=number))


def test_gateways_that_start_at_once_migrate_once(store_url: str) -> None:
    program = (
        "import sys; from gateway.store.engine import open_databases; from gateway.store.migrate import migrate\n"
        "for part in open_databases(sys.argv[1]).parts: print(migrate(part))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, store_url], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    results = [process.communicate(timeout=60) for process in started]
    assert [(process.returncode, errors) for process, (_, errors) in zip(started, results, strict=True)] == [
        (0, b"")
    ] * 2
    expected = "".join(f"{newest(part)}\n" for part in PARTS)
    assert {out.decode() for out, _ in results} == {expected}


@pytest.mark.parametrize("part", PARTS)
def test_versions_are_numbered_and_what_they_allow_never_goes_back(part: Part) -> None:
    steps = list(reversed(list(scripts(part).iterate_revisions("heads", "base"))))
    assert [step.revision for step in steps] == [str(number) for number in range(1, len(steps) + 1)]
    allowed = [step.module.oldest for step in steps]
    assert allowed == sorted(allowed)
    assert all(oldest <= number for number, oldest in enumerate(allowed, 1))
