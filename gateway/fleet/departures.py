"""Gateways that have left the fleet: those that said so are forgotten, those that only fell silent are lost, and named.

A gateway that ends in an orderly way publishes its id before its record goes. One whose record ran out without that
was killed, hangs, or cannot reach the state any more. It stays lost until a gateway of its name is back, or an hour.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from gateway.fleet.link import Link
from gateway.fleet.membership import Member, Membership

logger = logging.getLogger(__name__)

REMEMBER: Final = 3600.0
"""Seconds for which a lost gateway is named."""
_SETTLE: Final = 2.0
"""Seconds after which one that fell silent is reported: all are back with the next beat where the state was emptied."""
_MAX_LOST: Final = 100


class Lost(msgspec.Struct):
    """A gateway that has fallen silent."""

    member: Member
    """As its last record said."""
    since: float
    """Unix time at which it was missed."""
    reported: bool = False
    """Whether the log has it."""


class Departures:
    """Watches who goes. Build it inside a running loop."""

    def __init__(self, link: Link, membership: Membership, clock: Callable[[], float] = time.time) -> None:
        """*clock*: Unix time in seconds."""
        self._link = link
        self._id = membership.id
        self._clock = clock
        self._channel = link.key("left")
        self._known: Mapping[str, Member] = {}
        self._left: dict[str, float] = {}
        self._lost: dict[str, Lost] = {}
        link.subscribe(self._channel, self._receive)
        membership.on_beat.append(self.look)

    def __repr__(self) -> str:
        return f"<Departures {len(self._lost)} lost>"

    @property
    def lost(self) -> list[Lost]:
        """Those that are lost, the last one first."""
        return sorted(self._lost.values(), key=lambda lost: -lost.since)

    def leave(self) -> None:
        """This gateway ends in an orderly way."""
        self._link.send("PUBLISH", self._channel, self._id)

    def look(self, members: Mapping[str, Member]) -> None:
        """Compare the members after a heartbeat with those before it."""
        now = self._clock()
        for gone in self._known.keys() - members.keys():
            if gone not in self._left and len(self._lost) < _MAX_LOST:
                self._lost[gone] = Lost(self._known[gone], now)
        self._known = dict(members)
        names = {member.description.name for member in members.values()}
        for each in list(self._lost):
            lost = self._lost[each]
            if lost.member.description.name in names or each in self._left or now - lost.since > REMEMBER:
                del self._lost[each]
                if lost.reported:
                    name = lost.member.description.name
                    fields = {"event": "replica_back", "replica": name}
                    logger.info("gateway %s is not lost any more", name, extra={"fields": fields})
            elif not lost.reported and now - lost.since >= _SETTLE:
                lost.reported = True
                name = lost.member.description.name
                fields = {"event": "replica_lost", "replica": name}
                words = "gateway %s is lost: it has shown no sign of life"
                logger.warning(words, name, extra={"fields": fields})
        for each in [each for each, at in self._left.items() if now - at > REMEMBER]:
            del self._left[each]

    def _receive(self, data: bytes) -> None:
        self._left[data.decode("ascii", "replace")] = self._clock()
        while len(self._left) > _MAX_LOST * 10:
            del self._left[next(iter(self._left))]
