"""Where the process stands between its start and its end."""

from __future__ import annotations

import time
from enum import StrEnum


class Phase(StrEnum):
    """One way only: starting, ready, draining."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Lifecycle:
    """The phase, and since when the process runs."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.started_at = time.time()

    def ready(self) -> None:
        """Hooks are served from now on."""
        if self.phase is Phase.STARTING:
            self.phase = Phase.READY

    def drain(self) -> None:
        """No new connections; what is in flight is answered."""
        self.phase = Phase.DRAINING
