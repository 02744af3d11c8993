"""When a failing target is ejected, and when it is tried again: a pure state machine, the clock passed in.

::

    closed ──failures──▶ open ──its wait is over──▶ half-open ──probe succeeded──▶ closed
                           ▲                            │
                           └──probe failed, wait grows──┘

Every hook that may pass holds a ticket, and reports the outcome with it exactly once: ``record_success``,
``record_failure`` or ``record_abandoned``. A report with a ticket from before the last change of state is ignored, so
that a flood of late failures neither opens a breaker that a probe has just closed nor prolongs its wait.

Two rules open a closed breaker. *In a row*: ``failures`` failures of any kind with no success between. *In the
window*: ``failures`` hard failures (the target could not be reached) that are at least half of all outcomes. Soft
failures (no answer in time, a bad answer, an error status) count only in a row: where one tenant's script is broken,
another tenant's success on the same target proves that it works.

A *hint* (the target fails elsewhere) opens nothing: while it is fresh, and until the target answers here, one failure
of either kind is enough.

The window is kept as counts in nine slots of an eighth of its length, not as a list of events. Failures that fall
within ``window`` are always counted together; ones up to an eighth further apart may be.

Times are loop time in seconds. They may stand still, and never go backwards.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final, NamedTuple

MAX_WAIT: Final = 30.0
"""Seconds that the wait of an open breaker may grow to, where its ``open_for`` is not longer by itself."""

SLOTS: Final = 9
"""Eight whole slots make up the window; the ninth is the one being filled."""
_MIN_SLOT: Final = 0.001
"""Seconds; a shorter slot could not be measured by loop time."""
_MAX_DOUBLINGS: Final = 30
"""Keeps the growth finite where ``open_for`` is next to nothing."""


class State(StrEnum):
    """What a breaker does with hooks."""

    CLOSED = "closed"
    """The target works, as far as is known: every hook may pass."""
    OPEN = "open"
    """The target fails: no hook may pass until the wait is over."""
    HALF_OPEN = "half-open"
    """One hook may pass, the probe; what becomes of it decides."""


_CLOSED: Final = State.CLOSED
_OPEN: Final = State.OPEN
_HALF_OPEN: Final = State.HALF_OPEN


class BreakerSettings(NamedTuple):
    """When a breaker opens, and for how long."""

    failures: int = 5
    """Failures that open it, at least 1."""
    window: float = 10.0
    """Seconds within which they must fall."""
    open_for: float = 5.0
    """Seconds until the first probe; doubled after each failed one, up to ``MAX_WAIT``."""


class Breaker:
    """One target's breaker. It keeps no clock, no timer and no list of events."""

    __slots__ = (
        "_doublings",
        "_failed_at",
        "_generation",
        "_hard",
        "_hard_total",
        "_held",
        "_hinted_at",
        "_hinted_until",
        "_opened_at",
        "_opened_count",
        "_outcomes",
        "_outcomes_total",
        "_probing",
        "_retry_at",
        "_row",
        "_row_total",
        "_settings",
        "_since",
        "_slot",
        "_slot_ends",
        "_state",
        "_succeeded_at",
        "_width",
    )

    def __init__(self, settings: BreakerSettings | None = None) -> None:
        self._settings = settings or BreakerSettings()
        self._state: State = _CLOSED
        self._generation = 0
        self._probing = False
        self._held = False
        self._doublings = 0
        self._opened_count = 0
        self._failed_at = -math.inf  # the wait runs from here
        self._since = -math.inf
        self._opened_at = -math.inf  # the last target's shorter wait runs from here
        self._retry_at = -math.inf
        self._succeeded_at = -math.inf
        self._hinted_at = self._hinted_until = -math.inf
        self._width = _slot_width(self._settings)
        self._slot = 0
        self._slot_ends = -math.inf
        self._outcomes = [0] * SLOTS
        self._hard = [0] * SLOTS
        self._row = [0] * SLOTS  # failures since the last success
        self._outcomes_total = 0
        self._hard_total = 0
        self._row_total = 0

    def __repr__(self) -> str:
        if self._state is _CLOSED:
            return f"<Breaker closed, {self._row_total} failures in a row>"
        if self._state is _OPEN:
            return f"<Breaker open, {'held' if self._held else f'until {self._retry_at:.3f}'}>"
        return f"<Breaker half-open, {'probe under way' if self._probing else 'probe due'}>"

    @property
    def settings(self) -> BreakerSettings:
        """The settings in force."""
        return self._settings

    @property
    def opened_count(self) -> int:
        """How often it has opened, a probe that failed included."""
        return self._opened_count

    @property
    def held(self) -> bool:
        """Whether an operator ejected the target, until ``restore``."""
        return self._held

    @property
    def since(self) -> float:
        """When it was last closed and then opened, or open and then closed; minus infinity while it has not been."""
        return self._since

    @property
    def retry_at(self) -> float | None:
        """When the next probe is due, or since when it has been; None while closed, infinite while held open."""
        if self._state is _CLOSED:
            return None
        return math.inf if self._held else self._retry_at

    def state(self, now: float) -> State:
        """The state as a hook would find it; an open breaker whose wait is over counts as half-open."""
        if self._state is _OPEN and not self._held and now >= self._retry_at:
            return _HALF_OPEN
        return self._state

    def ready(self, now: float) -> bool:
        """Whether ``admit`` would let a hook pass; changes nothing, so that a balancer can look at all targets."""
        if self._state is _CLOSED:
            return True
        if self._state is _OPEN:
            return not self._held and now >= self._retry_at
        return not self._probing

    def admit(self, now: float) -> int | None:
        """The ticket of a hook that may pass, or None. Past an open breaker's wait, the ticket is the probe's."""
        if self._state is _CLOSED:
            return self._generation
        return self._admit_probe(now, self._retry_at)

    def admit_last(self, now: float) -> int | None:
        """As ``admit``, for when every target is open: a probe is due each ``open_for``, however long the wait is.

        The time counts from when the breaker opened, or opened again as the last probe failed.
        """
        if self._state is _CLOSED:
            return self._generation
        return self._admit_probe(now, min(self._retry_at, self._opened_at + self._settings.open_for))

    def record_success(self, ticket: int, now: float) -> None:
        """The target answered with a verdict, allow or reject. Never opens the breaker."""
        if ticket != self._generation:
            return
        self._succeeded_at = now
        if self._state is _CLOSED:
            if now >= self._slot_ends:
                self._rotate(now)
            self._outcomes[self._slot] += 1
            self._outcomes_total += 1
            if self._row_total:
                self._end_row()
        else:
            self._close(now)

    def record_failure(
        self, ticket: int, now: float, *, hard: bool, silent_since: float = math.inf, patience: float = 0.0
    ) -> bool:
        """The target failed; *hard* where it could not be reached. Returns whether this opened the breaker.

        *silent_since* is when a hook set out that was then left without an answer. Where the target has answered
        another since, it was not the target that was silent, and the failure does not count. With *patience* the
        breaker stays closed until that many seconds have passed without a success.
        """
        if ticket != self._generation:
            return False
        if self._state is _CLOSED:
            if silent_since < self._succeeded_at:
                return False
            self._count_failure(now, hard=hard)
            if not self._is_too_much(now) or now - self._succeeded_at < patience:
                return False
        self._open(now)
        return True

    def record_abandoned(self, ticket: int, now: float) -> None:
        """The hook ended without a result for the target. If it was the probe, the next hook may be it at once."""
        if ticket == self._generation and self._state is _HALF_OPEN:
            self._probing = False
            self._retry_at = now
            self._generation += 1

    def eject(self, now: float, *, hold: bool = False) -> bool:
        """Open it as a failed probe would: for a failed health check, or an operator.

        With *hold* it stays open until ``restore``, for ``admit_last`` too. Said of a breaker that is open already,
        it prolongs the wait, though not that of the last target standing. Returns whether this opened the breaker.
        """
        was_open = self._state is _OPEN
        if was_open:
            self._grow()
            self._failed_at = now
            self._retry_at = now + self._wait()
        else:
            self._open(now)
        self._held = self._held or hold
        return not was_open

    def hint(self, now: float) -> None:
        """The target fails elsewhere: for ``open_for``, or until it answers here, one failure opens the breaker."""
        self._hinted_at = now
        self._hinted_until = now + self._settings.open_for

    def restore(self, now: float) -> None:
        """Close it, and forget a hint. A closed breaker keeps its counts: a passed check clears no hook's failure."""
        self._hinted_until = -math.inf
        if self._state is not _CLOSED:
            self._close(now)

    def configure(self, settings: BreakerSettings) -> None:
        """Change the settings. The state stays; a running wait becomes what it would have been.

        A window of another length begins empty. A hint does not outlast other settings.
        """
        if settings != self._settings:
            self._hinted_until = -math.inf
        if settings.window != self._settings.window:
            self._clear_counts()
            self._width = _slot_width(settings)
            self._slot_ends = -math.inf
        self._settings = settings
        if self._state is _OPEN:
            self._retry_at = self._failed_at + self._wait()

    def _admit_probe(self, now: float, due: float) -> int | None:
        if self._state is _OPEN:
            if self._held or now < due:
                return None
        elif self._probing:
            return None
        self._state = _HALF_OPEN
        self._probing = True
        self._retry_at = now
        self._generation += 1
        return self._generation

    def _open(self, now: float) -> None:
        if self._state is _CLOSED:
            self._since = now
        else:
            self._grow()
        self._state = _OPEN
        self._probing = False
        self._generation += 1
        self._opened_count += 1
        self._failed_at = self._opened_at = now
        self._retry_at = now + self._wait()
        self._clear_counts()

    def _close(self, now: float) -> None:
        self._state = _CLOSED
        self._since = now
        self._probing = self._held = False
        self._doublings = 0
        self._generation += 1

    def _wait(self) -> float:
        open_for = self._settings.open_for
        return min(open_for * (1 << self._doublings), max(open_for, MAX_WAIT))

    def _grow(self) -> None:
        if self._doublings < _MAX_DOUBLINGS and self._wait() < max(self._settings.open_for, MAX_WAIT):
            self._doublings += 1

    def _count_failure(self, now: float, *, hard: bool) -> None:
        if now >= self._slot_ends:
            self._rotate(now)
        slot = self._slot
        self._outcomes[slot] += 1
        self._outcomes_total += 1
        self._row[slot] += 1
        self._row_total += 1
        if hard:
            self._hard[slot] += 1
            self._hard_total += 1

    def _is_too_much(self, now: float) -> bool:
        failures = 1 if self._succeeded_at < self._hinted_at <= now < self._hinted_until else self._settings.failures
        return self._row_total >= failures or (
            self._hard_total >= failures and self._hard_total * 2 >= self._outcomes_total
        )

    def _rotate(self, now: float) -> None:
        """Begin the slot that *now* falls into; what its place and those passed over held has left the window."""
        if now >= self._slot_ends + self._width * (SLOTS - 1):
            self._clear_counts()
            self._slot_ends = now + self._width
            return
        for _ in range(SLOTS):
            if now < self._slot_ends:
                return
            self._slot_ends += self._width
            self._slot = slot = (self._slot + 1) % SLOTS
            self._outcomes_total -= self._outcomes[slot]
            self._hard_total -= self._hard[slot]
            self._row_total -= self._row[slot]
            self._outcomes[slot] = self._hard[slot] = self._row[slot] = 0

    def _end_row(self) -> None:
        self._row_total = 0
        for slot in range(SLOTS):
            self._row[slot] = 0

    def _clear_counts(self) -> None:
        self._outcomes_total = self._hard_total = self._row_total = 0
        for slot in range(SLOTS):
            self._outcomes[slot] = self._hard[slot] = self._row[slot] = 0


def _slot_width(settings: BreakerSettings) -> float:
    return max(settings.window / (SLOTS - 1), _MIN_SLOT)
