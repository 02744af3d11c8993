"""What gateways that share a PostgreSQL database tell each other: how many events more or less each key has.

Each transaction that changes backlogs has a notice (NOTIFY), delivered with its commit. A thread listens to those of
the others and puts them into the table. Where a reading of the whole database comes between, each change counts once:
a notice names its transaction, and a reading knows which transactions it has seen.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from gateway.store.backlog_table import BacklogWriter
from gateway.store.engine import Database

logger = logging.getLogger(__name__)

CHANNEL: Final = "wcs_gateway_spool"
MOST: Final = 300
"""Slots in a notice: PostgreSQL allows 8000 bytes."""
_WAIT: Final = 1.0
"""Seconds for which one wait for notices lasts, so that the end is noticed."""
_AGAIN: Final = 1.0
"""Seconds until a connection that was lost is opened again."""

_SEND: Final = sa.text(f"SELECT pg_notify('{CHANNEL}', :owner || ' ' || pg_current_xact_id()::text || ' ' || :changes)")


class Snapshot(NamedTuple):
    """Which transactions a reading has seen (``pg_current_snapshot``)."""

    xmin: int
    xmax: int
    running: frozenset[int]

    def has_seen(self, transaction: int) -> bool:
        """Whether what this transaction did, which is committed, was visible to the reading."""
        return transaction < self.xmin or (transaction < self.xmax and transaction not in self.running)


def parse_snapshot(text: str) -> Snapshot:
    """A snapshot as PostgreSQL writes it: ``10:20:12,13``."""
    xmin, xmax, running = text.split(":")
    return Snapshot(int(xmin), int(xmax), frozenset(map(int, filter(None, running.split(",")))))


class Notice(NamedTuple):
    """What another gateway's transaction has changed."""

    owner: str
    transaction: int
    slots: dict[int, int]
    """Events more or less, by slot of the table."""


def encode_changes(slots: Mapping[int, int]) -> Iterator[str]:
    """The changes as text, in pieces that a notice can hold."""
    parts = [f"{slot:x}{change:+d}" for slot, change in slots.items() if change]
    for start in range(0, len(parts), MOST):
        yield ",".join(parts[start : start + MOST])


def parse_notice(payload: str) -> Notice:
    """A notice as it came. Raises ValueError for what is none."""
    owner, transaction, changes = payload.split(" ")
    slots: dict[int, int] = {}
    for part in changes.split(","):
        at = max(part.find("+"), part.find("-"))
        if at < 1:
            raise ValueError(f"not a change: {part!r}")
        slots[int(part[:at], 16)] = int(part[at:])
    return Notice(owner, int(transaction), slots)


class Notices:
    """Sends this gateway's notices, and puts the others' into the table."""

    def __init__(self, database: Database, owner: str, table: BacklogWriter, read_again: Callable[[], None]) -> None:
        """*read_again*: have the whole database read, as notices may have been missed. Starts the thread."""
        self._database = database
        self._owner = owner
        self._table = table
        self._read_again = read_again
        self._applying = threading.Lock()
        self._snapshot: Snapshot | None = None
        """Of the last reading."""
        self._pending: list[Notice] | None = []
        """Notices that came since a reading began; None while none is under way."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool-notices", daemon=True)
        self._thread.start()

    def send(self, connection: sa.Connection, keys: Mapping[bytes, int]) -> None:
        """Report these changes when the transaction commits."""
        slots: Counter[int] = Counter()
        for key, change in keys.items():
            slots[self._table.slot(key)] += change
        for changes in encode_changes(slots):
            connection.execute(_SEND, {"owner": self._owner, "changes": changes})

    def begin_reading(self, connection: sa.Connection) -> None:
        """The whole database is about to be read, in this transaction, which has done nothing yet."""
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        snapshot = parse_snapshot(str(connection.exec_driver_sql("SELECT pg_current_snapshot()::text").scalar_one()))
        with self._applying:
            self._snapshot = snapshot
            self._pending = []

    def end_reading(self) -> None:
        """What was read is in the table."""
        with self._applying:
            pending, self._pending = self._pending or [], None
            for notice in pending:
                self._apply(notice)

    def close(self) -> None:
        """End the thread."""
        self._ending.set()
        self._thread.join(2 * _WAIT)

    def take(self, payload: str) -> None:
        """A notice has come."""
        try:
            notice = parse_notice(payload)
        except ValueError:
            logger.warning("a notice of another gateway cannot be read: %.100s", payload)
            return
        if notice.owner == self._owner:
            return
        with self._applying:
            if self._pending is not None:
                self._pending.append(notice)
            else:
                self._apply(notice)

    def _apply(self, notice: Notice) -> None:
        if self._snapshot is None or not self._snapshot.has_seen(notice.transaction):
            self._table.change(notice.slots)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._listen()
            except Exception as exc:  # the driver's own errors too; the writer reports what is wrong with the database
                logger.debug("notices of other gateways cannot be received: %s", exc)
            self._ending.wait(_AGAIN)

    def _listen(self) -> None:
        """Receive notices until the connection ends."""
        connection = self._database.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            driver: Any = connection.connection.driver_connection
            driver.execute(f"LISTEN {CHANNEL}")
            self._read_again()
            while not self._ending.is_set():
                for notice in driver.notifies(timeout=_WAIT):
                    self.take(notice.payload)
        finally:
            connection.invalidate()  # nobody else gets a connection that listens
            connection.close()
