"""The rows of the spool as transactions change them: heads, counts, and the statements for that."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from gateway.store.engine import Database
from gateway.store.messages import Settle
from gateway.store.schema import spool_count, spool_event

_EVENT: Final = spool_event.c
_KEYS_AT_ONCE: Final = 200
_LOCK: Final = 0x7763735F73706F6F
"""Of PostgreSQL: who writes to the spool ("wcs_spoo")."""

ROW: Final = (_EVENT.id, _EVENT.key, _EVENT.head, _EVENT.dead, _EVENT.app, _EVENT.upstream, _EVENT.size)
"""What is needed of an event that leaves its place."""
Change = tuple[int, int, int, int]
"""Waiting events, their bytes, dead letters, their bytes; more or fewer."""
Counts = dict[tuple[str, str], list[int]]
"""Changes, by app and upstream."""


# --- statements ---

DATABASE_TIME: Final[sa.ColumnElement[float]] = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double())
"""PostgreSQL's own clock: all gateways' leases are measured by it."""
TAKE_LOCK: Final = sa.select(sa.func.pg_advisory_xact_lock(_LOCK))
LAST_ID: Final = "SELECT seq FROM sqlite_sequence WHERE name = 'spool_event'"
RESERVE_IDS: Final = sa.text(
    "SELECT max(id) FROM (SELECT nextval('spool_event_id_seq') AS id FROM generate_series(1, :events)) AS reserved"
)
FORGET_EMPTY: Final = spool_count.delete().where(spool_count.c.events == 0, spool_count.c.dead == 0)
EXPIRED_APPS: Final = sa.text(
    "SELECT DISTINCT c.app FROM spool_count c"
    " WHERE EXISTS (SELECT 1 FROM spool_event e WHERE e.app = c.app AND e.expires <= :now)"
)
_DUE_HEAD: Final = "SELECT 1 FROM spool_event e WHERE e.upstream = :upstream AND e.app = c.app AND e.head = 1"
DUE_APPS: Final = sa.text(
    "SELECT c.app FROM spool_count c WHERE c.upstream = :upstream AND c.events > 0"  # noqa: S608
    f" AND (EXISTS ({_DUE_HEAD} AND e.due <= :now) OR EXISTS ({_DUE_HEAD} AND e.due > :far)) ORDER BY c.app"
)
TAKEN: Final = (
    sa.select(_EVENT.id, _EVENT.attempts, _EVENT.event, _EVENT.body)
    .where(_EVENT.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(_EVENT.due, _EVENT.id)
)
SETTLE: Final = (
    spool_event.update()
    .where(_EVENT.id == sa.bindparam("this"))
    .values(
        dead=sa.bindparam("to_dead"),
        head=_EVENT.head * (1 - sa.bindparam("to_dead", type_=sa.SmallInteger())),
        attempts=_EVENT.attempts + sa.bindparam("failures", type_=sa.Integer()),
        due=sa.bindparam("to_due"),
        expires=sa.bindparam("to_expires"),
        error=sa.bindparam("to_error"),
        owner=None,
        leased_until=None,
    )
)
_SET_HEAD: Final = spool_event.update().where(_EVENT.id == sa.bindparam("this")).values(head=sa.bindparam("to_head"))
_ADD_COUNT: Final = (
    "INSERT INTO spool_count (app, upstream, events, bytes, dead, dead_bytes) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (app, upstream) DO UPDATE SET events = spool_count.events + excluded.events,"
    " bytes = spool_count.bytes + excluded.bytes, dead = spool_count.dead + excluded.dead,"
    " dead_bytes = spool_count.dead_bytes + excluded.dead_bytes"
)
_APP_BYTES: Final = "SELECT sum(bytes + dead_bytes) FROM spool_count WHERE app = ?"


class PreparedInsert:
    """An INSERT that is compiled once: SQLAlchemy's own work for each batch is more than the database's."""

    def __init__(self, table: sa.Table, columns: Sequence[str], database: Database) -> None:
        compiled = table.insert().compile(dialect=database.dialect, column_keys=list(columns))
        self._sql = str(compiled)
        self._columns = columns
        positions = getattr(compiled, "positiontup", None)
        self._is_positional = positions is not None
        assert positions is None or list(positions) == list(columns)

    def insert(self, connection: sa.Connection, rows: list[tuple[Any, ...]]) -> None:
        """Insert these rows, whose values are in the order of the columns."""
        if self._is_positional:
            connection.exec_driver_sql(self._sql, rows)
        else:
            connection.exec_driver_sql(self._sql, [dict(zip(self._columns, row, strict=True)) for row in rows])


def values_list(connection: sa.Connection, rows: int, width: int) -> str:
    """``VALUES (?, ?), …`` for so many rows, as this engine's driver writes parameters."""
    row = f"({','.join('?' * width)})"
    return driver_sql(connection, f"(VALUES {','.join([row] * rows)}) v")


def driver_sql(connection: sa.Connection, statement: str) -> str:
    """A statement for the driver itself, where SQLAlchemy's own work would show: with ``?`` for parameters."""
    return statement if connection.dialect.name == "sqlite" else statement.replace("?", "%s")


def settle_values(outcome: Settle, *, dead: int, failures: int, expires: float, due: float) -> dict[str, Any]:
    """The parameters of SETTLE."""
    return {
        "this": outcome.id,
        "to_dead": dead,
        "failures": failures,
        "to_due": due,
        "to_expires": expires,
        "to_error": clean(outcome.error),
    }


# --- heads ---


def first_waiting(connection: sa.Connection, keys: Iterable[bytes]) -> dict[bytes, int]:
    """By key, the id of its first waiting event; keys without any are left out."""
    every = list(dict.fromkeys(keys))
    found: dict[bytes, int] = {}
    for start in range(0, len(every), _KEYS_AT_ONCE):
        some = every[start : start + _KEYS_AT_ONCE]
        query = (
            "SELECT v.column1, (SELECT id FROM spool_event WHERE key = v.column1 AND dead = 0 ORDER BY id LIMIT 1)"  # noqa: S608
            f" FROM {values_list(connection, len(some), 1)}"
        )
        found.update((row[0], row[1]) for row in connection.exec_driver_sql(query, tuple(some)) if row[1] is not None)
    return found


def promote(connection: sa.Connection, keys: Iterable[bytes]) -> None:
    """Have the first waiting event of each key be its head."""
    set_heads(connection, first_waiting(connection, keys).values(), 1)


def set_heads(connection: sa.Connection, ids: Collection[int], head: int) -> None:
    """Say of these events whether they are heads."""
    if ids:
        connection.execute(_SET_HEAD, [{"this": id_, "to_head": head} for id_ in ids])


# --- counts ---


def tally(counts: Counts, app: str, upstream: str, change: Change) -> None:
    """Add a change."""
    its = counts.setdefault((app, upstream), [0, 0, 0, 0])
    for at, by in enumerate(change):
        its[at] += by


def tally_removal(counts: Counts, row: Any) -> None:
    """Add that an event leaves."""
    tally(counts, row.app, row.upstream, (0, 0, -1, -row.size) if row.dead else (-1, -row.size, 0, 0))


def write_counts(connection: sa.Connection, counts: Counts) -> None:
    """Put the changes into the table."""
    if counts:
        rows = [(app, upstream, *its) for (app, upstream), its in counts.items()]
        connection.exec_driver_sql(driver_sql(connection, _ADD_COUNT), rows)


def app_bytes(connection: sa.Connection, app: str) -> int:
    """Bytes of all kept events of an app, dead letters too."""
    return int(connection.exec_driver_sql(driver_sql(connection, _APP_BYTES), (app,)).scalar() or 0)


def sum_keys(changes: Iterable[tuple[bytes, int]]) -> dict[bytes, int]:
    """By key, the sum of its changes."""
    keys: dict[bytes, int] = {}
    for key, change in changes:
        keys[key] = keys.get(key, 0) + change
    return keys


def clean(text: str) -> str:
    """Without what a column cannot hold: NUL, and halves of surrogate pairs. The event itself keeps them."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
