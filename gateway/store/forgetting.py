"""A person's right to be forgotten: a number leaves the whole history, beside a gateway that runs or without one."""

from __future__ import annotations

from collections.abc import Callable, Collection

from gateway.policy.history import HistorySettings
from gateway.store.engine import Database, checkpoint, open_databases, shrink
from gateway.store.history import History
from gateway.store.migrate import read_version


def forget_number(
    url: str,
    settings: HistorySettings,
    mask: Collection[str],
    number: str,
    on_step: Callable[[int], None] = lambda decisions: None,
) -> int:
    """Remove a number from all decisions, as caller and as callee; returns from how many.

    In many short transactions, so that a gateway goes on writing; *on_step* gets the count so far after each. What was
    decided while it ran has the number still. Raises StoreError; what was removed until then stays removed.
    """
    databases = open_databases(url)
    try:
        return _forget(databases.history, History(settings, mask), number, on_step)
    finally:
        databases.close()


def _forget(database: Database, history: History, number: str, on_step: Callable[[int], None]) -> int:
    if read_version(database) is None:
        return 0
    decisions = 0
    after: int | None = None
    while True:
        with database.write() as connection:
            done = history.forget(connection, number, after)
        decisions += done.decisions
        on_step(decisions)
        if done.next is None:
            break
        after = done.next
    if database.is_sqlite:
        _clear_traces(database)
    return decisions


def _clear_traces(database: Database) -> None:
    """Remove what free pages and the write-ahead log still have of removed rows; PostgreSQL's vacuum does so there."""
    more = True
    while more:
        with database.write() as connection:
            more = shrink(connection)
    with database.connect() as connection:
        checkpoint(connection)
