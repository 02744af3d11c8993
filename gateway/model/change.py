"""Changes that apply completely or not at all: prepare everything that can fail, then commit in one step.

A part of the gateway that gets a new configuration prepares a ``Change``: everything that must be read, built or
started for it then exists, and nothing in force has been touched. ``Changes`` commits several of them between two
events of the loop. ``commit`` only replaces the old objects with the new ones; if it fails anyway, what was committed
is reverted. The old objects are cleaned up afterwards; a failure there does not undo the change.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

logger = logging.getLogger(__name__)


class CannotPrepare(Exception):
    """Why a change cannot be made, in words for an operator."""


EXPECTED_ERRORS: Final = (CannotPrepare, OSError, MemoryError)
"""Exceptions whose message explains why a change was not made; others are logged with a traceback."""


def failure_reason(exc: BaseException) -> str:
    """Why a change was not made, for an operator; unknown exceptions' texts are left out: they may hold secrets."""
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
    """Something new that is ready to replace something old."""

    def commit(self) -> None:
        """Put it in force. Plain assignments: what can fail was done before."""

    def revert(self) -> None:
        """Put back what was in force before ``commit``, also before one that failed halfway."""

    async def settle(self) -> None:
        """After the commit: release what was in force before."""

    async def discard(self) -> None:
        """Instead of the commit, or after ``revert``: release what was prepared."""


class Swap(Change):
    """A change of one step in each direction."""

    def __init__(self, commit: Callable[[], None], revert: Callable[[], None]) -> None:
        self._commit = commit
        self._revert = revert

    def commit(self) -> None:
        """Take the step."""
        self._commit()

    def revert(self) -> None:
        """Take it back."""
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
        """Release everything old; failures are logged."""
        for change in self._changes:
            await _run_safely(change.settle)

    async def discard(self) -> None:
        """Release everything new; failures are logged."""
        for change in reversed(self._changes):
            await _run_safely(change.discard)


async def prepare(*preparations: Callable[[], Awaitable[Change]]) -> Changes:
    """Prepare all of these, in order. If one raises, those before it are discarded first."""
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
            logger.exception("a part of the gateway could not be reverted")


async def _run_safely(clean_up: Callable[[], Awaitable[None]]) -> None:
    try:
        await clean_up()
    except Exception:
        logger.exception("cleaning up after a reload failed; the configuration is not affected")
