"""Which target gets the next hook: chooses among candidates by weight and by hooks in flight.

The caller leaves out targets that may not be chosen (ejected, tried already, a backup not yet needed), so the
candidates differ from call to call. The state of a balancer belongs to each candidate as an object: one that is left
out for a while continues where it was, one that is gone is forgotten, and a new one starts even.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

_SWEEP: Final = 1024
"""Choices between two sweeps; a sweep forgets the credit of candidates that it does not see."""


class Candidate(Protocol):
    """A target as a balancer sees it; hashed by identity."""

    @property
    def weight(self) -> int:
        """Its share of the hooks, at least 1."""

    @property
    def in_flight(self) -> int:
        """Hooks at it, or waiting for it."""


C = TypeVar("C", bound=Candidate)


class Balancer(Protocol):
    """A way to choose."""

    def choose(self, candidates: Sequence[C]) -> C:
        """One of the candidates, of which there is at least one."""


class RoundRobin:
    """In turn, each as often as its weight says, the heavy ones spread out between the light ones.

    Each choice gives every candidate its weight as credit, takes the one with the most, and charges it the total:
    nginx's smooth weighted balancing. No candidate is ever a whole choice ahead of its share. Credit is bounded by the
    total weight of the candidates (once below, twice above: more than a steady set reaches), so a candidate that was
    left out, or whose weight has changed, comes back without a burst.
    """

    __slots__ = ("_choices", "_credit")

    def __init__(self) -> None:
        self._credit: dict[Candidate, int] = {}
        self._choices = 0

    def __repr__(self) -> str:
        return f"<RoundRobin {list(self._credit.values())}>"

    def choose(self, candidates: Sequence[C]) -> C:
        """The candidate with the most credit, the first of several."""
        best = candidates[0]
        if len(candidates) == 1:
            return best
        self._choices += 1
        if self._choices >= _SWEEP:
            self._sweep(candidates)
        total = 0
        for candidate in candidates:
            total += candidate.weight
        credit = self._credit
        most = -total  # none has less: bounded below, plus a weight of at least 1
        for candidate in candidates:
            has = credit.get(candidate, 0)
            if has > 2 * total:
                has = 2 * total
            elif has < -total:
                has = -total
            has += candidate.weight
            credit[candidate] = has
            if has > most:
                most = has
                best = candidate
        credit[best] = most - total
        return best

    def _sweep(self, candidates: Sequence[Candidate]) -> None:
        self._choices = 0
        self._credit = {candidate: self._credit.get(candidate, 0) for candidate in candidates}


class LeastInFlight:
    """The candidate with the fewest hooks in flight for its weight; among equals (above all idle ones) in turn."""

    __slots__ = ("_turn",)

    def __init__(self) -> None:
        self._turn = RoundRobin()

    def __repr__(self) -> str:
        return "<LeastInFlight>"

    def choose(self, candidates: Sequence[C]) -> C:
        """The candidate with the smallest ``in_flight / weight``."""
        best = candidates[0]
        load, weight = best.in_flight, best.weight
        tied = 0
        for candidate in candidates:
            # Products in place of quotients: exact, and equal where equal.
            difference = candidate.in_flight * weight - load * candidate.weight
            if difference < 0:
                best, load, weight = candidate, candidate.in_flight, candidate.weight
                tied = 1
            elif difference == 0:
                tied += 1
        if tied == 1:
            return best
        if tied == len(candidates):
            return self._turn.choose(candidates)
        return self._turn.choose([c for c in candidates if c.in_flight * weight == load * c.weight])


def balancer(name: str) -> Balancer:
    """A new balancer by its name in the configuration; raises ValueError for an unknown one."""
    if name == "round_robin":
        return RoundRobin()
    if name == "least_in_flight":
        return LeastInFlight()
    raise ValueError(f"no balance is called {name!r}; there are round_robin and least_in_flight")
