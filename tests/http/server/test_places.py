"""The rules of who may hold a connection, by random arrivals and departures."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.server.places import Place, Places, PoolSizes, TargetState, site_of

SIZES = PoolSizes(members=10, excess=3, strangers=8)
MEMBER, STRANGERS = ("10.0.0.1", 5000), [(f"192.0.2.{n}", 1) for n in range(6)]

Step = tuple[tuple[str, int], bool, int]
"""Who comes, or which of those there are goes."""
arrivals = st.lists(st.tuples(st.sampled_from([MEMBER, *STRANGERS]), st.booleans(), st.integers(0, 99)), max_size=120)


@given(arrivals)
def test_strangers_never_take_a_members_place_and_every_pool_keeps_its_bound(steps: list[Step]) -> None:
    places, held = Places(), list[Place]()
    told: list[int] = []
    places.on_change = told.append
    for client, arrives, which in steps:
        if arrives:
            before = Counter(place.standing for place in held)
            mine = sum(place.standing is TargetState.STRANGER and place.site == client[0] for place in held)
            place = places.take(SIZES, client, allowed=client is MEMBER)
            if client is MEMBER:
                has_room = before[TargetState.MEMBER] < SIZES.members
                assert (place is not None and place.standing is TargetState.MEMBER) == has_room
                assert (place is None) == (not has_room and before[TargetState.EXCESS] == SIZES.excess)
            else:
                has_room = before[TargetState.STRANGER] < SIZES.strangers and mine < SIZES.strangers // 4
                assert (place is not None) == has_room
            if place is not None:
                held.append(place)
        elif held:
            gone = held.pop(which % len(held))
            gone.leave()
            gone.leave()  # once more does no harm
        assert places.held == len(held)
        assert all(places.count(standing) == sum(p.standing is standing for p in held) for standing in TargetState)
    for place in held:
        place.leave()
    assert places.held == 0
    assert not told or told[-1] == 0


@given(st.lists(st.tuples(st.sampled_from(STRANGERS), st.booleans()), max_size=300), st.booleans())
def test_handshakes_under_way_are_bounded_and_one_address_that_is_not_listed_has_a_quarter(
    steps: list[tuple[tuple[str, int], bool]], listed: bool
) -> None:
    sizes = PoolSizes(members=1000, excess=0, strangers=0)
    places, under_way = Places(), list[Place]()
    for client, begins in steps:
        if begins:
            place = places.take(sizes, client, allowed=True)
            assert place is not None
            mine = sum(other.site == place.site for other in under_way)
            can = len(under_way) < sizes.handshakes and (listed or mine < sizes.handshakes // 4)
            assert place.begin_handshake(sizes, listed=listed) == can
            if can:
                under_way.append(place)
        elif under_way:
            place = under_way.pop()
            place.end_handshake()
            place.end_handshake()
    for place in under_way:
        place.leave()  # a connection that is lost amid its handshake
    assert "0 handshakes" in repr(places)


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
    assert site_of(client) == site
