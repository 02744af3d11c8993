"""Changes that are made whole or not at all: prepare everything that can fail, then commit it in one step.

A part of the gateway that takes a new configuration prepares a ``Change``: all that has to be read, built or started
for it exists by then, and nothing in force has been touched. ``Changes`` commits several of them between two events of
the loop. ``commit`` only puts what is ready in the place of what was there; should it fail all the same, what was
committed is reverted. What is left of the old is cleaned up afterwards, and cannot undo the success.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

logger = logging.getLogger(__name__)


class CannotPrepare(Exception):
    """Why a change cannot be made, in words for an operator."""


EXPECTED_ERRORS: Final = (CannotPrepare, OSError, MemoryError)
"""What says by itself why a change was not made; anything else is logged with its traceback."""


def failure_reason(exc: BaseException) -> str:
    """Why a change was not made, for an operator: what an unknown exception says might hold a secret, and stays out."""
    if isinstance(exc, CannotPrepare):
        return str(exc)
    if isinstance(exc, MemoryError):
        return "there is not enough memory for it"
    if isinstance(exc, TimeoutError):
        return "it was not ready in time"
    if isinstance(exc, OSError):
        return str(exc)
    return f"a defect of the gateway ({type(exc).__name__}); the log says more"


class Change:
    """Something that is ready to take the place of something else."""

    def commit(self) -> None:
        """Put it in force. Plain assignments: what can fail was done before."""

    def revert(self) -> None:
        """Put back what was in force before ``commit``, also before one that failed halfway."""

    async def settle(self) -> None:
        """After the commit: let go of what was in force before."""

    async def discard(self) -> None:
        """Instead of the commit, or after ``revert``: let go of what was prepared."""


class Swap(Change):
    """A change that is one step forth, and one back."""

    def __init__(self, commit: Callable[[], None], revert: Callable[[], None]) -> None:
        self._commit = commit
        self._revert = revert

    def commit(self) -> None:
        """Go forth."""
        self._commit()

    def revert(self) -> None:
        """Go back."""
        self._revert()


class Changes(Change):
    """Several changes as one."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._changes = tuple(changes)

    def commit(self) -> None:
        """Commit all of them, in order; if one raises, all are reverted, and the exception is raised again."""
        begun: list[Change] = []
        try:
            for change in self._changes:
                begun.append(change)
                change.commit()
        except BaseException:
            _revert(begun)
            raise

    def revert(self) -> None:
        """Revert all of them, the last one first."""
        _revert(self._changes)

    async def settle(self) -> None:
        """Let go of everything old; what fails is logged, and the rest goes on."""
        for change in self._changes:
            await _run_safely(change.settle)

    async def discard(self) -> None:
        """Let go of everything new; what fails is logged, and the rest goes on."""
        for change in reversed(self._changes):
            await _run_safely(change.discard)


async def prepare(*preparations: Callable[[], Awaitable[Change]]) -> Changes:
    """Have all of these prepared, in order. If one raises, those before it are discarded first."""
    ready: list[Change] = []
    try:
        for preparation in preparations:
            ready += [await preparation()]
    except BaseException:
        await Changes(ready).discard()
        raise
    return Changes(ready)


def _revert(changes: Iterable[Change]) -> None:
    for change in reversed(tuple(changes)):
        try:
            change.revert()
        except Exception:
            logger.exception("a part of the gateway could not go back to what it did before")


async def _run_safely(clean_up: Callable[[], Awaitable[None]]) -> None:
    try:
        await clean_up()
    except Exception:
        logger.exception("what a reload has left behind could not be cleaned up; the configuration is not affected")
