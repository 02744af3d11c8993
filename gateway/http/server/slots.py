"""Connection slots of the hook port: many for clients that may send hooks, a few for all others.

A stranger (an address that ``server.allow_from`` does not list) must never take a media server's slot: strangers have
a small pool of their own, of which no single address holds more than a quarter. Running TLS handshakes are limited in
the same way. One media server is one address, so listed addresses have no limit per address.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from gateway.policy.access import Client

_ONE_OF: Final = 4
"""An address that is not listed holds at most one in four slots of a pool."""
_FEWEST_HANDSHAKES: Final = 64
_MOST_HANDSHAKES: Final = 4096
"""Each takes about 50 kB of memory while it lasts."""
_IPV6_SITE: Final = 64
"""Bits of an IPv6 address that identify a site (RFC 4291, section 2.5.4)."""


class SlotLimits(NamedTuple):
    """How many connections each kind of client may hold."""

    members: int
    """Clients that may send hooks."""
    excess: int
    """Further such clients, which are given time to read why they are refused."""
    strangers: int
    """Clients that may not send hooks."""

    @property
    def handshakes(self) -> int:
        """Maximum number of running TLS handshakes."""
        return min(_MOST_HANDSHAKES, max(_FEWEST_HANDSHAKES, self.members))


class ClientKind(Enum):
    """What a connection's client may do."""

    MEMBER = "member"
    """It may send hooks."""
    EXCESS = "excess"
    """It may, but the connection limit is reached: it gets an answer that says so."""
    STRANGER = "stranger"
    """It may not send hooks: it gets an answer that says so, and takes no slot from the others."""


class Slot:
    """One connection's slot; ``leave`` gives it back and may be called more than once."""

    __slots__ = ("_handshake", "_slots", "client", "kind")

    def __init__(self, slots: Slots, kind: ClientKind, client: Client) -> None:
        self._slots = slots
        self._handshake = False
        self.client = client
        self.kind: ClientKind | None = kind
        """None once it was given back."""

    def __repr__(self) -> str:
        return f"<Slot {self.kind} {self.site}>"

    @property
    def site(self) -> str:
        """The client's address as it is counted; computed on demand, because a member's is seldom needed."""
        return client_site(self.client)

    def leave(self) -> None:
        """The connection has ended."""
        self.end_handshake()
        if self.kind is not None:
            self._slots.release(self.kind, self.client)
            self.kind = None

    def begin_handshake(self, sizes: SlotLimits, *, listed: bool) -> bool:
        """Whether its TLS handshake may begin; *listed*: the address is one that the configuration names."""
        if self.kind is ClientKind.STRANGER:
            return True  # limited by the strangers' own slots
        self._handshake = self._slots.begin_handshake(sizes, self.site, listed=listed)
        return self._handshake

    def end_handshake(self) -> None:
        """The handshake is over, successful or not."""
        if self._handshake:
            self._handshake = False
            self._slots.end_handshake(self.site)


class Slots:
    """All slots of one process's hook port."""

    def __init__(self) -> None:
        self._held: Counter[ClientKind] = Counter()
        self._strangers: Counter[str] = Counter()
        self._handshakes: Counter[str] = Counter()
        self.on_change: Callable[[int], None] | None = None
        """Called with the number of connections that hold a slot whenever it changes."""

    def __repr__(self) -> str:
        return f"<Slots {dict(self._held)}, {self._handshakes.total()} handshakes>"

    @property
    def held(self) -> int:
        """Connections that hold a slot."""
        return self._held.total()

    def count(self, kind: ClientKind) -> int:
        """Connections of clients of this kind."""
        return self._held[kind]

    def take(self, sizes: SlotLimits, client: Client, *, allowed: bool) -> Slot | None:
        """A slot for a new connection; None if it can only be closed. *allowed*: it may send hooks."""
        kind = self._kind(sizes, client, allowed=allowed)
        if kind is None:
            return None
        self._held[kind] += 1
        if kind is ClientKind.STRANGER:
            self._strangers[client_site(client)] += 1
        self._report()
        return Slot(self, kind, client)

    def _kind(self, sizes: SlotLimits, client: Client, *, allowed: bool) -> ClientKind | None:
        if not allowed:
            mine, most = self._strangers[client_site(client)], _share(sizes.strangers)
            has_room = self._held[ClientKind.STRANGER] < sizes.strangers and mine < most
            return ClientKind.STRANGER if has_room else None
        if self._held[ClientKind.MEMBER] < sizes.members:
            return ClientKind.MEMBER
        return ClientKind.EXCESS if self._held[ClientKind.EXCESS] < sizes.excess else None

    def release(self, kind: ClientKind, client: Client) -> None:
        """A slot is free again; called by the slot."""
        self._held[kind] -= 1
        if kind is ClientKind.STRANGER:
            _decrement(self._strangers, client_site(client))
        self._report()

    def begin_handshake(self, sizes: SlotLimits, site: str, *, listed: bool) -> bool:
        """Count one more running handshake, unless there are too many; called by the slot."""
        if self._handshakes.total() >= sizes.handshakes:
            return False
        if not listed and self._handshakes[site] >= _share(sizes.handshakes):
            return False
        self._handshakes[site] += 1
        return True

    def end_handshake(self, site: str) -> None:
        """A handshake is over; called by the slot."""
        _decrement(self._handshakes, site)

    def _report(self) -> None:
        if self.on_change is not None:
            self.on_change(self._held.total())


def client_site(client: Client) -> str:
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


def _share(pool: int) -> int:
    return max(1, pool // _ONE_OF)


def _decrement(counter: Counter[str], key: str) -> None:
    if counter[key] > 1:
        counter[key] -= 1
    else:
        del counter[key]
