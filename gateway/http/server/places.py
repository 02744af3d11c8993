"""Who may hold a connection: a place each for those that may send hooks, and a few for everybody else.

A stranger (an address that ``server.allow_from`` does not list) must never take a media server's place: strangers have
a small pool of their own, of which no single address holds more than a quarter. TLS handshakes under way are bounded in
the same way. One media server is one address, so listed addresses are not limited by address.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

Client = tuple[str, int] | None
"""A peer's address and port; None on a unix socket."""

_ONE_OF: Final = 4
"""One address that is not listed holds at most one in four of a bounded pool."""
_FEWEST_HANDSHAKES: Final = 64
_MOST_HANDSHAKES: Final = 4096
"""Each takes some 50 kB of memory while it lasts."""
_IPV6_SITE: Final = 64
"""Bits of an IPv6 address that tell one site from another (RFC 4291, section 2.5.4)."""


class PoolSizes(NamedTuple):
    """How many connections each kind of client may hold."""

    members: int
    """Clients that may send hooks."""
    excess: int
    """Clients beyond these that are given time to read why they are refused."""
    strangers: int
    """Clients that may not send hooks."""

    @property
    def handshakes(self) -> int:
        """TLS handshakes under way at once."""
        return min(_MOST_HANDSHAKES, max(_FEWEST_HANDSHAKES, self.members))


class TargetState(Enum):
    """What a connection's peer may expect."""

    MEMBER = "member"
    """It may send hooks."""
    EXCESS = "excess"
    """It might, but as many connections are open as there may be: it is told so."""
    STRANGER = "stranger"
    """It may not: it is told so, and holds none of the others' places."""


class Place:
    """One connection's place; ``leave`` gives it back, however often it is called."""

    __slots__ = ("_client", "_handshake", "_places", "standing")

    def __init__(self, places: Places, standing: TargetState, client: Client) -> None:
        self._places = places
        self._handshake = False
        self._client = client
        self.standing: TargetState | None = standing
        """None once it has been left."""

    def __repr__(self) -> str:
        return f"<Place {self.standing} {self.site}>"

    @property
    def site(self) -> str:
        """What is counted as its peer's address: worked out where it is needed, for a member's seldom is."""
        return site_of(self._client)

    def leave(self) -> None:
        """The connection has ended."""
        self.end_handshake()
        if self.standing is not None:
            self._places.left(self.standing, self._client)
            self.standing = None

    def begin_handshake(self, sizes: PoolSizes, *, listed: bool) -> bool:
        """Whether its TLS handshake may begin; *listed*: the address is one that the configuration names."""
        if self.standing is TargetState.STRANGER:
            return True  # bounded by the strangers' own places
        self._handshake = self._places.handshake_began(sizes, self.site, listed=listed)
        return self._handshake

    def end_handshake(self) -> None:
        """The handshake is over, one way or the other."""
        if self._handshake:
            self._handshake = False
            self._places.handshake_ended(self.site)


class Places:
    """All places of one process's hook port."""

    def __init__(self) -> None:
        self._held: Counter[TargetState] = Counter()
        self._strangers: Counter[str] = Counter()
        self._handshakes: Counter[str] = Counter()
        self.on_change: Callable[[int], None] | None = None
        """Told how many connections hold a place whenever that changes."""

    def __repr__(self) -> str:
        return f"<Places {dict(self._held)}, {self._handshakes.total()} handshakes>"

    @property
    def held(self) -> int:
        """Connections that hold a place."""
        return self._held.total()

    def count(self, standing: TargetState) -> int:
        """Connections of this standing."""
        return self._held[standing]

    def take(self, sizes: PoolSizes, client: Client, *, allowed: bool) -> Place | None:
        """A place for a new connection; None where it can only be closed. *allowed*: it may send hooks."""
        standing = self._standing(sizes, client, allowed=allowed)
        if standing is None:
            return None
        self._held[standing] += 1
        if standing is TargetState.STRANGER:
            self._strangers[site_of(client)] += 1
        self._tell()
        return Place(self, standing, client)

    def _standing(self, sizes: PoolSizes, client: Client, *, allowed: bool) -> TargetState | None:
        if not allowed:
            mine, most = self._strangers[site_of(client)], _at_most(sizes.strangers)
            has_room = self._held[TargetState.STRANGER] < sizes.strangers and mine < most
            return TargetState.STRANGER if has_room else None
        if self._held[TargetState.MEMBER] < sizes.members:
            return TargetState.MEMBER
        return TargetState.EXCESS if self._held[TargetState.EXCESS] < sizes.excess else None

    def left(self, standing: TargetState, client: Client) -> None:
        """A place is free again (the place itself says so)."""
        self._held[standing] -= 1
        if standing is TargetState.STRANGER:
            _take_one(self._strangers, site_of(client))
        self._tell()

    def handshake_began(self, sizes: PoolSizes, site: str, *, listed: bool) -> bool:
        """Count one more handshake under way, unless there are too many (the place asks)."""
        if self._handshakes.total() >= sizes.handshakes:
            return False
        if not listed and self._handshakes[site] >= _at_most(sizes.handshakes):
            return False
        self._handshakes[site] += 1
        return True

    def handshake_ended(self, site: str) -> None:
        """One is over (the place says so)."""
        _take_one(self._handshakes, site)

    def _tell(self) -> None:
        if self.on_change is not None:
            self.on_change(self._held.total())


def site_of(client: Client) -> str:
    """What is counted as one address: an IPv4 address, an IPv6 network of 64 bits, or all unix sockets together."""
    if client is None:
        return "unix"
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0])
    except ValueError:
        return client[0]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_SITE), strict=False))


def _at_most(pool: int) -> int:
    return max(1, pool // _ONE_OF)


def _take_one(counter: Counter[str], key: str) -> None:
    if counter[key] > 1:
        counter[key] -= 1
    else:
        del counter[key]
