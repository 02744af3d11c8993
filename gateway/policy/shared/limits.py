"""Limits that hold for all workers together: hooks inside at once, and hooks a second.

How many hooks of an app each worker has inside, it writes into a word of its own, and then looks at the sum: two that
come in the same moment may both be refused the last place, but never both have it. A bucket of tokens is one for all,
changed under its lock. It may run empty at one worker, if all hooks come there.
"""

from __future__ import annotations

from typing import Final, Protocol

from gateway.policy.rate_limit import ENOUGH, Limiter, Rate
from gateway.policy.shared.memory import LIMIT_NAMES, LIMIT_WORDS, LOCK_OF_LIMITS, Memory
from gateway.policy.shared.names import leave_entry, take_entry

_TAKEN: Final = 1
_FILLED_AT: Final = 2
_BURST: Final = 3
"""In a fleet: the burst that the hooks taken are counted against."""


class HookCount(Protocol):
    """Counts the active hooks of all workers."""

    def note(self, mine: int) -> None:
        """Set this worker's number of active hooks."""

    def total(self, mine: int) -> int:
        """The number of active hooks in all workers; *mine* are this worker's, already noted."""


class _SummedCount:
    """What every worker has noted."""

    __slots__ = ("_all", "_own", "_words")

    def __init__(self, memory: Memory, entry: int) -> None:
        self._words = memory.words
        self._all = memory.counts(entry)
        self._own = memory.own(self._all)

    def note(self, mine: int) -> None:
        self._words[self._own] = mine

    def total(self, mine: int) -> int:
        return sum(self._words[self._all])


class _EqualShares:
    """Used when there is no room for another app: each worker has an equal share."""

    __slots__ = ("_workers",)

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def note(self, mine: int) -> None:
        pass

    def total(self, mine: int) -> int:
        return mine * self._workers


class SharedLimiter:
    """A ``Limiter`` that all workers fill and take from."""

    __slots__ = ("_alone", "_at", "_burst", "_floats", "_lock", "_memory", "_per_second")

    def __init__(self, memory: Memory, entry: int, rate: Rate, now: float) -> None:
        self._memory = memory
        self._floats = memory.floats
        self._at = LIMIT_NAMES.entries + entry * LIMIT_WORDS
        self._lock = LOCK_OF_LIMITS + entry
        self._per_second = rate.per_second
        self._burst: float = rate.burst
        self._alone = Limiter(rate.per_worker(memory.workers), now)
        """Used instead while another worker holds the lock because it was stopped."""

    def take(self, now: float) -> bool:
        """Whether one more hook may come now; if so, it is counted."""
        if not self._memory.lock(self._lock):
            return self._alone.take(now)
        try:
            floats, at = self._floats, self._at
            taken, filled_at = floats[at + _TAKEN], floats[at + _FILLED_AT]
            if now > filled_at:  # workers' clocks are a few milliseconds apart: what is filled in is not filled again
                taken = max(0.0, taken - (now - filled_at) * self._per_second)
                floats[at + _FILLED_AT] = now
            may = self._burst - taken >= ENOUGH
            floats[at + _TAKEN] = taken + 1.0 if may else taken
            return may
        finally:
            self._memory.unlock(self._lock)

    def configure(self, rate: Rate) -> None:
        """Go on with another rate. What has been taken stays taken."""
        self._per_second = rate.per_second
        self._burst = rate.burst
        self._alone.configure(rate.per_worker(self._memory.workers))


class RescaledLimiter(SharedLimiter):
    """The same in a fleet, where the rate is a share that changes. The burst in force is one for all workers."""

    __slots__ = ()

    def __init__(self, memory: Memory, entry: int, rate: Rate, now: float) -> None:
        super().__init__(memory, entry, rate, now)
        if not self._floats[self._at + _BURST]:  # else another worker knows the share better than one that starts
            self._floats[self._at + _BURST] = float(rate.burst)

    def take(self, now: float) -> bool:
        """Whether one more hook may come now; if so, it is counted."""
        self._burst = self._floats[self._at + _BURST]
        return super().take(now)

    def rescale(self, rate: Rate, now: float) -> None:
        """Become another part of the fleet's rate; the first worker to do so changes what is left for all of them."""
        self._alone.rescale(rate.per_worker(self._memory.workers), now)
        locked = self._memory.lock(self._lock)
        floats, at = self._floats, self._at
        before = floats[at + _BURST]
        if now > floats[at + _FILLED_AT]:  # by the rate until now, also where the burst stays
            floats[at + _TAKEN] = max(0.0, floats[at + _TAKEN] - (now - floats[at + _FILLED_AT]) * self._per_second)
            floats[at + _FILLED_AT] = now
        if before != rate.burst:
            floats[at + _TAKEN] = max(0.0, floats[at + _TAKEN] + rate.burst - before)
            floats[at + _BURST] = float(rate.burst)
        self._per_second = rate.per_second
        if locked:
            self._memory.unlock(self._lock)


class AppLimits:
    """An app's entry in the shared memory, for as long as this worker serves it."""

    __slots__ = ("_entry", "_memory", "active_count")

    def __init__(self, memory: Memory, name: str) -> None:
        self._memory = memory
        self._entry = entry = take_entry(memory, LIMIT_NAMES, name)
        self.active_count: HookCount = _EqualShares(memory.workers) if entry is None else _SummedCount(memory, entry)

    def limiter(self, rate: Rate, now: float) -> Limiter | SharedLimiter:
        """What counts hooks that come at this rate."""
        if self._entry is None:
            return Limiter(rate.per_worker(self._memory.workers), now)
        return SharedLimiter(self._memory, self._entry, rate, now)

    def rescaled_limiter(self, rate: Rate, now: float) -> Limiter | RescaledLimiter:
        """The same, where the rate is this gateway's share of a fleet's."""
        if self._entry is None:
            return Limiter(rate.per_worker(self._memory.workers), now)
        return RescaledLimiter(self._memory, self._entry, rate, now)

    def leave(self) -> None:
        """This worker serves the app no more, and has none of its hooks inside."""
        if self._entry is not None:
            self.active_count.note(0)
            leave_entry(self._memory, LIMIT_NAMES, self._entry)
