"""When kept events are delivered again, how many at once, and which failures are an event's own.

Pure state machines, the clock passed in. One ``Pace`` per upstream::

               ┌─── failed again, the wait grows ───┐
               ▼                                    │
             down ───── its wait is over ─────▶ probing ──answered──▶ ramping ──as many as may be──▶ steady
               ▲                                                       │   ▲                           │
               └───────── nothing but trouble ─────────────────────────┘   └── trouble: half as many ──┘

*Trouble* is what says that the upstream, not the event, is at fault: it cannot be reached, or does not answer in time,
or web servers answer for it. An *error* is an answer that is no delivery: the event's own fault, unless every event
meets one. Errors of several events in a row, with no hook answered well between, are the upstream's: a database that is
down behind a PHP that runs must not turn events into dead letters.

Times are seconds of a clock that never goes backwards.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from gateway.model.verdicts import Cause, Failure

FIRST_WAIT: Final = 0.1
"""Seconds from the first failure of an upstream to a probe; doubled after each failed one, up to ``MAX_WAIT``."""
MAX_WAIT: Final = 0.8
"""An upstream that is back gets its first event within a second."""
FIRST_DELAY: Final = 1.0
"""Seconds after an event's first own failure; three times as long after each further one, up to ``MAX_DELAY``."""
MAX_DELAY: Final = 900.0
PART: Final = 4
"""Redelivery may use this part of an upstream's connections: a quarter."""
_TROUBLES: Final = 3
"""In a row, with no answer between: the upstream is down, however many deliveries were under way."""
_ERRORS: Final = 5
"""The same for errors ..."""
_EVENTS: Final = 3
"""... of so many events at least."""
_UNREACHABLE_STATUSES: Final = frozenset((502, 503, 504))
"""A web server's answers when what is behind it is down, overloaded or silent (RFC 9110, section 15.6)."""

Random = Callable[[], float]
"""A number from 0 to below 1."""


class State(StrEnum):
    """How the kept events of an upstream are delivered."""

    DOWN = "down"
    """None is, until the next probe."""
    PROBING = "probing"
    """One is under way, the probe; what becomes of it decides."""
    RAMPING = "ramping"
    """Some at once; with each that is answered, one more."""
    STEADY = "steady"
    """As many at once as may be."""


class Finding(StrEnum):
    """What a delivery says of its upstream."""

    ANSWERED = "answered"
    """The event was delivered."""
    ERROR = "error"
    """The upstream answers, but this event was not delivered."""
    TROUBLE = "trouble"
    """The upstream is at fault."""
    NOTHING = "nothing"
    """It was cut off by the gateway."""


def is_trouble(failure: Failure, *, seen: bool, others_answered: bool) -> bool:
    """Whether a failed delivery is its upstream's fault alone, so that the event is not blamed for it.

    *seen*: the backend may have processed it. *others_answered*: another hook was answered well meanwhile: what then
    broke off, or got no answer in time, did so by itself.
    """
    if failure.cause is Cause.OVERLOAD:
        return True
    if failure.cause in (Cause.TIMEOUT, Cause.UNREACHABLE):
        return not (seen and others_answered)
    return failure.received_status in _UNREACHABLE_STATUSES and not others_answered


def retry_delay(failures: int, chance: Random = random.random) -> float:
    """Seconds until an event that has failed this often by its own fault (at least once) is tried again."""
    delay = min(FIRST_DELAY * 3.0 ** min(failures - 1, 30), MAX_DELAY)
    return delay * (0.75 + 0.5 * chance())


class Pace:
    """How fast one upstream gets the events that are kept for it. It keeps no clock and no timer."""

    __slots__ = (
        "_allowed",
        "_chance",
        "_erring",
        "_errors",
        "_generation",
        "_limit",
        "_probe_at",
        "_troubles",
        "_verdicts",
        "_wait",
        "in_flight",
        "in_outage",
        "state",
    )

    def __init__(self, limit: int, now: float = -math.inf, chance: Random = random.random) -> None:
        """*limit*: deliveries at once, at most. The first one is a probe, due *now*."""
        self.state = State.DOWN
        self.in_flight = 0
        self.in_outage = False
        """Whether it has been found down, and no event has been delivered since."""
        self._limit = limit
        self._allowed = 1
        self._generation = 0
        self._probe_at = now
        self._wait = FIRST_WAIT
        self._troubles = 0
        self._errors = 0
        self._erring: set[int] = set()
        self._verdicts = 0.0
        self._chance = chance

    def __repr__(self) -> str:
        return f"<Pace {self.state}, {self.in_flight} of {self._allowed} in flight, limit {self._limit}>"

    @property
    def limit(self) -> int:
        """Deliveries at once, at most."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self._allowed = min(self._allowed, limit)
        if self.state in (State.RAMPING, State.STEADY):
            self.state = State.STEADY if self._allowed == limit else State.RAMPING

    @property
    def probe_at(self) -> float | None:
        """When the next probe is due; None where none is awaited."""
        return self._probe_at if self.state is State.DOWN else None

    @property
    def allowed(self) -> int:
        """Deliveries that may be under way at once in the present state."""
        return self._allowed if self.state in (State.RAMPING, State.STEADY) else 1

    def room(self, now: float) -> int:
        """How many deliveries may begin now."""
        if self.state is State.DOWN:
            return 1 if now >= self._probe_at and not self.in_flight else 0
        if self.state is State.PROBING:
            return 0
        return max(0, self._allowed - self.in_flight)

    def begin(self) -> int:
        """A delivery begins; returns its ticket, for ``finish``. Only where there is ``room``."""
        self.in_flight += 1
        if self.state is State.DOWN:
            self.state = State.PROBING
        return self._generation

    def finish(self, ticket: int, finding: Finding, now: float, event: int = 0, verdicts: float = 0.0) -> bool:
        """The delivery of an *event* is over; returns whether the event itself is to blame for a failure.

        *verdicts*: how many hooks the upstream has answered well so far, live ones too; it only grows.
        """
        self.in_flight -= 1
        if verdicts > self._verdicts:
            self._verdicts = verdicts
            self._clear_runs()
        is_current = ticket == self._generation
        if finding is Finding.ANSWERED:
            self._clear_runs()
            self._grow(is_current=is_current)
        elif finding is Finding.ERROR:
            return self._blame(event, now, is_current=is_current)
        elif finding is Finding.TROUBLE:
            self._note_trouble(now, is_current=is_current)
        elif self.state is State.PROBING and is_current:
            self.state = State.DOWN  # the probe said nothing: the next one is due
        return False

    # --- what a delivery says ---

    def _clear_runs(self) -> None:
        self._troubles = self._errors = 0
        self._erring.clear()

    def _grow(self, *, is_current: bool) -> None:
        if self.state in (State.DOWN, State.PROBING):
            self._ramp()
        elif is_current and self._allowed < self._limit:
            self._allowed += 1
        self.in_outage = False
        self.state = State.STEADY if self._allowed >= self._limit else State.RAMPING

    def _blame(self, event: int, now: float, *, is_current: bool) -> bool:
        """Count an error; whether it is the event's own: not where several events meet nothing but errors."""
        self._errors += 1
        if len(self._erring) < _EVENTS:
            self._erring.add(event)
        probed = self.state is State.PROBING and is_current
        if self._errors < _ERRORS or len(self._erring) < _EVENTS:
            if probed:
                self._ramp()  # it answers: the next event may do better
                self.state = State.STEADY if self._limit == 1 else State.RAMPING
            return True
        if probed or self.state in (State.RAMPING, State.STEADY):
            self._go_down(now)
        return False

    def _note_trouble(self, now: float, *, is_current: bool) -> None:
        self._troubles += 1
        if self.state is State.PROBING:
            if is_current:
                self._go_down(now)
        elif self.state is not State.DOWN and (self._troubles >= _TROUBLES or (is_current and self._allowed == 1)):
            self._go_down(now)
        elif self.state is not State.DOWN and is_current:
            self._generation += 1  # the others under way are of the same moment: they do not halve it again
            self._allowed = max(1, self._allowed // 2)
            self.state = State.RAMPING

    def _ramp(self) -> None:
        self._generation += 1
        self._allowed = 1
        self._wait = FIRST_WAIT

    def _go_down(self, now: float) -> None:
        self.state = State.DOWN
        self.in_outage = True
        self._generation += 1
        self._allowed = 1
        self._probe_at = now + self._wait * (0.75 + 0.25 * self._chance())
        self._wait = min(2.0 * self._wait, MAX_WAIT)
