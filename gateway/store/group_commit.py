"""One thread writes to a database, and puts what waits at the same time into one transaction.

An item is done when its transaction is committed, and not before. An item that fails takes no other with it: its
transaction goes back to a savepoint, and each item is tried alone. Where the commit itself fails, all its items do, and
after a failing disk or a lost connection nothing more is believed until the connection was opened again.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from gateway.store.engine import Database, StoreError

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

Batch = Callable[[sa.Connection, Sequence[I]], Sequence[R | StoreError]]
"""Does all items of one kind, and returns their results in their order."""
Done = Callable[[Any, StoreError | None], None]
"""Called with the result, or with why there is none."""

MOST: Final = 64
GATHER: Final = 0.005
MAX_QUEUED: Final = 64 * 2**20


class GroupCommit:
    """The writer of one database."""

    def __init__(
        self,
        database: Database,
        *,
        most: int = MOST,
        gather: float = GATHER,
        max_queued: int = MAX_QUEUED,
        opened: Callable[[sa.Connection], None] | None = None,
        committed: Callable[[float], None] | None = None,
        changed: Callable[[bool, str | None], None] | None = None,
    ) -> None:
        """A transaction has up to *most* items, or those of *gather* seconds; *max_queued*: bytes that may wait.

        All three callbacks are called in the writing thread. *opened*: with each new connection, in no transaction,
        before it is used (``migrate`` was run before); *committed*: with the seconds that a commit took; *changed*:
        whether the database can be written, and else the reason, at each change.
        """
        raise NotImplementedError

    @property
    def state(self) -> tuple[bool, str | None]:
        """Whether the database can be written, and else the reason."""
        raise NotImplementedError

    @property
    def queued(self) -> tuple[int, int]:
        """Items that wait, and their bytes."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the thread."""
        raise NotImplementedError

    def put(self, batch: Batch[I, R], item: I, done: Done, size: int = 0) -> None:
        """From an event loop: have *batch* do this item, together with others; *done* is called in this loop.

        Never waits. Where the queue is full, or the database is down, *done* is called soon, with the reason.
        """
        raise NotImplementedError

    def submit(self, batch: Batch[I, R], item: I, size: int = 0) -> Future[R]:
        """``put`` for those that await the result; the future raises StoreError."""
        raise NotImplementedError

    def run(self, action: Callable[[sa.Connection], R]) -> Future[R]:
        """Have *action* done in a transaction of its own."""
        raise NotImplementedError

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, for at most *timeout* seconds, and end. Blocks."""
        raise NotImplementedError
