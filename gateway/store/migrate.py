"""Makes and changes the tables: runs the migrations that a database lacks, at start.

Each part has migrations of its own below ``migrations/``, numbered; they only add, so that a gateway of the version
before goes on. A migration that leaves nothing for older gateways to work with raises ``oldest``.

Alembic is loaded where a migration is needed, and only there: without it the store's process is back sooner.
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Final

import sqlalchemy as sa

from gateway.store.engine import Database, Kind, Part, StoreError, translated
from gateway.store.schema import META

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x7763735F6D696772
"""Of PostgreSQL: who migrates ("wcs_migr")."""
_MIGRATING: Final = threading.Lock()
"""Alembic's operations belong to the process: two threads that migrate two databases would take each other's."""
_PATIENCE: Final = 60_000
"""Milliseconds that a gateway waits while another one migrates."""


def migrate(database: Database) -> int:
    """Bring the tables of this database to the newest version that this gateway knows; returns the version it has.

    Any number of gateways may do so at once: one does, the others wait. Raises StoreError, among others where the
    database needs a newer gateway; then nothing was changed.
    """
    with translated(database):
        version = read_version(database)
        if version is None or version < newest(database.part):
            with database.write() as connection:
                _run(connection, database)
            version = newest(database.part)
        return version


def read_version(database: Database) -> int | None:
    """The version of its tables; None without any. Raises StoreError where it needs a newer gateway."""
    if database.is_sqlite and not database.file.exists():
        return None
    with database.read() as connection:
        return _version(connection, database)


@functools.cache
def scripts(part: Part) -> Any:
    """The migrations of a part, as Alembic's ``ScriptDirectory``."""
    folder = str(MIGRATIONS / part)
    return resolve_name("alembic.script:ScriptDirectory")(folder, version_locations=[folder])


@functools.cache
def newest(part: Part) -> int:
    """The version of the tables that this gateway makes."""
    return max(int(path.stem.removeprefix("v")) for path in (MIGRATIONS / part).glob("v*.py"))


def _run(connection: sa.Connection, database: Database) -> None:
    with _MIGRATING:
        _migrate(connection, database)


def _migrate(connection: sa.Connection, database: Database) -> None:
    part = database.part
    if not database.is_sqlite:  # SQLite's transaction is the lock
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_PATIENCE}")
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    current = _version(connection, database)  # another gateway may have been quicker
    operations = resolve_name("alembic.operations:Operations")
    context = resolve_name("alembic.migration:MigrationContext").configure(
        connection, opts={"version_table": f"{part}_version"}
    )
    steps = list(scripts(part).iterate_revisions("heads", str(current) if current else "base"))
    for script in reversed(steps):
        with operations.context(context):
            script.module.upgrade()
        context.stamp(scripts(part), script.revision)
        _set(connection, META[part], {"schema": int(script.revision), "oldest": script.module.oldest})


def _version(connection: sa.Connection, database: Database) -> int | None:
    meta = META[database.part]
    if not sa.inspect(connection).has_table(meta.name):
        return None
    rows: dict[str, Any] = {row.name: row.number for row in connection.execute(sa.select(meta.c.name, meta.c.number))}
    version, oldest, known = rows.get("schema"), rows.get("oldest", 0), newest(database.part)
    if oldest > known:
        raise StoreError(
            f"the {database.part} database at {database.where} belongs to a newer gateway: its tables have version"
            f" {version} and need a gateway that knows version {oldest}; this one knows {known}. Install the newer"
            f" gateway, or set store.url to another place. Nothing was changed",
            Kind.NEWER,
        )
    return version


def _set(connection: sa.Connection, meta: sa.Table, numbers: dict[str, int]) -> None:
    for name, number in numbers.items():
        changed = connection.execute(meta.update().where(meta.c.name == name).values(number=number))
        if not changed.rowcount:
            connection.execute(meta.insert().values(name=name, number=number))
