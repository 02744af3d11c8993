"""Who takes the next hook: exact shares, no bursts, and candidates that come and go."""

from __future__ import annotations

import gc
import weakref
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.upstreams.balance import LeastInFlight, RoundRobin, balancer


class Target:
    def __init__(self, name: str, weight: int = 1, in_flight: int = 0) -> None:
        self.name = name
        self.weight = weight
        self.in_flight = in_flight

    def __repr__(self) -> str:
        return f"{self.name}({self.weight}, {self.in_flight})"


WEIGHTS = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def targets_of(weights: list[int]) -> list[Target]:
    return [Target(chr(ord("a") + place), weight) for place, weight in enumerate(weights)]


def names(balance: RoundRobin | LeastInFlight, targets: list[Target], times: int) -> str:
    return "".join(balance.choose(targets).name for _ in range(times))


def test_equal_weights_take_turns() -> None:
    assert names(RoundRobin(), targets_of([1, 1, 1]), 7) == "abcabca"


def test_a_heavy_target_is_spread_out_between_the_light_ones() -> None:
    assert names(RoundRobin(), targets_of([5, 1, 1]), 14) == "aabacaa" * 2


def test_a_single_candidate_is_chosen_always() -> None:
    assert names(RoundRobin(), targets_of([7]), 5) == "aaaaa"


@given(WEIGHTS, st.integers(1, 4))
@example([1, 1, 12, 1, 12], 4)
def test_over_whole_rounds_each_target_gets_exactly_its_share(weights: list[int], rounds: int) -> None:
    targets = targets_of(weights)
    chosen = Counter(names(RoundRobin(), targets, rounds * sum(weights)))
    assert [chosen[target.name] for target in targets] == [rounds * weight for weight in weights]


@given(WEIGHTS)
@example([1, 1, 1, 12, 12, 12])
@example([1, 1, 12, 1, 1])
def test_at_no_time_is_a_target_a_whole_choice_ahead_of_its_share_or_two_behind(weights: list[int]) -> None:
    targets, balance, total = targets_of(weights), RoundRobin(), sum(weights)
    chosen: Counter[str] = Counter()
    for made in range(1, 2 * total + 1):
        chosen[balance.choose(targets).name] += 1
        for target in targets:
            assert -2 < chosen[target.name] - made * target.weight / total < 1


@given(WEIGHTS.filter(lambda weights: len(weights) > 1), st.data())
def test_where_one_is_left_out_the_others_share_by_their_weights(weights: list[int], data: st.DataObject) -> None:
    targets, balance = targets_of(weights), RoundRobin()
    names(balance, targets, data.draw(st.integers(0, 30)))
    out = data.draw(st.integers(0, len(targets) - 1))
    rest = targets[:out] + targets[out + 1 :]
    total = sum(target.weight for target in rest)
    chosen = Counter(names(balance, rest, 100 * total))
    assert targets[out].name not in chosen
    for target in rest:
        assert abs(chosen[target.name] - 100 * target.weight) <= 2 * len(targets)


@given(WEIGHTS.filter(lambda weights: len(weights) > 1), st.lists(st.sets(st.integers(0, 5)), max_size=60))
def test_whatever_was_left_out_before_the_shares_are_right_again_afterwards(
    weights: list[int], left_out: list[set[int]]
) -> None:
    targets, balance, total = targets_of(weights), RoundRobin(), sum(weights)
    for out in left_out:
        some = [target for place, target in enumerate(targets) if place not in out]
        if some:
            assert balance.choose(some) in some
    chosen = Counter(names(balance, targets, 100 * total))
    for target in targets:
        assert abs(chosen[target.name] - 100 * target.weight) <= 2 * len(targets)


def test_a_target_that_was_away_comes_back_without_a_burst() -> None:
    a, b, c = targets = targets_of([1, 1, 1])
    balance = RoundRobin()
    names(balance, targets, 4)
    names(balance, [a, b], 500)
    assert "cc" not in names(balance, targets, 30)
    assert c.name in names(balance, targets, 3)


def test_a_target_whose_weight_was_cut_does_not_pay_for_its_past() -> None:
    heavy, light = targets = [Target("a", 1_000_000), Target("b", 1)]
    balance = RoundRobin()
    names(balance, targets, 500)
    heavy.weight = light.weight = 1
    chosen = Counter(names(balance, targets, 20))
    assert abs(chosen["a"] - 10) <= 1


def test_the_share_of_a_new_target_is_its_own_from_the_start() -> None:
    targets, balance = targets_of([1, 1]), RoundRobin()
    names(balance, targets, 101)
    chosen = Counter(names(balance, [*targets, Target("new")], 30).replace("new", "n"))
    assert all(9 <= chosen[name] <= 11 for name in "abn")


@pytest.mark.parametrize("name", ["round_robin", "least_in_flight"])
def test_targets_that_are_gone_are_let_go(name: str) -> None:
    balance = balancer(name)
    stay = targets_of([1, 1])
    gone = Target("gone")
    watch = weakref.ref(gone)
    balance.choose([*stay, gone])
    del gone
    for _ in range(2000):
        balance.choose(stay)
    gc.collect()
    assert watch() is None


def test_the_fewest_in_flight_is_chosen() -> None:
    targets = [Target("a", 1, 3), Target("b", 1, 1), Target("c", 1, 2)]
    assert names(LeastInFlight(), targets, 5) == "bbbbb"


def test_in_flight_is_weighed() -> None:
    assert LeastInFlight().choose([Target("a", 1, 2), Target("b", 4, 7)]).name == "b"
    assert LeastInFlight().choose([Target("a", 1, 1), Target("b", 4, 5)]).name == "a"


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=8), st.integers(0, 10))
def test_nobody_has_less_in_flight_for_its_weight_than_the_chosen(loads: list[tuple[int, int]], before: int) -> None:
    targets, balance = [Target(str(n), *load) for n, load in enumerate(loads)], LeastInFlight()
    for _ in range(before):
        balance.choose(targets)
    chosen = balance.choose(targets)
    assert all(t.in_flight * chosen.weight >= chosen.in_flight * t.weight for t in targets)


@given(WEIGHTS)
def test_idle_targets_take_turns_by_weight(weights: list[int]) -> None:
    targets = targets_of(weights)
    chosen = Counter(names(LeastInFlight(), targets, 2 * sum(weights)))
    assert [chosen[target.name] for target in targets] == [2 * weight for weight in weights]


def test_among_several_that_are_tied_only_they_take_turns() -> None:
    targets = [Target("a", 1, 2), Target("b", 2, 2), Target("c", 3, 3), Target("d", 1, 5)]
    assert Counter(names(LeastInFlight(), targets, 10)) == Counter({"b": 4, "c": 6})


@given(WEIGHTS, st.integers(0, 120))
def test_hooks_that_stay_fill_the_targets_by_weight(weights: list[int], hooks: int) -> None:
    """While hooks come only, no target holds more than one hook above its share."""
    targets, balance = targets_of(weights), LeastInFlight()
    for _ in range(hooks):
        balance.choose(targets).in_flight += 1
    least = min(t.in_flight / t.weight for t in targets)
    assert all((t.in_flight - 1) / t.weight <= least + 1e-9 for t in targets)


def test_a_balancer_is_made_by_its_name() -> None:
    assert isinstance(balancer("round_robin"), RoundRobin)
    assert isinstance(balancer("least_in_flight"), LeastInFlight)


def test_an_unknown_balance_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="no balance is called 'random'; there are round_robin and least_in_flight"):
        balancer("random")
