"""The phase of the process between start and end."""

from __future__ import annotations

import time
from enum import StrEnum


class Phase(StrEnum):
    """Starting, ready, draining; only an operator's drain can be undone."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Lifecycle:
    """The phase, and the start time of the process in Unix time."""

    def __init__(self) -> None:
        self._phase = Phase.STARTING
        self._drained = False
        self.started_at = time.time()

    @property
    def phase(self) -> Phase:
        """The phase; draining also during an operator's drain."""
        return Phase.DRAINING if self._drained and self._phase is Phase.READY else self._phase

    @property
    def drained(self) -> bool:
        """Whether an operator's drain is active."""
        return self._drained

    @property
    def ending(self) -> bool:
        """Whether the process is stopping, which cannot be undone."""
        return self._phase is Phase.DRAINING

    def ready(self) -> None:
        """Serve hooks from now on."""
        if self._phase is Phase.STARTING:
            self._phase = Phase.READY

    def drain(self) -> None:
        """Stop: no new connections; hooks in flight are answered."""
        self._phase = Phase.DRAINING

    def drain_for_operator(self, *, on: bool) -> None:
        """Start or end an operator's drain: load balancers send hooks elsewhere; hooks that still come are decided."""
        self._drained = on
