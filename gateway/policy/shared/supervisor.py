"""The shared memory in the hands of the supervisor: it makes it, and tidies up after workers that have ended."""

from __future__ import annotations

import os
import secrets

from gateway.policy.shared.memory import Memory, create_memory


class SharedMemory:
    """What the workers share; ``fd`` is handed on to each of them, and ``environment`` is part of its own."""

    def __init__(self, workers: int) -> None:
        self.fd = create_memory(workers)
        self._memory = Memory(self.fd, workers)
        self.environment: dict[str, str] = {}
        if os.environ.get("PYTHONHASHSEED", "random") in ("", "random"):
            # The workers' own hash, with one key that nobody knows: a fifth of what a digest of every hook would cost.
            self.environment["PYTHONHASHSEED"] = str(1 + secrets.randbelow(2**32 - 1))
            self._memory.note_hashes_alike()

    def __repr__(self) -> str:
        return f"<SharedMemory {self._memory!r}>"

    def vacate(self, slot: int) -> None:
        """The worker in this slot has ended: what it had inside or held is nobody's any more."""
        self._memory.vacate(slot)
