"""A history as tests use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa
from pydantic import SecretStr

from gateway.model.decision import Decision
from gateway.policy.history import HistorySettings
from gateway.store.decisions import DecodedDecision, decode_decision, encode_sent
from gateway.store.engine import Database
from gateway.store.history import History
from gateway.store.requests import HistoryFilter, HistoryPage
from tests.store.decided import NOW

HOUR: Final = 3600.0
KEY: Final = SecretStr("key")
SETTINGS: Final = HistorySettings(keep=30 * 24 * HOUR, keep_allowed=24 * HOUR, key=KEY)
MASK: Final = ("caller", "callee")
NUMBER: Final = "+493012345"


EmptyDatabase = Callable[[], Database]


class Kept:
    """A history that is used as the gateway does it: each step in a transaction of its own."""

    def __init__(self, database: Database, settings: HistorySettings = SETTINGS, **options: Any) -> None:
        self.database = database
        self.bodies = settings.bodies
        self.history = History(settings, options.pop("mask", MASK), **options)

    def add(self, *decisions: Decision) -> None:
        with self.database.write() as connection:
            batch = [encode_sent(each, self.bodies, 77, "") for each in decisions]
            assert self.history.add(connection, [batch]) == [len(batch)]

    def maintain(self, now: float = NOW) -> None:
        for _ in range(1000):
            with self.database.write() as connection:
                if not self.history.maintain(connection, now):
                    return
        raise AssertionError("it never comes to an end")

    def page(
        self, wanted: HistoryFilter, before: int | None = None, limit: int = 100, bodies: bool = False
    ) -> HistoryPage:
        with self.database.read() as connection:
            return self.history.search(connection, wanted, before, limit, bodies=bodies)

    def found(self, limit: int = 100, bodies: bool = False, **wanted: Any) -> list[DecodedDecision]:
        """All pages."""
        found: list[DecodedDecision] = []
        before = None
        while True:
            page = self.page(HistoryFilter(**wanted), before, limit, bodies)
            found += map(decode_decision, page.decisions)
            if page.next is None:
                return found
            assert before is None or page.next < before
            before = page.next

    def ids(self, **wanted: Any) -> list[str]:
        return [each.decision.request_id for each in self.found(**wanted)]

    def forget(self, number: str) -> int:
        forgotten, after = 0, None
        while True:
            with self.database.write() as connection:
                step = self.history.forget(connection, number, after)
            forgotten, after = forgotten + step.decisions, step.next
            if after is None:
                return forgotten

    def rows(self, table: sa.Table) -> int:
        with self.database.read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
