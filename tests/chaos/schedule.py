"""The schedule of a run: which faults meet in which step, all of it from the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from tests.chaos.faults import FAULTS


class Planned(NamedTuple):
    """One fault of a step."""

    of: str
    name: str
    after: float
    """Seconds after the step has begun."""
    seed: str
    """Of the fault's own dice."""


def steps(seed: int, without: frozenset[str] = frozenset()) -> Iterator[list[Planned]]:
    """Without end: each step has three to six faults, each of another class; *without*: ``class`` or ``class/name``."""
    dice = random.Random(seed)
    fresh: list[tuple[str, str]] = []
    faults = {
        of: names
        for of, known in FAULTS.items()
        if of not in without and (names := [name for name in known if f"{of}/{name}" not in without])
    }
    number = 0
    while True:
        number += 1
        planned = []
        for of in dice.sample(list(faults), min(len(faults), dice.randrange(3, 7))):
            mine = [name for known, name in fresh if known == of]
            if not mine:  # each fault of a class once, in an order of its own, before any comes again
                mine = dice.sample(faults[of], len(faults[of]))
                fresh += [(of, name) for name in mine]
            fresh.remove((of, mine[0]))
            planned.append(Planned(of, mine[0], dice.uniform(0.0, 1.0), f"{seed}-{number}-{mine[0]}"))
        yield planned
