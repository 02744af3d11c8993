"""The limits that hold for the fleet, at one gateway: demand into its heartbeats, shares out of them.

While the state is away, the last shares stay: nobody takes a whole limit because it is alone with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any, Final

from gateway.fleet.local import Local
from gateway.fleet.membership import Member, Membership
from gateway.fleet.shares import Entry, Kind, Share, Shares, Sharing, kind_of

logger = logging.getLogger(__name__)

_MEASURE_EVERY: Final = 0.5
"""Seconds at least between two measurements: an urgent heartbeat has nothing new to say of demand."""
_MEASURE_LIMIT: Final = 0.5
"""Seconds for the workers to say what they measured; a heartbeat waits no longer."""
_APPLY_LIMIT: Final = 0.3
"""Seconds for which a heartbeat waits until the shares that it publishes are in force."""
_URGENT: Final = 2
"""Urgent heartbeats in a row, at most."""
_START_LIMIT: Final = 3.0
"""Seconds after the start at which a state that was never reached is reported."""
_SHOWN: Final = 20


class FleetLimits:
    """Divides limits with the other gateways. Build it inside a running loop, before the membership starts."""

    def __init__(self, membership: Membership, local: Local) -> None:
        self._membership = membership
        self._local = local
        self._loop = asyncio.get_running_loop()
        self._sharing = Sharing(membership.id)
        self._applied: Shares | None = None
        self._applying: asyncio.Task[None] | None = None
        self._measure_from = 0.0
        self._urgent = 0
        self._reporting: asyncio.TimerHandle | None = None
        self._reported = False
        self.degraded = True
        """Whether the shares are those of an earlier time, because the state is away."""
        membership.entries = self._entries
        membership.on_beat.append(self._divide)
        membership.on_change.append(self._note_change)

    def __repr__(self) -> str:
        return f"<FleetLimits {self._sharing!r}{', degraded' if self.degraded else ''}>"

    @property
    def shares(self) -> Shares:
        """This gateway's shares."""
        return self._sharing.shares

    def start(self) -> None:
        """Report it if there is no heartbeat soon."""
        self._reporting = self._loop.call_later(_START_LIMIT, self._report_start)

    async def aclose(self) -> None:
        """End; the shares stay in force."""
        if self._reporting is not None:
            self._reporting.cancel()
        if self._applying is not None:
            self._applying.cancel()
            await asyncio.gather(self._applying, return_exceptions=True)

    def status(self) -> dict[str, Any]:
        """What ``/api/status`` says of the limits; the shares of connections are said of each target."""
        shares = self.shares
        listed = [(key, share) for key, share in shares.listed.items() if kind_of(key) is not Kind.CONNECTIONS]
        listed.sort(key=lambda item: (-item[1].limit, item[0]))
        return {
            "degraded": self.degraded,
            "divided_by": shares.divisor,
            "shares": [_share_json(key, share) for key, share in listed[:_SHOWN]],
        }

    # --- heartbeats ---

    async def _entries(self) -> dict[str, Entry]:
        """What this gateway publishes of its limits in the next heartbeat."""
        if self._applying is not None:
            await asyncio.wait({self._applying}, timeout=_APPLY_LIMIT)  # what it gave up is in use until then
        now = self._loop.time()
        if now >= self._measure_from:
            self._measure_from = now + _MEASURE_EVERY
            self._urgent = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MEASURE_LIMIT):
                    self._sharing.measure(await self._local.demand(), self._loop.time())
        return self._sharing.entries()

    def _divide(self, members: Mapping[str, Member]) -> None:
        now = self._loop.time()
        if self.degraded:
            if self._reported:
                logger.info("the state is back: limits are divided among the gateways of the fleet again")
            self.degraded = self._reported = False
            self._sharing.connected(now)
        shares = self._sharing.divide({member.id: member.limits for member in members.values()}, now)
        if shares != self._applied and (self._applying is None or self._applying.done()):
            self._applying = self._loop.create_task(self._apply(shares))
        if self._sharing.is_urgent and self._urgent < _URGENT:
            self._urgent += 1
            self._membership.beat_soon()

    async def _apply(self, shares: Shares) -> None:
        """Have all processes use these shares; where one does not answer, the next heartbeat tries again."""
        if await self._local.apply_shares(shares):
            self._applied = shares

    # --- while the state is away ---

    def _note_change(self, _members: Mapping[str, Member]) -> None:
        if self._membership.stale and not self.degraded:
            self.degraded = self._reported = True
            logger.warning("the state is away: this gateway keeps its last shares of the limits")

    def _report_start(self) -> None:
        self._reporting = None
        if self.degraded and not self._reported:
            self._reported, divisor = True, self.shares.divisor
            logger.warning(
                "the state is away: until it is there, this gateway has one part in %d of each limit", divisor
            )


def _share_json(key: str, share: Share) -> dict[str, Any]:
    kind, _, app = key.partition(":")
    setting = "rate_limit" if kind == Kind.RATE else "max_in_flight"
    return {"app": app, "setting": setting, "share": round(share.share, 3), "limit": share.limit}
