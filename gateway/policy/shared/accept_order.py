"""How many client connections each worker has, so that workers accept new ones in turn.

All workers accept on the same sockets, and the system wakes them all: the first one awake would take more than its
part, and keep it. Each worker writes a word of its own and reads the others'; one that is lost has nothing to say.
"""

from __future__ import annotations

from typing import Final

from gateway.policy.shared.memory import Memory

_SLACK: Final = 2
"""Connections by which one worker may have more than another and still accept."""


class AcceptOrder:
    """One worker's view. Until its first ``note``, and after ``retire``, it accepts nothing."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._words = memory.words
        self._own = memory.clients(memory.slot)
        self._others = tuple(slot for slot in range(memory.workers) if slot != memory.slot)
        self._retired = False

    def __repr__(self) -> str:
        return f"<AcceptOrder {[self._words[self._memory.clients(slot)] for slot in range(self._memory.workers)]}>"

    def note(self, connections: int) -> None:
        """Set this worker's number of connections."""
        if not self._retired:
            self._words[self._own] = connections + 1

    def retire(self) -> None:
        """This worker accepts no more: nobody need leave it a connection."""
        self._retired = True
        self._words[self._own] = 0

    def is_ahead(self) -> bool:
        """Whether another worker that lives and accepts has clearly fewer connections than this one."""
        least = self._words[self._own] - _SLACK
        memory, words = self._memory, self._words
        return any(0 < words[memory.clients(slot)] <= least and memory.is_alive_at(slot) for slot in self._others)
