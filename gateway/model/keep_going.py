"""Keeps a background task alive for as long as the process: if one turn raises, the next one still runs."""

from __future__ import annotations

import logging
from types import TracebackType

logger = logging.getLogger(__name__)


class KeepGoing:
    """Put around one turn of a loop, again and again: ``with keep_going: …``.

    An exception ends the turn, not the loop. It is logged with its traceback; the same kind in the next turns is not,
    until a turn succeeds. Cancellation and the interpreter's exit pass through.
    """

    def __init__(self, what: str) -> None:
        """*what* the loop does, for the log, such as ``the health check``."""
        self._what = what
        self._failing: type[BaseException] | None = None

    def __repr__(self) -> str:
        return f"<KeepGoing {self._what}{', failing' if self._failing is not None else ''}>"

    def __enter__(self) -> None:
        """Begin a turn."""

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """End it; True if the loop goes on despite *exc*."""
        if exc is not None and not isinstance(exc, Exception):
            return False
        if exc is not None and kind is not self._failing:
            logger.error("%s failed; it goes on", self._what, exc_info=exc)
        self._failing = kind
        return exc is not None
