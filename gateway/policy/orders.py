"""What operators have ordered for a whole fleet: a map that every replica merges to the same, whatever it hears when.

Each subject (a target, a pause of the spool) has one order, in force or ended. The last one wins: the one with the
greatest time, and of two with the same time the one whose giver's name comes last; so the order of arrival, repeats
and losses that are made up for later make no difference. An order is never given a time before the one that it
replaces, so that of two orders given one after the other the second wins even where the clocks of replicas differ by
minutes. An order that has ended stays as a mark for ``KEEP_ENDED``, so that no replica that was away brings it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

KEEP_ENDED: Final = 7 * 86400
"""Seconds for which an order that has ended is remembered."""
MAX_ORDERS: Final = 20_000
"""Orders that a book holds; of more, those from elsewhere are ignored."""
_TARGET: Final = "target"
_SPOOL: Final = "spool"


class Order(msgspec.Struct, frozen=True):
    """What was ordered for one subject."""

    at: int
    """Milliseconds of Unix time, by the clock of the replica where it was given, and later than what it replaces."""
    by: str
    """The name of that replica."""
    on: bool
    """Whether it is in force; False: it has ended (restored, resumed)."""

    def beats(self, other: Order | None) -> bool:
        """Whether this one holds and the other does not. Of two that are equal, neither does."""
        return other is None or (self.at, self.by, self.on) > (other.at, other.by, other.on)

    def is_expired(self, now: float) -> bool:
        """Whether it ended so long ago that it can be forgotten; *now* is Unix time in seconds."""
        return not self.on and self.at < (now - KEEP_ENDED) * 1000


class TargetOrder(msgspec.Struct, frozen=True):
    """The subject of an ejection: a target of an upstream."""

    upstream: str
    url: str


class SpoolOrder(msgspec.Struct, frozen=True):
    """The subject of a pause of redelivery: to an upstream, or of an app, or of all events."""

    upstream: str | None
    app: str | None


Subject = TargetOrder | SpoolOrder

_encode: Final = msgspec.json.Encoder().encode
_decode_order: Final = msgspec.json.Decoder(Order).decode
_decode_subject: Final = msgspec.json.Decoder(tuple[str, str | None, str | None]).decode


def write_subject(subject: Subject) -> str:
    """The subject as the key under which its order is kept."""
    match subject:
        case TargetOrder(upstream, url):
            parts: tuple[str, str | None, str | None] = (_TARGET, upstream, url)
        case SpoolOrder(upstream, app):
            parts = (_SPOOL, upstream, app)
    return _encode(parts).decode()


def read_subject(key: str) -> Subject | None:
    """The subject of a key; None for what this version does not know."""
    try:
        kind, first, second = _decode_subject(key)
    except (msgspec.DecodeError, ValueError):
        return None
    if kind == _TARGET and first is not None and second is not None:
        return TargetOrder(first, second)
    return SpoolOrder(first, second) if kind == _SPOOL else None


def write_order(order: Order) -> bytes:
    """The order as it is kept."""
    return _encode(order)


def read_order(data: bytes) -> Order | None:
    """The order that was kept; None for what is not one."""
    try:
        return _decode_order(data)
    except (msgspec.DecodeError, ValueError):
        return None


class OrderBook:
    """The orders that one replica knows, by the key of their subject. Times in Unix seconds, passed in."""

    def __init__(self) -> None:
        self._orders: dict[str, Order] = {}

    def __repr__(self) -> str:
        return f"<OrderBook {sum(order.on for order in self._orders.values())} in force, {len(self._orders)} known>"

    @property
    def orders(self) -> Mapping[str, Order]:
        """All of them, those that have ended too."""
        return self._orders

    def give(self, key: str, *, on: bool, now: float, by: str) -> Order:
        """Give an order here: it replaces the one that is known."""
        known = self._orders.get(key)
        at = int(now * 1000)
        order = self._orders[key] = Order(at if known is None else max(at, known.at + 1), by, on)
        return order

    def merge(self, key: str, order: Order) -> bool:
        """Take note of an order given elsewhere; returns whether it is news: it replaces what was known."""
        known = self._orders.get(key)
        if not order.beats(known) or (known is None and len(self._orders) >= MAX_ORDERS):
            return False
        self._orders[key] = order
        return True

    def lacking(self, theirs: Mapping[str, Order]) -> list[str]:
        """The keys whose orders another book lacks, or has only older ones for."""
        return [key for key, order in self._orders.items() if order.beats(theirs.get(key))]

    def expired(self, now: float) -> list[str]:
        """The keys of orders that ended so long ago that they can be forgotten."""
        return [key for key, order in self._orders.items() if order.is_expired(now)]

    def forget(self, keys: Iterable[str]) -> None:
        """Forget these orders."""
        for key in keys:
            self._orders.pop(key, None)
