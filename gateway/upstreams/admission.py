"""Who may be sent to a target: its breaker, and where apps share it, one more for each app whose hooks fail there.

A target that cannot be connected to is down for everyone. One that takes a hook and leaves it without an answer may
do so for one tenant's script alone: where several apps share it, such failures close it to that app and to no other.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Final

import msgspec

from gateway.policy.breaker import Breaker, BreakerSettings, State
from gateway.policy.shared import SharedBreaker

_MAX_TENANTS: Final = 10_000
"""Apps of whose failures one target keeps count; a success forgets them."""


class EjectionScope(Enum):
    """For which apps a failure has just ejected a target."""

    NONE = 0
    APP = 1
    ALL = 2


class Ticket(msgspec.Struct, frozen=True, gc=False):
    """Leave to send one hook; whoever holds it reports with it exactly once."""

    common: int
    own: int | None


class Admission:
    """One target's breakers; with *everybody's*, the common one and the apps' own are those of all workers."""

    def __init__(self, shared: SharedBreaker | None = None) -> None:
        self.common: Breaker = shared or Breaker()
        self._shared_breaker = shared
        self._looked_up: dict[str, int] = {}
        """Apps of which it was looked whether another worker has given them a breaker, and what was the latest then."""
        self._settings = BreakerSettings()
        self._shared = False
        self._own: dict[str, Breaker] = {}

    def __repr__(self) -> str:
        own = "".join(f" {tenant}: {breaker!r}" for tenant, breaker in self._own.items())
        return f"<Admission {self.common!r}{own}>"

    def configure(self, settings: BreakerSettings, *, shared: bool) -> None:
        """Work by other settings from now on; the states stay."""
        self._settings = settings
        self._shared = shared
        for breaker in (self.common, *self._own.values()):
            breaker.configure(settings)

    def admits_all(self, now: float) -> bool:
        """Whether every hook may pass, whosever it is."""
        return self.common.state(now) is State.CLOSED and all(
            breaker.state(now) is State.CLOSED for breaker in self._own.values()
        )

    def is_ejected(self, now: float) -> bool:
        """Whether it is shut to everyone, until a probe finds it well."""
        return self.common.state(now) is not State.CLOSED

    def ejected_apps(self, now: float) -> dict[str, float]:
        """The apps that it is closed to on their own account, each with the loop time since which it is."""
        return {
            tenant: breaker.since for tenant, breaker in self._own.items() if breaker.state(now) is not State.CLOSED
        }

    def is_ejected_for(self, tenant: str, now: float) -> bool:
        """Whether it is closed to this app on the app's own account."""
        own = self._own.get(tenant)
        return own is not None and own.state(now) is not State.CLOSED

    def restore(self, now: float) -> None:
        """Let everyone pass again, by decree."""
        self.common.restore(now)
        for breaker in self._own.values():
            _forget_failures(breaker, now)
        self._own.clear()

    def ready(self, tenant: str, now: float) -> bool:
        """Whether ``admit`` would let a hook of this tenant's pass; changes nothing."""
        own = self._own_breaker(tenant)
        return self.common.ready(now) and (own is None or own.ready(now))

    def admit(self, tenant: str, now: float) -> Ticket | None:
        """A ticket for a hook of this tenant's, or None."""
        own = self._own_breaker(tenant)
        if own is not None and not own.ready(now):
            return None
        common = self.common.admit(now)
        if common is None:
            return None
        return Ticket(common, None if own is None else own.admit(now))

    def admit_last(self, tenant: str, now: float) -> Ticket | None:
        """As ``admit``, for when every target is ejected: a probe is due each ``open_for``."""
        own = self._own_breaker(tenant)
        mine = None if own is None else own.admit_last(now)
        if own is not None and mine is None:
            return None
        common = self.common.admit_last(now)
        if common is not None:
            return Ticket(common, mine)
        if own is not None and mine is not None:
            own.abandoned(mine, now)
        return None

    def succeeded(self, ticket: Ticket, tenant: str, now: float) -> None:
        """The target answered."""
        self.common.succeeded(ticket.common, now)
        if self._own and (own := self._own.pop(tenant, None)) is not None:
            _forget_failures(own, now)

    def abandoned(self, ticket: Ticket, tenant: str, now: float) -> None:
        """The hook ended without a word on the target."""
        self.common.abandoned(ticket.common, now)
        own = self._own.get(tenant)
        if own is not None and ticket.own is not None:
            own.abandoned(ticket.own, now)

    def failed(
        self,
        ticket: Ticket,
        tenant: str,
        now: float,
        *,
        reached: bool,
        hard: bool,
        silent_since: float = math.inf,
        patience: float = 0.0,
    ) -> EjectionScope:
        """The hook failed there; *reached* = the target had been connected to. Returns to whom this closed it."""
        own = self._own.get(tenant)
        if not self._shared or not reached:
            if own is not None and ticket.own is not None:
                own.abandoned(ticket.own, now)
            opened = self.common.failed(ticket.common, now, hard=hard, silent_since=silent_since, patience=patience)
            return EjectionScope.ALL if opened else EjectionScope.NONE
        if self.common.state(now) is not State.CLOSED and self.common.failed(ticket.common, now, hard=hard):
            return EjectionScope.ALL  # a probe for everyone that was left without an answer
        if own is None:
            if len(self._own) >= _MAX_TENANTS:
                self.leave()
            own = self._set_own(
                tenant, None if self._shared_breaker is None else self._shared_breaker.for_app(tenant, create=True)
            )
        mine = ticket.own if ticket.own is not None else own.admit(now)
        opened = mine is not None and own.failed(mine, now, hard=hard)
        if opened and self._shared_breaker is not None:
            self._shared_breaker.note_app()
        return EjectionScope.APP if opened else EjectionScope.NONE

    def leave(self) -> None:
        """Forget the apps' own breakers; those of other workers stay."""
        for breaker in self._own.values():
            if isinstance(breaker, SharedBreaker):
                breaker.leave()
        self._own.clear()

    def _own_breaker(self, tenant: str) -> Breaker | None:
        """The app's own breaker, if this worker or another has given it one."""
        own = self._own.get(tenant)
        if own is not None or self._shared_breaker is None or not self._shared:
            return own
        changed = self._shared_breaker.apps_changed
        if self._looked_up.get(tenant, 0) == changed:
            return None
        if len(self._looked_up) >= _MAX_TENANTS:
            self._looked_up.clear()
        self._looked_up[tenant] = changed
        found = self._shared_breaker.for_app(tenant, create=False)
        return None if found is None else self._set_own(tenant, found)

    def _set_own(self, tenant: str, breaker: Breaker | None) -> Breaker:
        own = self._own[tenant] = breaker or Breaker()
        own.configure(self._settings)
        return own


def _forget_failures(breaker: Breaker, now: float) -> None:
    """The app's hooks are answered: so every worker's are."""
    if isinstance(breaker, SharedBreaker):
        breaker.forget(now)
