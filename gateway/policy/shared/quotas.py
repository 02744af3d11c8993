"""The connections to one target that all workers may have together.

Each worker writes down how many it holds, idle ones included, and how many hooks wait for one there. It notes one more
before it looks at the sum, so that the sum never passes the limit. While a hook waits at another worker, a place that
is left goes to the worker that holds fewer, and idle connections are given up. An eighth of the limit is not kept idle,
so that a worker which has none need not wait for its first ones.
"""

from __future__ import annotations

from typing import Final

from gateway.policy.shared.memory import Memory

POLL_EVERY: Final = 0.003
"""Seconds between two looks of a worker with hooks that wait: a place may have been left at another one."""


class Quota:
    """One worker's part."""

    __slots__ = ("_held", "_left", "_memory", "_own_held", "_own_waiting", "_waiting", "_words")

    def __init__(self, memory: Memory, entry: int) -> None:
        self._memory = memory
        self._words = memory.words
        self._held = memory.connections(entry)
        self._waiting = memory.waiting(entry)
        self._own_held = memory.own(self._held)
        self._own_waiting = memory.own(self._waiting)
        self._left = False

    def __repr__(self) -> str:
        return f"<Quota {self._words[self._held].tolist()} held, {self._words[self._waiting].tolist()} wait>"

    def note(self, held: int, waiting: int) -> None:
        """Set how many connections this worker holds, and how many of its hooks wait for one."""
        if not self._left:
            self._words[self._own_held] = held
            self._words[self._own_waiting] = waiting

    def share(self, most: int) -> int:
        """This worker's equal part of a limit, for people: it may have more or less."""
        workers, slot = self._memory.workers, self._memory.slot
        return most // workers + (slot < most % workers)

    def others(self) -> int:
        """Connections that other workers hold."""
        return 0 if self._left else sum(self._words[self._held]) - self._words[self._own_held]

    def reserve(self, held: int, most: int) -> bool:
        """Whether this worker may hold *held* connections if all may hold *most*; if so, that is noted."""
        if self._left:
            return True
        before, self._words[self._own_held] = self._words[self._own_held], held
        if sum(self._words[self._held]) <= most:
            return True
        self._words[self._own_held] = before
        return False

    def may_keep(self, held: int, most: int) -> bool:
        """Whether one of *held* connections may stay open while it is idle."""
        return held + self.others() <= most - max(1, most // 8) and not self.is_wanted()

    def is_wanted(self) -> bool:
        """Whether a hook waits at another worker."""
        return not self._left and sum(self._words[self._waiting]) > self._words[self._own_waiting]

    def yields(self, busy: int) -> bool:
        """Whether another worker that lives, one of whose hooks waits, holds fewer than this one has in use."""
        if not self.is_wanted():
            return False
        held, waiting = self._words[self._held].tolist(), self._words[self._waiting].tolist()
        return any(
            waits and other < busy and self._memory.is_alive_at(slot)
            for slot, (other, waits) in enumerate(zip(held, waiting, strict=True))
            if slot != self._memory.slot
        )

    def leave(self) -> None:
        """This worker has the target no more: what it still holds ends, and counts no longer."""
        self.note(0, 0)
        self._left = True
