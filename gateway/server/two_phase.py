"""How all workers get one configuration: each prepares it, and then all commit it, or none does (two-phase commit)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from gateway.model.change import CannotPrepare
from gateway.server.ipc import Committed, Prepared

logger = logging.getLogger(__name__)

PHASE_LIMIT: Final = 10.0
"""Seconds for the workers to prepare a new configuration, and again to commit it."""
_SILENT: Final = 2
"""Unanswered pings after which a worker counts as hanging: it delays no other, and will be replaced."""

Acknowledgement = Prepared | Committed


class Participant(Protocol):
    """A worker, as far as it matters here."""

    @property
    def slot(self) -> int:
        """Its number."""

    @property
    def unanswered(self) -> int:
        """Pings since its last sign of life."""

    @property
    def is_gone(self) -> bool:
        """Whether it will send nothing more."""

    async def acknowledgement(self, kind: type[Acknowledgement], serial: int) -> Acknowledgement | None:
        """Its acknowledgement of the configuration with this serial; None where it ends before that."""


P = TypeVar("P", bound=Participant)


class Acknowledgements:
    """What one worker has acknowledged."""

    def __init__(self) -> None:
        self._last: dict[type[Acknowledgement], Acknowledgement] = {}
        self._more = asyncio.Event()
        self._ended = False

    def add(self, acknowledgement: Acknowledgement) -> None:
        """Note that this one has come."""
        self._last[type(acknowledgement)] = acknowledgement
        self._more.set()

    def end(self) -> None:
        """Note that no more will come."""
        self._ended = True
        self._more.set()

    async def wait_for(self, kind: type[Acknowledgement], serial: int) -> Acknowledgement | None:
        """The acknowledgement of the configuration with this serial; None where none will come."""
        while not self._ended:
            last = self._last.get(kind)
            if last is not None and last.serial >= serial:
                return last
            self._more.clear()
            await self._more.wait()
        return None


async def wait_until_prepared(workers: Sequence[Participant], serial: int) -> bool:
    """Wait until each worker is prepared, has ended, or hangs; whether at least one is prepared.

    Raises CannotPrepare where one reports that it cannot, or has not within the limit.
    """
    acknowledgements = await _collect(workers, Prepared, serial)
    for worker, acknowledgement in zip(workers, acknowledgements, strict=True):
        if acknowledgement is not None and acknowledgement.error is not None:
            raise CannotPrepare(f"{acknowledgement.error} (worker {worker.slot})")
        if acknowledgement is None and not worker.is_gone and worker.unanswered < _SILENT:
            raise CannotPrepare(f"worker {worker.slot} was not ready within {PHASE_LIMIT:g} s")
    return any(acknowledgement is not None for acknowledgement in acknowledgements)


async def wait_until_committed(workers: Sequence[P], serial: int) -> list[P]:
    """Wait until each worker has committed, has ended, or hangs; returns those that report that they cannot commit."""
    acknowledgements = await _collect(workers, Committed, serial)
    failed = []
    for worker, acknowledgement in zip(workers, acknowledgements, strict=True):
        if acknowledgement is not None and acknowledgement.error is not None:
            logger.error("%r keeps the previous configuration (%s) and is replaced", worker, acknowledgement.error)
            failed.append(worker)
    return failed


async def _collect(
    workers: Sequence[Participant], kind: type[Acknowledgement], serial: int
) -> list[Acknowledgement | None]:
    """The acknowledgement of each worker; None for one that has ended, or sends none in time."""
    waiting = [asyncio.create_task(worker.acknowledgement(kind, serial)) for worker in workers]
    try:
        if waiting:
            await asyncio.wait(waiting, timeout=PHASE_LIMIT)
        return [task.result() if task.done() else None for task in waiting]
    finally:
        for task in waiting:
            task.cancel()
