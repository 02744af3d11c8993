"""A target's breaker that all workers have together: failures count in sum, an ejection is one for all, and so is a
probe.

It is the breaker of one process, whose state lies in the shared memory: what changes it is done under the entry's lock,
on the state as it is by then. Whether a hook may pass is looked up in a copy, which is renewed whenever the state has
changed; a success of a target that is well is counted in the copy, and written down with the next 31.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from gateway.policy.breaker import SLOTS, Breaker, BreakerSettings, State
from gateway.policy.shared.memory import BREAKER_NAMES, BREAKER_WORDS, LOCK_OF_BREAKERS, Memory
from gateway.policy.shared.names import is_known, leave_entry, take_entry
from gateway.policy.shared.quotas import Quota

P = ParamSpec("P")
T = TypeVar("T")

_STATES: Final = (State.CLOSED, State.OPEN, State.HALF_OPEN)
_RECORD: Final = struct.Struct(f"<6q5d{3 * SLOTS}q")
_CHANGES: Final = 1
"""Word that counts the changes of state, and of the row of failures."""
_FIRST: Final = 2
_APPS: Final = 63
"""Word of a target that says when an app was last given a breaker of its own for it, or that one opened."""
_TOGETHER: Final = 32
"""Successes that are written down in one go."""
_MICROSECONDS: Final = 1_000_000


class SharedBreaker(Breaker):
    """One target's breaker at one worker. As ``Breaker``; an operator's hold and a hint are set in each worker."""

    __slots__ = (
        "_all_successes",
        "_at",
        "_configured",
        "_entry",
        "_flush_at",
        "_left",
        "_memory",
        "_name",
        "_own_success",
        "_prober",
        "_seen",
        "_uncounted",
        "quota",
    )

    def __init__(self, memory: Memory, entry: int, name: str) -> None:
        super().__init__()
        self._name = name
        self._memory = memory
        self._entry = entry
        self._at = BREAKER_NAMES.entries + entry * BREAKER_WORDS
        self._all_successes = memory.successes(entry)
        self._own_success = memory.own(self._all_successes)
        self._prober = 0
        self._seen = 0
        self._uncounted = 0
        self._flush_at = -math.inf
        self._configured = False
        self._left = False
        self.quota = Quota(memory, entry)
        """What all workers have of connections to the target."""

    @classmethod
    def attach(cls, memory: Memory, name: str) -> SharedBreaker | None:
        """The breaker of this name; None where there is no room for one more."""
        entry = take_entry(memory, BREAKER_NAMES, name)
        return None if entry is None else cls(memory, entry, name)

    @property
    def apps_changed(self) -> int:
        """When any worker last gave an app a breaker of its own for this target, or one opened; 0 = never."""
        return self._memory.words[self._at + _APPS]

    def note_app(self) -> None:
        """An app has a breaker that the other workers are to look for."""
        self._memory.words[self._at + _APPS] = time.monotonic_ns()

    def for_app(self, app: str, *, create: bool) -> SharedBreaker | None:
        """An app's own breaker for this target; unless *create*, only if some worker has given it one."""
        name = f"{self._name} app {app}"
        if self._left or not (create or is_known(self._memory, BREAKER_NAMES, name)):
            return None
        breaker = SharedBreaker.attach(self._memory, name)
        if create and breaker is not None:
            self.note_app()
        return breaker

    def forget(self, now: float) -> None:
        """Closed, without a failure, for all; this worker needs it no more."""
        self._change(now, self._begin_again, now)
        self.leave()

    def _begin_again(self, now: float) -> None:
        super().restore(now)
        self._clear_counts()

    def leave(self) -> None:
        """This worker has the target no more; what still comes changes nothing for the others."""
        if not self._left:
            self._left = True
            self.quota.leave()
            self._memory.words[self._own_success] = 0
            leave_entry(self._memory, BREAKER_NAMES, self._entry)

    # --- looking ---

    def state(self, now: float) -> State:
        """As every worker sees it."""
        self._renew()
        return super().state(now)

    def ready(self, now: float) -> bool:
        """As every worker sees it; the probe of a worker that is lost keeps nobody waiting."""
        self._renew()
        if self._state is State.HALF_OPEN and self._probing and not self._is_probed():
            return True
        return super().ready(now)

    def admit(self, now: float) -> int | None:
        """A ticket; of all workers, one gets the probe's."""
        self._renew()
        if self._state is State.CLOSED:
            return self._generation
        return self._change(now, super().admit, now) if self._may_be_due(now, self._retry_at) else None

    def admit_last(self, now: float) -> int | None:
        """As ``admit``, for when every target is open."""
        self._renew()
        if self._state is State.CLOSED:
            return self._generation
        due = min(self._retry_at, self._opened_at + self._settings.open_for)
        return self._change(now, super().admit_last, now) if self._may_be_due(now, due) else None

    # --- reporting ---

    def record_success(self, ticket: int, now: float) -> None:
        """The target answered this worker."""
        words = self._memory.words
        if (
            not self._left
            and self._is_healthy(ticket)
            and now < self._flush_at
            and words[self._at + _CHANGES] == self._seen
        ):
            words[self._own_success] = int(now * _MICROSECONDS)
            self._succeeded_at = now
            self._uncounted += 1
            if self._uncounted < _TOGETHER:
                return
            self._uncounted -= 1
        self._change(now, self._succeed, ticket, now)

    def record_failure(
        self, ticket: int, now: float, *, hard: bool, silent_since: float = math.inf, patience: float = 0.0
    ) -> bool:
        """The target failed this worker; whether this opened the breaker, for all."""
        return self._change(
            now, super().record_failure, ticket, now, hard=hard, silent_since=silent_since, patience=patience
        )

    def record_abandoned(self, ticket: int, now: float) -> None:
        """The hook ended without a word on the target."""
        self._renew()
        if self._state is State.HALF_OPEN:
            self._change(now, super().record_abandoned, ticket, now)

    def eject(self, now: float, *, hold: bool = False) -> bool:
        """Open by decree, for all."""
        return self._change(now, super().eject, now, hold=hold)

    def restore(self, now: float) -> None:
        """Close by decree, for all."""
        self._change(now, super().restore, now)

    def configure(self, settings: BreakerSettings) -> None:
        """Work by other settings; the state stays, whichever worker hears of them first."""
        afresh = self._configured and settings.window != self._settings.window
        self._configured = True
        super().configure(settings)
        self._change(-math.inf, self._reconfigure, afresh)

    def _succeed(self, ticket: int, now: float) -> None:
        if ticket == self._generation and not self._left:
            self._memory.words[self._own_success] = int(now * _MICROSECONDS)
        super().record_success(ticket, now)

    def _reconfigure(self, afresh: bool) -> None:
        if afresh:
            self._clear_counts()
            self._slot_ends = -math.inf
        if self._state is State.OPEN:
            self._retry_at = self._failed_at + self._wait()

    # --- what all have in common ---

    def _is_healthy(self, ticket: int) -> bool:
        return self._state is State.CLOSED and not self._row_total and ticket == self._generation

    def _may_be_due(self, now: float, due: float) -> bool:
        """Whether it is worth asking for the probe."""
        if self._state is State.OPEN:
            return not self._held and now >= due
        return not self._probing or not self._is_probed()

    def _is_probed(self) -> bool:
        """Whether the worker that has the probe is alive and will report."""
        return self._left or self._prober == self._memory.owner or self._memory.is_alive(self._prober)

    def _renew(self) -> None:
        """Renew the copy, if anything has changed."""
        if self._memory.words[self._at + _CHANGES] != self._seen and not self._left:
            lock = LOCK_OF_BREAKERS + self._entry
            if self._memory.lock(lock):
                try:
                    self._read()
                finally:
                    self._memory.unlock(lock)

    def _change(self, now: float, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a step on the state as it is now, and write down what comes of it."""
        lock = LOCK_OF_BREAKERS + self._entry
        if self._left or not self._memory.lock(lock):
            return step(*args, **kwargs)
        try:
            self._read()
            if self._probing and not self._is_probed():
                self._probing, self._prober = False, 0
                self._retry_at = now
                self._generation += 1
            self._count_successes(now)
            before = (self._generation, self._row_total, self._retry_at)
            result = step(*args, **kwargs)
            self._prober = (self._prober or self._memory.owner) if self._probing else 0
            self._write(changed=before != (self._generation, self._row_total, self._retry_at))
        finally:
            self._memory.unlock(lock)
        return result

    def _count_successes(self, now: float) -> None:
        """Count those that have not been written down yet."""
        self._flush_at = now + self._width
        if self._uncounted and self._state is State.CLOSED:
            if now >= self._slot_ends:
                self._rotate(now)
            self._outcomes[self._slot] += self._uncounted
            self._outcomes_total += self._uncounted
        self._uncounted = 0

    def _read(self) -> None:
        words = self._memory.words
        self._seen = words[self._at + _CHANGES]
        latest = max(words[self._all_successes])
        self._succeeded_at = latest / _MICROSECONDS if latest else -math.inf
        if not self._seen:
            return  # nothing has been written yet
        record = _RECORD.unpack_from(self._memory.bytes, 8 * (self._at + _FIRST))
        state, self._generation, probing, self._prober, self._doublings, self._slot = record[:6]
        self._failed_at, self._since, self._opened_at, self._retry_at, self._slot_ends = record[6:11]
        self._outcomes = list(record[11 : 11 + SLOTS])
        self._hard = list(record[11 + SLOTS : 11 + 2 * SLOTS])
        self._row = list(record[11 + 2 * SLOTS :])
        self._outcomes_total, self._hard_total, self._row_total = map(sum, (self._outcomes, self._hard, self._row))
        self._probing = bool(probing)
        self._state = State.OPEN if self._held else _STATES[state]

    def _write(self, *, changed: bool) -> None:
        _RECORD.pack_into(
            self._memory.bytes, 8 * (self._at + _FIRST),
            _STATES.index(self._state), self._generation, self._probing, self._prober, self._doublings,
            self._slot,
            self._failed_at, self._since, self._opened_at, self._retry_at, self._slot_ends,
            *self._outcomes, *self._hard, *self._row,
        )  # fmt: skip
        if changed or not self._seen:
            self._seen += 1
            self._memory.words[self._at + _CHANGES] = self._seen
