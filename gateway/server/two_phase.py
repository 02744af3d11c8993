"""How all workers come to have one configuration: it is prepared by each, and then committed by all or by none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from gateway.model.change import CannotPrepare
from gateway.server.ipc import Committed, Prepared

logger = logging.getLogger(__name__)

TAKE_LIMIT: Final = 10.0
"""Seconds for the workers to have a new configuration ready, and again to put it in force."""
_SILENT: Final = 2
"""Pings unanswered by which a worker counts as hanging: it holds up no other, and will be replaced."""

Word = Prepared | Committed


class Party(Protocol):
    """A worker, as far as it matters here."""

    @property
    def slot(self) -> int:
        """Its number."""

    @property
    def unanswered(self) -> int:
        """Pings since its last sign of life."""

    @property
    def is_gone(self) -> bool:
        """Whether it will say nothing more."""

    async def says(self, kind: type[Word], serial: int) -> Word | None:
        """What it says of the configuration with this serial; None where it ends before that."""


P = TypeVar("P", bound=Party)


class Words:
    """What one worker has said of configurations."""

    def __init__(self) -> None:
        self._last: dict[type[Word], Word] = {}
        self._more = asyncio.Event()
        self._ended = False

    def add(self, word: Word) -> None:
        """It has said this."""
        self._last[type(word)] = word
        self._more.set()

    def end(self) -> None:
        """It will say nothing more."""
        self._ended = True
        self._more.set()

    async def wait_for(self, kind: type[Word], serial: int) -> Word | None:
        """What it says of the configuration with this serial; None where it ends before that."""
        while not self._ended:
            word = self._last.get(kind)
            if word is not None and word.serial >= serial:
                return word
            self._more.clear()
            await self._more.wait()
        return None


async def all_prepared(workers: Sequence[Party], serial: int) -> bool:
    """Wait until each worker has said that it is ready, has ended, or hangs; whether at least one is ready.

    Raises CannotPrepare where one says that it cannot be, or is not within the limit.
    """
    words = await _words_of(workers, Prepared, serial)
    for worker, word in zip(workers, words, strict=True):
        if word is not None and word.error is not None:
            raise CannotPrepare(f"{word.error} (worker {worker.slot})")
        if word is None and not worker.is_gone and worker.unanswered < _SILENT:
            raise CannotPrepare(f"worker {worker.slot} was not ready within {TAKE_LIMIT:g} s")
    return any(word is not None for word in words)


async def those_without(workers: Sequence[P], serial: int) -> list[P]:
    """Wait until each worker has it in force, has ended, or hangs; those that say that they cannot have it."""
    words = await _words_of(workers, Committed, serial)
    without = []
    for worker, word in zip(workers, words, strict=True):
        if word is not None and word.error is not None:
            logger.error("%r keeps the configuration before (%s) and is replaced", worker, word.error)
            without.append(worker)
    return without


async def _words_of(workers: Sequence[Party], kind: type[Word], serial: int) -> list[Word | None]:
    """What each of the workers says; None for one that has ended, or says nothing in time."""
    saying = [asyncio.create_task(worker.says(kind, serial)) for worker in workers]
    try:
        if saying:
            await asyncio.wait(saying, timeout=TAKE_LIMIT)
        return [task.result() if task.done() else None for task in saying]
    finally:
        for task in saying:
            task.cancel()
