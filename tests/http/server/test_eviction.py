"""Which connection makes room for a new one."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from gateway.http.server.eviction import reclaim
from gateway.http.server.slots import Slot, SlotLimits, Slots
from gateway.policy.access import Client

NOW = 1000.0


class FakeConnection:
    """As much of a connection as an eviction looks at."""

    def __init__(self, slot: Slot, rank: int | None, last_use: float) -> None:
        self.slot = slot
        self.eviction_rank = rank
        self.last_use = last_use
        self.evicted = False

    def evict(self) -> None:
        self.evicted = True
        self.slot.leave()


class Case(NamedTuple):
    """A connection: its address, its rank, and seconds since its last use."""

    address: str
    rank: int | None
    idle: float


def connections(*cases: Case) -> list[Any]:
    slots, limits = Slots(), SlotLimits(members=100, excess=0, strangers=0)
    made = []
    for number, (address, rank, idle) in enumerate(cases):
        client: Client = (address, number)
        slot = slots.take(limits, client, allowed=True)
        assert slot is not None
        made.append(FakeConnection(slot, rank, NOW - idle))
    return made


@pytest.mark.parametrize(
    ("cases", "victim"),
    [
        ([Case("a", 0, 5.0), Case("a", 0, 9.0)], 1),
        ([Case("a", 0, 9.0), Case("b", 0, 5.0), Case("b", 0, 6.0)], 2),
        ([Case("a", 1, 90.0), Case("b", 0, 5.0)], 1),
        ([Case("a", 0, 0.1), Case("b", 0, 5.0)], 1),
        ([Case("a", None, 90.0), Case("b", 1, 1.0)], 1),
    ],
    ids=["longest idle", "of the address that holds most", "lower rank", "a new one last", "never one in use"],
)
def test_the_least_needed_connection_is_evicted(cases: list[Case], victim: int) -> None:
    made = connections(*cases)
    assert reclaim(made, NOW)
    assert [one.evicted for one in made] == [number == victim for number in range(len(made))]


def test_where_every_connection_is_in_use_none_is_evicted() -> None:
    made = connections(Case("a", None, 90.0), Case("b", None, 90.0))
    assert not reclaim(made, NOW)
    assert not any(one.evicted for one in made)


def test_a_connection_that_has_given_its_slot_back_is_not_evicted_again() -> None:
    made = connections(Case("a", 0, 9.0))
    assert reclaim(made, NOW)
    assert not reclaim(made, NOW)
