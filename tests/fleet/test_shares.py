"""How replicas divide a limit: the division, and a fleet whose numbers travel late, out of step or not at all."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.shares import (
    MAX_DIVIDED,
    RATE_RESERVE,
    Entry,
    Kind,
    Measured,
    Share,
    Shares,
    Sharing,
    divide,
    even_share,
    kind_of,
    limit_key,
)
from tests.fleet.simulated_fleet import Fleet

SLACK = 1.1
"""The most that all shares together may be, of the limit."""
KINDS = st.sampled_from(Kind)
DEMANDS = st.dictionaries(
    st.sampled_from("abcdefghijklmnopqrst"), st.floats(0, 10_000) | st.just(0.0), min_size=1, max_size=20
)
LIMITS = st.integers(1, 2000)
PHASES = st.floats(0, 1) | st.floats(0, 0.1)
A_WHILE = 12.0
"""Seconds after which shares have come to rest."""


def most(kind: Kind, limit: float, replicas: int) -> float:
    """What all shares together may be."""
    return limit * SLACK if kind is Kind.RATE else max(limit * SLACK, replicas)


# --- the division ---


@given(KINDS, LIMITS, DEMANDS)
def test_shares_are_never_more_than_the_limit_and_a_tenth_and_never_nothing(
    kind: Kind, limit: int, demands: dict[str, float]
) -> None:
    shares = divide(kind, limit, demands)
    assert shares.keys() == demands.keys()
    assert sum(shares.values()) <= most(kind, limit, len(shares)) * (1 + 1e-9)
    assert min(shares.values()) > 0
    if kind is not Kind.RATE:
        assert all(share >= 1 and share == int(share) for share in shares.values())
    if kind is Kind.CONNECTIONS:
        assert sum(shares.values()) <= max(limit, len(shares)), "a backend has as many workers as it has"


@given(KINDS, LIMITS, DEMANDS, st.randoms(use_true_random=False))
def test_the_order_of_the_replicas_does_not_matter(
    kind: Kind, limit: int, demands: dict[str, float], chance: random.Random
) -> None:
    shuffled = list(demands.items())
    chance.shuffle(shuffled)
    assert divide(kind, limit, dict(shuffled)) == divide(kind, limit, demands)


@given(KINDS, LIMITS, DEMANDS)
def test_who_demands_less_than_an_even_share_gets_it_and_the_others_no_less_than_that(
    kind: Kind, limit: int, demands: dict[str, float]
) -> None:
    shares = divide(kind, limit, demands)
    even = even_share(kind, limit, len(demands))
    for replica, demand in demands.items():
        assert shares[replica] >= min(demand, even) * (1 - 1e-9)


@given(KINDS, LIMITS, DEMANDS)
def test_a_greater_demand_never_gets_less(kind: Kind, limit: int, demands: dict[str, float]) -> None:
    shares = divide(kind, limit, demands)
    whole = 0 if kind is Kind.RATE else 1  # one place more may go to either of two
    for one, demand in demands.items():
        assert all(shares[one] + whole >= shares[other] - 1e-6 for other in demands if demands[other] <= demand)


@given(KINDS, st.integers(40, 2000), st.integers(2, 8))
def test_a_busy_replica_beside_idle_ones_gets_nearly_all(kind: Kind, limit: int, replicas: int) -> None:
    demands = {"busy": limit * 3.0, **{f"idle {number}": 0.0 for number in range(1, replicas)}}
    shares = divide(kind, limit, demands)
    assert shares["busy"] >= (limit if kind is Kind.RATE else limit - replicas + 1)


@given(KINDS, LIMITS, st.dictionaries(st.text("abc", min_size=1), st.floats(0, 1), min_size=1, max_size=20))
def test_what_nobody_needs_is_divided_evenly(kind: Kind, limit: int, parts: dict[str, float]) -> None:
    even = even_share(kind, limit, len(parts))
    shares = divide(kind, limit, {replica: part * even / 2 for replica, part in parts.items()})
    assert set(shares.values()) == {even}


@pytest.mark.parametrize(
    ("kind", "limit", "demands", "shares"),
    [
        (Kind.RATE, 100, {"a": 150.0}, {"a": 100.0}),
        (Kind.RATE, 100, {"a": 150.0, "b": 150.0}, {"a": 50.0, "b": 50.0}),
        (Kind.RATE, 100, {"a": 50.0, "b": 0.0}, {"a": 75.0, "b": 25.0}),  # half of it is spare
        (Kind.RATE, 100, {"a": 300.0, "b": 0.0}, {"a": 100.0, "b": 100 * RATE_RESERVE / 2}),
        (Kind.RATE, 100, {"a": 300.0, "b": 20.0}, {"a": 80.0, "b": 20.0 + 100 * RATE_RESERVE / 2}),
        (Kind.CONNECTIONS, 64, {"a": 500.0, "b": 0.0}, {"a": 63.0, "b": 1.0}),
        (Kind.CONNECTIONS, 64, {"a": 500.0, "b": 3.5}, {"a": 60.0, "b": 4.0}),
        (Kind.CONNECTIONS, 65, {"a": 99.0, "b": 99.0}, {"a": 33.0, "b": 32.0}),
        (Kind.CONNECTIONS, 2, {"a": 9.0, "b": 9.0, "c": 0.0}, {"a": 1.0, "b": 1.0, "c": 1.0}),
        (Kind.IN_FLIGHT, 100, {"a": 999.0, "b": 0.0, "c": 0.0}, {"a": 100.0, "b": 1.0, "c": 1.0}),
    ],
)
def test_a_division(kind: Kind, limit: float, demands: dict[str, float], shares: dict[str, float]) -> None:
    assert divide(kind, limit, demands) == pytest.approx(shares)


# --- what a replica makes of it ---


def test_a_share_is_the_same_part_of_another_limit() -> None:
    shares = Shares(4, {"rate:a": Share(75.0, 100.0), "connections:u": Share(63.0, 64.0)})
    assert shares.part("rate:a", 100.0) == 75.0
    assert shares.part("rate:a", 200.0) == 150.0
    assert shares.part("rate:b", 100.0) == 25.0
    assert shares.part("connections:u", 64) == 63
    assert shares.part("connections:u", 1) == 1
    assert shares.part("connections:v", 10) == 2
    assert shares.part("connections:v", 3) == 1


def test_a_limit_s_key_says_its_kind() -> None:
    assert [kind_of(limit_key(kind, "a:b")) for kind in Kind] == list(Kind)
    assert kind_of("of a later version:a") is None


def test_what_another_version_publishes_is_left_alone() -> None:
    fleet = Fleet("rate:a", 100.0)
    fleet.join("a").demand = 300.0
    fleet.records["b"] = math.inf, {"hooks_a_day:a": Entry(5.0, 5.0, 5.0)}
    fleet.run(A_WHILE)
    assert 50.0 <= fleet.share("a") <= 100 * SLACK - 50, "the other has an even share, it says nothing else"


@pytest.mark.parametrize("entry", [(0.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (math.nan, 1.0, 1.0), (9.0, math.inf, math.nan)])
def test_numbers_that_make_no_sense_are_left_alone(entry: tuple[float, float, float]) -> None:
    fleet = Fleet("rate:a", 100.0)
    fleet.join("a").demand = 300.0
    fleet.records["b"] = math.inf, {"rate:a": Entry(*entry), "rate:b": Entry(*entry)}
    fleet.run(A_WHILE)
    assert 50.0 <= fleet.share("a") <= 100 * SLACK - 50


def test_a_limit_that_nobody_needs_much_of_is_not_published() -> None:
    fleet = Fleet("rate:a", 100.0)
    for name in "abcd":
        fleet.join(name).demand = 12.0
    fleet.run(A_WHILE)
    assert all(not replica.sharing.entries() for replica in fleet.replicas.values())
    fleet.replicas["a"].demand = 60.0
    fleet.run(A_WHILE)
    assert all(replica.sharing.entries() for replica in fleet.replicas.values())
    assert fleet.share("a") == pytest.approx(61, abs=2)
    fleet.replicas["a"].demand = 0.0
    fleet.run(60.0)
    assert all(not replica.sharing.entries() for replica in fleet.replicas.values())
    assert fleet.shares == dict.fromkeys("abcd", 25.0)


def test_places_still_in_use_beyond_a_share_are_not_given_to_others_yet() -> None:
    one, other = Sharing("one"), Sharing("other")
    key, used = "connections:u", Measured(10.0, 9.0, 9.0)
    for sharing in (one, other):
        sharing.connected(0.0)

    def beat(now: float, of_one: Measured, of_other: Measured) -> tuple[float, float]:
        one.measure({key: of_one}, now)
        other.measure({key: of_other}, now)
        for sharing in (one, other, one, other):
            sharing.divide({"one": one.entries(), "other": other.entries()}, now)
        return one.shares.part(key, 10), other.shares.part(key, 10)

    idle, busy = Measured(10.0, 0.0), Measured(10.0, 9.0, 1.0)
    assert [beat(now, used, idle) for now in range(10)][-1] == (9, 1)
    assert [beat(now, used, busy) for now in range(10, 20)][-1] == (5, 1)
    assert [beat(now, Measured(10.0, 9.0, 5.0), busy) for now in range(20, 23)][-1] == (5, 5)


def test_of_too_many_limits_all_replicas_divide_the_same_ones_by_demand() -> None:
    busy, idle = Sharing("busy"), Sharing("idle")
    for sharing in (busy, idle):
        sharing.connected(-10.0)
    measured = {f"rate:{number}": Measured(100.0, 300.0) for number in range(MAX_DIVIDED + 50)}
    for now in range(10):
        busy.measure(measured, now)
        for sharing in (busy, idle):
            published = {"busy": busy.entries(), "idle": idle.entries()}
            assert len(published["busy"]) <= MAX_DIVIDED
            sharing.divide(published, now)
    assert busy.shares.listed.keys() == idle.shares.listed.keys()
    assert len(busy.shares.listed) == MAX_DIVIDED
    assert {busy.shares.part(key, 100.0) for key in busy.shares.listed} == {100.0}
    evenly = measured.keys() - busy.shares.listed.keys()
    assert {sharing.shares.part(key, 100.0) for key in evenly for sharing in (busy, idle)} == {50.0}


# --- a fleet ---


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Replicas out of step that have found each other."""
    fleet = Fleet(limit_key(draw(KINDS), "x"), draw(LIMITS))
    for name in "abcdefgh"[: draw(st.integers(1, 8))]:
        fleet.join(name, draw(PHASES)).demand = draw(st.floats(0, 3)) * fleet.limit
    fleet.run(A_WHILE)
    return fleet


CHANGES = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 3)),
        st.floats(0.1, 8),
        st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 0.8)),
        st.frozensets(st.sampled_from("abcdefgh")),
    ),
    min_size=1,
    max_size=12,
)
"""New demands as parts of the limit, for how long, whose heartbeats come late, and whose are lost at times."""


@given(fleets())
def test_in_steady_state_all_have_what_the_division_says(fleet: Fleet) -> None:
    fleet.run(30.0)  # a slow limit's hooks are counted for longer
    shares = divide(fleet.kind, fleet.limit, {name: each.demand for name, each in fleet.replicas.items()})
    assert fleet.total <= most(fleet.kind, fleet.limit, len(shares)) * (1 + 1e-9)
    if fleet.kind is Kind.RATE:
        assert fleet.shares == pytest.approx(shares, rel=0.02, abs=fleet.limit * 0.001)
    else:
        assert all(abs(fleet.share(name) - shares[name]) <= 1 + fleet.limit * 0.002 for name in shares)


@given(fleets(), CHANGES)
def test_shares_do_not_exceed_the_limit_while_demand_jumps_and_heartbeats_are_late_or_lost(
    fleet: Fleet,
    changes: list[tuple[Mapping[str, float], float, Mapping[str, float], frozenset[str]]],
) -> None:
    allowed = most(fleet.kind, fleet.limit, len(fleet.replicas)) * (1 + 1e-6)

    def look() -> None:
        assert fleet.total <= allowed, fleet.shares
        assert min(fleet.shares.values()) > 0

    fleet.look = look  # type: ignore[method-assign]
    for demands, seconds, late, lossy in changes:
        for name, part in demands.items():
            if name in fleet.replicas:
                fleet.replicas[name].demand = part * fleet.limit
        fleet.run(seconds, late=None if lossy else late, lossy=lossy)  # not both: it would be taken for dead


def test_replicas_that_grow_at_the_same_time_do_not_take_the_same_part_twice() -> None:
    totals = []
    for seed in range(40):
        chance = random.Random(seed)
        fleet = Fleet("rate:x", 100.0)
        for name in "abcdefgh"[: chance.randint(3, 8)]:
            fleet.join(name, chance.random() * chance.choice((1.0, 0.1))).demand = chance.random() * 300
        fleet.run(A_WHILE)
        fleet.look = lambda fleet=fleet: totals.append(fleet.total)  # type: ignore[method-assign, misc]
        for _ in range(10):
            for replica in fleet.replicas.values():
                replica.demand = chance.choice((0.0, 0.0, chance.random() * 300))
            fleet.run(chance.random() * 4)
    assert max(totals) <= 100 * SLACK


@given(fleets(), st.data())
def test_after_members_have_come_and_gone_the_limit_is_theirs_again(fleet: Fleet, data: st.DataObject) -> None:
    for number in range(data.draw(st.integers(1, 6))):
        names = sorted(fleet.replicas)
        what = data.draw(st.sampled_from(["join", "die", "leave", "back"]))
        if what == "join" or len(names) == 1:
            fleet.join(f"new {number}", data.draw(st.floats(0, 1))).demand = data.draw(st.floats(0, 3)) * fleet.limit
        else:
            name = data.draw(st.sampled_from(names))
            (fleet.leave if what == "leave" else fleet.die)(name)
            if what == "back":
                fleet.run(data.draw(st.floats(0, 6)))
                fleet.join(f"{name} {number}", data.draw(st.floats(0, 1))).demand = fleet.limit
        fleet.run(data.draw(st.floats(0, 3)))
    fleet.run(A_WHILE + 30.0)
    shares = divide(fleet.kind, fleet.limit, {name: each.demand for name, each in fleet.replicas.items()})
    assert fleet.total <= most(fleet.kind, fleet.limit, len(shares)) * (1 + 1e-9)
    for name, replica in fleet.replicas.items():
        fair = min(replica.demand, even_share(fleet.kind, fleet.limit, len(shares)))
        assert fleet.share(name) >= fair * 0.98 - (fleet.kind is not Kind.RATE)


def test_before_its_first_heartbeat_a_replica_has_half() -> None:
    assert Sharing("a").shares.part("rate:x", 100.0) == 50.0


def test_a_replica_alone_has_all_once_the_others_had_time_to_speak() -> None:
    fleet = Fleet("rate:x", 100.0)
    fleet.join("a").demand = 300.0
    fleet.run(1.5)
    assert fleet.share("a") == 50.0
    fleet.run(3.0)
    assert fleet.share("a") == 100.0


def test_after_the_state_was_emptied_nobody_takes_it_all() -> None:
    fleet = Fleet("rate:x", 100.0)
    for number, name in enumerate("abcd"):
        fleet.join(name, number / 4).demand = 300.0
    fleet.run(A_WHILE)
    fleet.records.clear()
    for replica in fleet.replicas.values():
        replica.sharing.connected(fleet.now)
    peak = [fleet.total]
    fleet.look = lambda: peak.append(fleet.total)  # type: ignore[method-assign]
    fleet.run(A_WHILE)
    assert max(peak) <= 100 * SLACK
    assert fleet.shares == pytest.approx(dict.fromkeys("abcd", 25.0))


@pytest.mark.parametrize("kind", Kind)
def test_a_lower_limit_reaches_the_replicas_one_by_one(kind: Kind) -> None:
    fleet = Fleet(limit_key(kind, "x"), 100.0)
    for name in "abcd":
        fleet.join(name).demand = 300.0
    fleet.run(A_WHILE)
    fleet.limit = 40.0
    fleet.run(A_WHILE)
    assert fleet.shares == dict.fromkeys("abcd", 10.0)
    fleet.limit = 80.0
    fleet.run(A_WHILE)
    assert fleet.shares == dict.fromkeys("abcd", 20.0)
