"""How replicas divide the limits that hold for the whole fleet: pure, clock passed in.

Each replica publishes, for each limit that matters now, how much it could use (its demand) and how much it holds. Every
replica computes the same division from the same published numbers:

- what replicas demand is served from the least upwards (max-min fair), so an idle replica's part goes to the busy ones;
- what nobody demands is divided evenly;
- each keeps at least one place, or a small part of a rate, so that it can begin at once.

A replica shrinks its share at once, and grows it only into what all others have already published as given up. So their
sum stays within the limit while numbers travel, whatever the order in which they arrive.

A limit of which no replica demands more than half of an even share is not published at all: each has an even share.
"""

from __future__ import annotations

import heapq
import math
import zlib
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Final

import msgspec

RATE_RESERVE: Final = 0.08
"""The part of a rate that is handed out on top, divided evenly among the replicas whose demand is met."""
_PLACES_ON_TOP: Final = 0.05
"""The greatest part of a ``max_in_flight`` that is handed out on top, for idle replicas' one place each."""
_START_DIVISOR: Final = 2
"""Before its first heartbeat a replica does not know the others: it takes half of each limit."""
_SETTLE_TIME: Final = 2.5
"""Seconds after a (new) connection to the state in which no share grows: others may still have to publish theirs."""
_RATE_WINDOW: Final = (3.0, 60.0)
"""The shortest and the longest time over which offered hooks are averaged, in seconds."""
_HOOKS_PER_WINDOW: Final = 5.0
"""A slower limit is averaged for longer: for about as long as it takes this many hooks."""
_FALL: Final = 0.8
"""What is left of a peak of hooks or connections after a second without another."""
_SURPRISE: Final = 3.0
"""Standard deviations beyond which a measured rate is a change, not chance, and takes effect at once."""
MAX_DIVIDED: Final = 200
"""Limits divided by demand at once; with twenty replicas that takes some 7 ms. Further ones are divided evenly."""
_NOTABLE: Final = 0.02
"""The part of a rate by which a share must change for the others to be told before the next heartbeat."""
_NEARLY: Final = 1e-9


class Kind(StrEnum):
    """What a limit limits."""

    RATE = "rate"
    """``rate_limit`` of an app, in hooks a second."""
    IN_FLIGHT = "in_flight"
    """``max_in_flight`` of an app."""
    CONNECTIONS = "connections"
    """``max_connections`` to one target of an upstream."""


def limit_key(kind: Kind, name: str) -> str:
    """The name of a limit among replicas."""
    return f"{kind}:{name}"


def kind_of(key: str) -> Kind | None:
    """The kind of the limit with this key; None for one that another version of the gateway has."""
    kind = key.partition(":")[0]
    return Kind(kind) if kind in _KINDS else None


_KINDS: Final = frozenset(Kind)


class Measured(msgspec.Struct, frozen=True, array_like=True):
    """What one replica measured for one limit in about a second."""

    limit: float
    """As configured, for the fleet."""
    wanted: float
    """Hooks offered a second, refused ones included; or the greatest number of places that could have been used."""
    used: float = 0.0
    """Places in use now; 0 for rates."""

    def plus(self, other: Measured) -> Measured:
        """What two processes of one gateway measured together."""
        return Measured(min(self.limit, other.limit), self.wanted + other.wanted, self.used + other.used)


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What a replica publishes for one limit."""

    limit: float
    demand: float
    held: float
    """Its share, or what it still uses beyond it."""

    @property
    def is_usable(self) -> bool:
        """Whether the numbers make sense: a replica with a defect must not keep the others from dividing."""
        return 0.0 < self.limit < math.inf and 0.0 <= self.demand < math.inf and 0.0 <= self.held < math.inf


class Share(msgspec.Struct, frozen=True, array_like=True):
    """A replica's part of a limit."""

    share: float
    limit: float
    """The limit that it is a part of: after a reload, the same part of the new one holds."""


class Shares(msgspec.Struct, frozen=True):
    """A replica's shares of all limits."""

    divisor: int = 1
    """Every limit that is not listed is divided by this."""
    listed: Mapping[str, Share] = {}

    def part(self, key: str, limit: float) -> float:
        """This replica's part of a limit as configured now; places are whole, and at least one."""
        share, kind = self.listed.get(key), kind_of(key)
        if share is None:
            return even_share(kind, limit, self.divisor)
        return scale_part(kind, share.share, share.limit, limit)


def even_share(kind: Kind | None, limit: float, replicas: int) -> float:
    """The share of each replica where all are equal."""
    return limit / replicas if kind is Kind.RATE else float(max(1, int(limit) // replicas))


def divide(kind: Kind, limit: float, demands: Mapping[str, float]) -> Mapping[str, float]:
    """The share of each replica, by its id. The order of *demands* does not matter."""
    even = even_share(kind, limit, len(demands))
    if not is_contested(even, demands.values()):
        return dict.fromkeys(demands, even)
    ordered = {replica: demands[replica] for replica in sorted(demands)}
    return _divide_rate(limit, ordered) if kind is Kind.RATE else _divide_places(kind, int(limit), ordered)


def is_contested(even: float, demands: Iterable[float]) -> bool:
    """Whether any replica demands enough of a limit that it is to be divided by demand."""
    return max(demands, default=0.0) > even / 2.0


def _divide_rate(limit: float, demands: Mapping[str, float]) -> Mapping[str, float]:
    spare = limit - sum(demands.values())
    bonus = max(spare, RATE_RESERVE * limit) / len(demands)
    level = math.inf if spare >= 0.0 else _water_level(demands.values(), limit)
    return {replica: min(demand + bonus, level) for replica, demand in demands.items()}


def _divide_places(kind: Kind, limit: int, demands: Mapping[str, float]) -> Mapping[str, float]:
    """Whole places; one for each replica comes first."""
    replicas = len(demands)
    on_top = 0
    if kind is Kind.IN_FLIGHT:
        on_top = min(int(limit * _PLACES_ON_TOP), sum(demand < 1.0 for demand in demands.values()))
    left = limit + on_top - replicas
    if left <= 0:
        return dict.fromkeys(demands, 1.0)
    more = {replica: max(0.0, math.ceil(demand - _NEARLY) - 1.0) for replica, demand in demands.items()}
    spare = left - sum(more.values())
    if spare >= 0.0:
        parts = {replica: demand + spare / replicas for replica, demand in more.items()}
    else:
        level = _water_level(more.values(), left)
        parts = {replica: min(demand, level) for replica, demand in more.items()}
    return {replica: 1.0 + places for replica, places in _whole(parts, left).items()}


def _water_level(demands: Collection[float], limit: float) -> float:
    """The greatest share, where the demands are more than the limit: smaller demands are met."""
    left, count = limit, len(demands)
    for demand in sorted(demands):
        if demand * count >= left:
            break
        left -= demand
        count -= 1
    return left / count


def _whole(parts: Mapping[str, float], total: int) -> Mapping[str, int]:
    """Whole numbers for these parts, of at most *total* in sum: rounded down, then up where most was lost."""
    floors = {replica: math.floor(part + _NEARLY) for replica, part in parts.items()}
    left = total - sum(floors.values())
    for replica in sorted(parts, key=lambda each: (floors[each] - parts[each], each)):
        if left <= 0 or parts[replica] - floors[replica] <= _NEARLY:
            break
        floors[replica] += 1
        left -= 1
    return floors


class _Demand:
    """One limit's demand here, smoothed."""

    __slots__ = ("limit", "rank", "used", "value")

    def __init__(self, key: str) -> None:
        self.rank = _rank(key)
        self.limit = self.value = self.used = 0.0

    def add(self, kind: Kind, measured: Measured, seconds: float) -> None:
        """Add what was measured in the last *seconds*."""
        self.limit, self.used, wanted = measured.limit, measured.used, measured.wanted
        if kind is not Kind.RATE:
            self.value = max(wanted, self.value * _FALL**seconds)
            return
        window = min(max(_HOOKS_PER_WINDOW / self.limit, _RATE_WINDOW[0]), _RATE_WINDOW[1])
        difference = wanted - self.value
        if abs(difference) > _SURPRISE * math.sqrt(max(self.value, wanted, 1.0) / seconds):
            self.value = wanted
        else:
            self.value += difference * (1.0 - math.exp(-seconds / window))

    @property
    def is_over(self) -> bool:
        """Whether it need not be remembered."""
        return not self.used and self.value < min(0.5, self.limit * 0.01)


class _Held:
    """This replica's part of one limit that is divided by demand."""

    __slots__ = ("limit", "planned", "share")

    def __init__(self, share: float, limit: float) -> None:
        self.share = self.planned = share
        """*planned* is what it grows to once the others know; never less than *share*."""
        self.limit = limit

    def scale(self, kind: Kind, limit: float) -> None:
        """Become the same part of another limit."""
        if limit != self.limit:
            self.share = self.planned = scale_part(kind, self.share, self.limit, limit)
            self.limit = limit


class Sharing:
    """One replica's side of it: what it publishes, and the shares that it has.

    ``measure`` once per heartbeat; then publish ``entries()`` and ``divide`` what all have published, and once more
    while ``is_urgent``.
    """

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._demands: dict[str, _Demand] = {}
        self._held: dict[str, _Held] = {}
        self._divisor = _START_DIVISOR
        self._measured_at: float | None = None
        self._grows_from = math.inf
        self.is_urgent = False
        """Whether the others wait for what this replica gave up, or it for telling them what it takes."""

    def __repr__(self) -> str:
        return f"<Sharing {self.shares}>"

    @property
    def shares(self) -> Shares:
        """The shares in force."""
        return Shares(self._divisor, {key: Share(held.share, held.limit) for key, held in self._held.items()})

    def connected(self, now: float) -> None:
        """The state is there (again): what others hold is not known until they have published it."""
        self._grows_from = now + _SETTLE_TIME
        for held in self._held.values():
            held.planned = held.share

    def measure(self, measured: Mapping[str, Measured], now: float) -> None:
        """Take what was measured since the last time; a limit that is missing was not used."""
        seconds = 1.0 if self._measured_at is None else min(max(now - self._measured_at, 0.1), 60.0)
        self._measured_at = now
        for key in [key for key in self._demands if key not in measured]:
            demand, kind = self._demands[key], kind_of(key)
            if kind is not None:
                demand.add(kind, Measured(demand.limit, 0.0), seconds)
            if demand.is_over:
                del self._demands[key]
        for key, found in measured.items():
            kind, known = kind_of(key), self._demands.get(key)
            if kind is None:
                continue
            if known is None:
                known = self._demands[key] = _Demand(key)
            known.add(kind, found, seconds)

    def entries(self) -> dict[str, Entry]:
        """What to publish now."""
        entries = {}
        for key, held in self._held.items():
            demand = self._demands.get(key)
            value, used = (0.0, 0.0) if demand is None else (demand.value, demand.used)
            limit = held.limit if demand is None else demand.limit
            entries[key] = Entry(limit, float(f"{value:.4g}"), max(held.planned, used))
        more = []
        for key, demand in self._demands.items():
            even = even_share(kind_of(key), demand.limit, self._divisor)
            if key not in entries and is_contested(even, (demand.value,)):
                entry = Entry(demand.limit, float(f"{demand.value:.4g}"), max(even, demand.used))
                more.append((demand.rank, key, entry))
        room = max(0, MAX_DIVIDED - len(entries))
        entries.update((key, entry) for _, key, entry in heapq.nsmallest(room, more))
        return entries

    def divide(self, published: Mapping[str, Mapping[str, Entry]], now: float) -> Shares:
        """The shares from now on, by what all replicas have published, by their ids; this one's is among them."""
        if self._replica not in published:  # the state was emptied in just that moment
            published = {**published, self._replica: self.entries()}
        may_grow, replicas, before = now >= self._grows_from, len(published), self._divisor
        if replicas > before or may_grow:
            self._divisor = replicas
        self.is_urgent = False
        by_key: dict[str, dict[str, Entry]] = {key: {} for key in self._held}
        for replica, entries in published.items():
            for key, entry in entries.items():
                if entry.is_usable:
                    by_key.setdefault(key, {})[replica] = entry
        divided = by_key.keys() if len(by_key) <= MAX_DIVIDED else set(heapq.nsmallest(MAX_DIVIDED, by_key, key=_rank))
        for key, found in by_key.items():
            kind = kind_of(key)
            if kind is not None and (key in divided or key in self._held):
                demands = dict.fromkeys(published, 0.0)
                if key in divided:
                    demands.update((replica, entry.demand) for replica, entry in found.items())
                self._divide_one(key, kind, found, demands, before, may_grow=may_grow)
        return self.shares

    def _divide_one(
        self,
        key: str,
        kind: Kind,
        entries: Mapping[str, Entry],
        demands: Mapping[str, float],
        before: int,
        *,
        may_grow: bool,
    ) -> None:
        """Divide one limit; *before*: what limits that are not listed were divided by."""
        own = self._held.get(key)
        # While a changed limit reaches the replicas one by one, the lower one holds.
        limit = min((entry.limit for entry in entries.values()), default=0.0 if own is None else own.limit)
        even = even_share(kind, limit, len(demands))
        if own is None:
            own = _Held(even_share(kind, limit, before), limit)
        own.scale(kind, limit)
        shares = divide(kind, limit, demands)
        held = {replica: entries[replica].held if replica in entries else even for replica in demands}
        self._change(kind, own, shares, held, may_grow=may_grow)
        if abs(own.share - even) <= _NEARLY * limit and not is_contested(even, demands.values()):
            self._held.pop(key, None)
        else:
            self._held[key] = own

    def _change(
        self, kind: Kind, own: _Held, shares: Mapping[str, float], held: Mapping[str, float], *, may_grow: bool
    ) -> None:
        """Shrink now; take what was planned and has been published; plan what comes next."""
        aim, before = shares[self._replica], own.share
        free = sum(shares.values()) - sum(held.values()) + held[self._replica]
        own.share = min(aim, max(before, min(own.planned, free)))
        own.planned = own.share
        if own.share < aim and may_grow:
            own.planned += self._growth(kind, shares, {**held, self._replica: own.share})
        notable = _NOTABLE * own.limit if kind is Kind.RATE else 1.0
        if before - own.share >= notable or own.planned - own.share >= notable:
            self.is_urgent = True

    def _growth(self, kind: Kind, shares: Mapping[str, float], held: Mapping[str, float]) -> float:
        """How much this replica may grow: its part of what is free, beside the others that grow."""
        wants = {replica: max(0.0, share - held[replica]) for replica, share in shares.items()}
        free, wanted = sum(shares.values()) - sum(held.values()), sum(wants.values())
        if free <= 0.0 or wanted <= 0.0:
            return 0.0
        part = min(1.0, free / wanted)
        grows = {replica: want * part for replica, want in wants.items()}
        if kind is Kind.RATE:
            return grows[self._replica]
        return float(_whole(grows, math.floor(free + _NEARLY))[self._replica])


def scale_part(kind: Kind | None, part: float, limit: float, to: float) -> float:
    """The same part of another limit; places are whole, and at least one."""
    scaled = part if limit == to else part / limit * to
    return scaled if kind is Kind.RATE else float(max(1, math.floor(scaled + _NEARLY)))


def _rank(key: str) -> int:
    """Which limits come first where there are too many: the same for every replica."""
    return zlib.crc32(key.encode())
