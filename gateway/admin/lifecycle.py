"""Where the process stands between its start and its end."""

from __future__ import annotations

import time
from enum import StrEnum


class Phase(StrEnum):
    """One way only, but for an operator's drain: starting, ready, draining."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Lifecycle:
    """The phase, and since when the process runs."""

    def __init__(self) -> None:
        self._phase = Phase.STARTING
        self._drained = False
        self.started_at = time.time()

    @property
    def phase(self) -> Phase:
        """Where it stands; draining as long as an operator has it so, too."""
        return Phase.DRAINING if self._drained and self._phase is Phase.READY else self._phase

    @property
    def drained(self) -> bool:
        """Whether an operator has it drained."""
        return self._drained

    @property
    def ending(self) -> bool:
        """Whether the end has begun, which nobody takes back."""
        return self._phase is Phase.DRAINING

    def ready(self) -> None:
        """Hooks are served from now on."""
        if self._phase is Phase.STARTING:
            self._phase = Phase.READY

    def drain(self) -> None:
        """No new connections; what is in flight is answered."""
        self._phase = Phase.DRAINING

    def drain_for_operator(self, *, on: bool) -> None:
        """Ask balancers to send hooks elsewhere, or no more; those that still come are decided."""
        self._drained = on
