"""Sessions shared out by weight, each always to the same upstream."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy import split as split_module
from gateway.policy.split import Share, Split, _hash_start, _uniform

SESSIONS = [f"defaultApp/{random.Random(i).getrandbits(128):032x}" for i in range(4000)]
NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=6, unique=True)


@st.composite
def shares(draw: st.DrawFn) -> list[Share]:
    names = draw(NAMES)
    weights = draw(st.lists(st.integers(0, 100), min_size=len(names), max_size=len(names)).filter(any))
    return [Share(name, weight) for name, weight in zip(names, weights, strict=True)]


def chosen(*given: Share) -> list[str]:
    split = Split(given)
    return [split.choose(session) for session in SESSIONS]


@given(shares(), st.text())
def test_a_session_s_upstream_depends_on_names_and_weights_alone(given_shares: list[Share], session: str) -> None:
    upstream = Split(given_shares).choose(session)
    assert upstream in {share.name for share in given_shares if share.weight}
    assert Split(list(reversed(given_shares))).choose(session) == upstream


@given(shares(), st.data(), st.integers(1, 1000))
def test_raising_a_share_moves_sessions_only_towards_it(
    given_shares: list[Share], data: st.DataObject, more: int
) -> None:
    raised = data.draw(st.sampled_from(given_shares))
    now = [share._replace(weight=share.weight + more) if share == raised else share for share in given_shares]
    before, after = Split(given_shares), Split(now)
    for session in SESSIONS[:200]:
        if (upstream := after.choose(session)) != before.choose(session):
            assert upstream == raised.name


@given(shares(), st.integers(2, 50))
def test_weights_count_by_their_ratio(given_shares: list[Share], factor: int) -> None:
    scaled = Split([share._replace(weight=share.weight * factor) for share in given_shares])
    split = Split(given_shares)
    assert [scaled.choose(session) for session in SESSIONS[:200]] == [
        split.choose(session) for session in SESSIONS[:200]
    ]


def test_a_canary_from_5_over_50_to_100_per_cent_and_back_moves_each_session_once_each_way() -> None:
    steps = [chosen(Share("php", 100 - new), Share("new", new)) for new in (0, 5, 50, 100)]
    for before, after in pairwise(steps):
        assert not any(was == "new" != now for was, now in zip(before, after, strict=True))
    assert set(steps[0]) == {"php"}
    assert set(steps[-1]) == {"new"}
    assert chosen(Share("php", 95), Share("new", 5)) == steps[1]


@pytest.mark.parametrize(
    "weights", [{"a": 95, "b": 5}, {"a": 50, "b": 50}, {"a": 1, "b": 1, "c": 2}, {"a": 99, "b": 1}, {"a": 3, "b": 0}]
)
def test_each_gets_its_share(weights: dict[str, int]) -> None:
    counts = Counter(chosen(*(Share(name, weight) for name, weight in weights.items())))
    total = sum(weights.values())
    for name, weight in weights.items():
        expected = len(SESSIONS) * weight / total
        spread = (expected * (1 - weight / total)) ** 0.5  # of a binomial distribution
        assert abs(counts[name] - expected) <= 5 * spread


def test_sessions_whose_names_differ_in_one_digit_are_shared_out_all_the_same() -> None:
    split = Split([Share("a", 1), Share("b", 1)])
    counts = Counter(split.choose(f"defaultApp/{i}") for i in range(4000))
    assert 1800 < counts["a"] < 2200


def test_weight_0_gets_none() -> None:
    assert set(chosen(Share("php", 1), Share("new", 0))) == {"php"}


def test_weights_that_are_all_0_are_an_error() -> None:
    with pytest.raises(ValueError, match="must give at least one upstream a weight above 0"):
        Split([Share("a", 0), Share("b", 0)])


def test_other_processes_choose_the_same() -> None:
    # With any PYTHONHASHSEED.
    source = (
        "import sys\n"
        "from gateway.policy.split import Share, Split\n"
        "split = Split([Share('php', 60), Share('new', 40)])\n"
        "print(''.join(split.choose(f'session {i}')[0] for i in range(100)))\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=20, check=True, env={"PYTHONPATH": "."}
    ).stdout.strip()
    split = Split([Share("php", 60), Share("new", 40)])
    assert other == "".join(split.choose(f"session {i}")[0] for i in range(100))


def test_the_choice_is_the_same_in_later_versions() -> None:
    """An update of the gateway, worker by worker, must not send a session's hooks elsewhere."""
    split = Split([Share("php", 60), Share("new", 40)])
    assert "".join(split.choose(f"session {i}")[0] for i in range(40)) == "pppppppppppnnppnpnnnppnnnpnpppnpnpnnnppn"


def test_where_two_draw_the_same_the_order_in_the_file_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_module, "_uniform", lambda digest: 0.5)
    shares = [Share("a", 1), Share("b", 1), Share("c", 1)]
    assert len({Split(order).choose("session") for order in permutations(shares)}) == 1


@pytest.mark.parametrize("digest", [b"\x00" * 8, b"\xff" * 8, b"\xff" * 7 + b"\x00", b"\x00" * 7 + b"\xff"])
def test_no_draw_is_0_or_1_whose_logarithms_would_be_no_score(digest: bytes) -> None:
    assert 0.0 < _uniform(digest) < 1.0


def test_adversarial_names_that_run_into_each_other_draw_apart() -> None:
    # Were name and session hashed as one text, "a" would draw for "bc" what "ab" draws for "c".
    draws = {}
    for name, session in (("a", b"bc"), ("ab", b"c"), ("abc", b"")):
        draw = _hash_start(name)
        draw.update(session)
        draws[name] = draw.digest()
    assert len(set(draws.values())) == 3


@pytest.mark.parametrize("session", ["", "\x00", "\ud800", "é" * 100_000])
def test_adversarial_sessions_have_an_upstream_too(session: str) -> None:
    split = Split([Share("a", 1), Share("b", 1)])
    assert split.choose(session) == split.choose(session)
    assert split.choose(session) in {"a", "b"}
