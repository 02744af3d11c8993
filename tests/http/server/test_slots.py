"""The rules of who may hold a connection, by random arrivals and departures."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.server.slots import ClientKind, Slot, SlotLimits, Slots, client_site

SIZES = SlotLimits(members=10, excess=3, strangers=8)
MEMBER, STRANGERS = ("10.0.0.1", 5000), [(f"192.0.2.{n}", 1) for n in range(6)]

Step = tuple[tuple[str, int], bool, int]
"""Who comes, or which of those there are goes."""
arrivals = st.lists(st.tuples(st.sampled_from([MEMBER, *STRANGERS]), st.booleans(), st.integers(0, 99)), max_size=120)


@given(arrivals)
def test_strangers_never_take_a_members_place_and_every_pool_keeps_its_bound(steps: list[Step]) -> None:
    slots, held = Slots(), list[Slot]()
    told: list[int] = []
    slots.on_change = told.append
    for client, arrives, which in steps:
        if arrives:
            before = Counter(slot.kind for slot in held)
            mine = sum(slot.kind is ClientKind.STRANGER and slot.site == client[0] for slot in held)
            slot = slots.take(SIZES, client, allowed=client is MEMBER)
            if client is MEMBER:
                has_room = before[ClientKind.MEMBER] < SIZES.members
                assert (slot is not None and slot.kind is ClientKind.MEMBER) == has_room
                assert (slot is None) == (not has_room and before[ClientKind.EXCESS] == SIZES.excess)
            else:
                has_room = before[ClientKind.STRANGER] < SIZES.strangers and mine < SIZES.strangers // 4
                assert (slot is not None) == has_room
            if slot is not None:
                held.append(slot)
        elif held:
            gone = held.pop(which % len(held))
            gone.leave()
            gone.leave()  # once more does no harm
        assert slots.held == len(held)
        assert all(slots.count(kind) == sum(p.kind is kind for p in held) for kind in ClientKind)
    for slot in held:
        slot.leave()
    assert slots.held == 0
    assert not told or told[-1] == 0


@given(st.lists(st.tuples(st.sampled_from(STRANGERS), st.booleans()), max_size=300), st.booleans())
def test_handshakes_under_way_are_bounded_and_one_address_that_is_not_listed_has_a_quarter(
    steps: list[tuple[tuple[str, int], bool]], listed: bool
) -> None:
    sizes = SlotLimits(members=1000, excess=0, strangers=0)
    slots, under_way = Slots(), list[Slot]()
    for client, begins in steps:
        if begins:
            slot = slots.take(sizes, client, allowed=True)
            assert slot is not None
            mine = sum(other.site == slot.site for other in under_way)
            can = len(under_way) < sizes.handshakes and (listed or mine < sizes.handshakes // 4)
            assert slot.begin_handshake(sizes, listed=listed) == can
            if can:
                under_way.append(slot)
        elif under_way:
            slot = under_way.pop()
            slot.end_handshake()
            slot.end_handshake()
    for slot in under_way:
        slot.leave()  # a connection that is lost amid its handshake
    assert "0 handshakes" in repr(slots)


@pytest.mark.parametrize(
    ("client", "site"),
    [
        (None, "unix"),
        (("192.0.2.1", 5), "192.0.2.1"),
        (("::ffff:192.0.2.1", 5), "192.0.2.1"),
        (("2001:db8:1:2:3::4", 5), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5), "fe80::/64"),
    ],
)
def test_an_address_is_one_ipv4_host_or_one_ipv6_site(client: tuple[str, int] | None, site: str) -> None:
    assert client_site(client) == site
