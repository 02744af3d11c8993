"""Free pages of a SQLite file, which is opened with ``auto_vacuum = INCREMENTAL``."""

from __future__ import annotations

import sqlalchemy as sa


def pragma(connection: sa.Connection, name: str) -> int:
    """A number that SQLite says of the file."""
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


def give_back_pages(connection: sa.Connection, most: int) -> int:
    """Give free pages back to the file system, in the transaction that is open; how many."""
    count = min(pragma(connection, "freelist_count"), most)
    cursor = connection.connection.cursor()
    for _ in range(count):
        cursor.execute("PRAGMA incremental_vacuum(1)")  # Python's module makes one step, so one page, of each
    cursor.close()
    return count
