"""A fleet that divides its limits, without processes: replicas with clocks of their own, and a state between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.fleet.shares import Entry, Kind, Measured, Sharing, kind_of

LIFETIME = 3.0
"""Seconds for which the state keeps a record."""
LOST_IN_A_ROW = 2
"""Heartbeats: the first does not arrive, the answer to the second does not. After three it would be taken for dead."""

SOON = 0.05
"""Seconds until an urgent heartbeat: others come between."""


@dataclass
class Replica:
    """One gateway, with what its hooks want of the limit."""

    name: str
    sharing: Sharing
    next_beat: float
    demand: float = 0.0
    lost: int = 0
    next_measure: float = 0.0


@dataclass
class Fleet:
    """Replicas that share one limit. Time passes in ``run``."""

    key: str
    limit: float
    now: float = 0.0
    replicas: dict[str, Replica] = field(default_factory=dict)
    records: dict[str, tuple[float, Mapping[str, Entry]]] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        kind = kind_of(self.key)
        assert kind is not None
        return kind

    def join(self, name: str, phase: float = 0.0) -> Replica:
        """A replica starts; its first heartbeat comes after *phase* seconds."""
        replica = Replica(name, Sharing(name), self.now + phase)
        replica.sharing.connected(self.now)
        self.replicas[name] = replica
        return replica

    def die(self, name: str) -> None:
        """It ends without a word: its record stays until it runs out."""
        del self.replicas[name]

    def leave(self, name: str) -> None:
        """It ends in order."""
        del self.replicas[name]
        self.records.pop(name, None)

    def run(self, seconds: float, late: Mapping[str, float] | None = None, lossy: frozenset[str] = frozenset()) -> None:
        """Let time pass. *late*: seconds by which replicas' heartbeats come late; *lossy*: whose are lost at times."""
        end = self.now + seconds
        while (first := min(self.replicas.values(), key=lambda each: each.next_beat)).next_beat <= end:
            self.now = max(self.now, first.next_beat)
            first.next_beat = self.now + 1.0 + (late or {}).get(first.name, 0.0)
            self._beat(first, lost=first.name in lossy)
            self.look()
        self.now = end

    def look(self) -> None:
        """Called after each heartbeat; tests put a check in its place."""

    def _beat(self, replica: Replica, *, lost: bool) -> None:
        if self.now >= replica.next_measure:
            replica.next_measure = self.now + 0.5
            replica.sharing.measure(
                {self.key: Measured(self.limit, replica.demand)} if replica.demand else {}, self.now
            )
        replica.lost = replica.lost + 1 if lost and replica.lost < LOST_IN_A_ROW else 0
        if replica.lost == 1:  # it does not arrive
            return
        self.records[replica.name] = self.now + LIFETIME, replica.sharing.entries()
        if replica.lost:  # it arrives, the answer does not
            return
        live = {name: entries for name, (until, entries) in self.records.items() if until > self.now}
        replica.sharing.divide(live, self.now)
        if replica.sharing.is_urgent:
            replica.next_beat = self.now + SOON

    # --- what tests look at ---

    def share(self, name: str) -> float:
        """What this replica may use."""
        return self.replicas[name].sharing.shares.part(self.key, self.limit)

    @property
    def shares(self) -> dict[str, float]:
        return {name: self.share(name) for name in self.replicas}

    @property
    def total(self) -> float:
        return sum(self.shares.values())
