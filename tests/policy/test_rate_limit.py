"""How many hooks a second: the text of a rate, and the bucket that counts."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.policy.rate_limit import FORM, PATTERN, Limiter, Rate, parse_rate

RATES = st.builds(Rate, st.floats(0.001, 100_000), st.integers(1, 1000))
STEPS = st.lists(st.floats(0, 10) | st.just(0.0), max_size=200)
"""Seconds between hooks."""
STARTS = st.floats(0, 1e6)
"""Where a monotonic clock may stand: at the machine's first second, or after eleven days."""
LITTLE = 0.01


# --- the text ---


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("50/s", Rate(50.0, 50)),
        ("50/s burst 100", Rate(50.0, 100)),
        ("50/s   burst   100", Rate(50.0, 100)),
        ("300/m", Rate(5.0, 5)),
        ("30/m", Rate(0.5, 1)),
        ("1/h burst 3", Rate(1 / 3600, 3)),
        ("0.5/s", Rate(0.5, 1)),
        ("2.5/s", Rate(2.5, 2)),
        ("1000000/s", Rate(1e6, 1_000_000)),
    ],
)
def test_a_rate_s_text(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    ["", "50", "/s", "50/d", "50 /s", "-1/s", "50/s burst", "50/s burst 1.5", "50/sburst 5", "1e3/s", "50/s\n", "٥/s"],
)
def test_what_is_no_rate_is_told_what_one_looks_like(text: str) -> None:
    with pytest.raises(ValueError, match="must be a rate such as"):
        parse_rate(text)
    assert FORM.startswith("must be")


@pytest.mark.parametrize("text", ["0/s", "0.0/h", "1000001/s", "999999999/s burst 1"])
def test_a_rate_is_more_than_nothing_and_less_than_no_limit(text: str) -> None:
    with pytest.raises(ValueError, match="must be more than 0 and at most 1000000/s"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["1/s burst 0", "1/s burst 10000001"])
def test_a_burst_has_its_bounds(text: str) -> None:
    with pytest.raises(ValueError, match="must have a burst from 1 to 10000000"):
        parse_rate(text)


@given(st.from_regex(PATTERN, fullmatch=True))
def test_what_the_schema_lets_through_is_read_or_out_of_bounds(text: str) -> None:
    words, rate = "", None
    try:
        rate = parse_rate(text)
    except ValueError as exc:
        words = str(exc)
    if rate is None:
        assert words.startswith(("must be more than 0", "must have a burst from 1"))
    else:
        assert rate.per_second > 0
        assert rate.burst >= 1


@given(st.integers(1, 100_000), st.sampled_from("smh"), st.integers(1, 1000))
def test_a_rate_s_own_text_reads_back_as_the_same(number: int, unit: str, burst: int) -> None:
    rate = parse_rate(f"{number}/{unit} burst {burst}")
    again = parse_rate(str(rate))
    assert again.burst == burst
    assert again.per_second == pytest.approx(rate.per_second, rel=1e-3)


@given(RATES, st.integers(1, 64))
def test_the_workers_parts_make_up_the_whole(rate: Rate, workers: int) -> None:
    part = rate.per_worker(workers)
    assert part.per_second * workers == pytest.approx(rate.per_second)
    assert part.burst >= 1
    assert part.burst * workers <= max(rate.burst, workers)


@given(RATES, st.floats(0.001, 1.0))
def test_a_part_of_a_rate_has_the_same_part_of_its_burst(rate: Rate, part: float) -> None:
    scaled = rate.scaled(rate.per_second * part)
    assert scaled.per_second == rate.per_second * part
    assert 1 <= scaled.burst <= max(1, rate.burst * part + 1e-6)
    assert scaled.burst >= rate.burst * part - 1
    assert rate.scaled(rate.per_second) == rate


# --- the bucket ---


@given(RATES, STEPS, STARTS)
def test_in_no_span_of_time_do_more_pass_than_the_burst_and_what_the_rate_brings(
    rate: Rate, steps: list[float], start: float
) -> None:
    limiter = Limiter(rate, start)
    now, passed = start, []
    for step in steps:
        now += step
        if limiter.take(now):
            passed.append(now)
    for first, begin in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= rate.burst + rate.per_second * (passed[last] - begin) + LITTLE


@given(RATES, STEPS, STARTS)
@example(Rate(50.0, 1), [0.0] * 150, 999_999.7)
def test_hooks_below_the_rate_are_never_refused(rate: Rate, steps: list[float], start: float) -> None:
    limiter, late = Limiter(rate, start), 0.0
    for i, step in enumerate(steps):
        late += step
        assert limiter.take(start + i / rate.per_second + late)


@given(RATES, STEPS, STARTS)
def test_a_hook_is_refused_only_where_the_rate_or_burst_is_used_up(
    rate: Rate, steps: list[float], start: float
) -> None:
    """The model: of the bucket's room, the most used up by any span of time that ends now."""
    limiter = Limiter(rate, start)
    now, passed = start, []
    for step in steps:
        now += step
        if limiter.take(now):
            passed.append(now)
        else:
            used = max(
                (len(passed) - i - rate.per_second * (now - begin) for i, begin in enumerate(passed)), default=0.0
            )
            assert used > rate.burst - 1 - LITTLE


@given(RATES, st.integers(0, 50), STARTS)
def test_of_many_at_once_exactly_the_burst_passes(rate: Rate, over: int, start: float) -> None:
    limiter = Limiter(rate, start)
    assert sum(limiter.take(start) for _ in range(rate.burst + over)) == rate.burst


def test_after_a_burst_hooks_pass_at_the_rate() -> None:
    limiter = Limiter(Rate(4.0, 8), 0.0)
    assert sum(limiter.take(0.0) for _ in range(20)) == 8
    assert [limiter.take(i / 8) for i in range(1, 9)] == [False, True] * 4
    assert sum(limiter.take(100.0) for _ in range(20)) == 8


def test_a_fraction_of_a_hook_per_second_is_a_hook_now_and_then() -> None:
    limiter = Limiter(Rate(0.25, 1), 0.0)
    assert [second for second in range(20) if limiter.take(float(second))] == [0, 4, 8, 12, 16]


def test_a_hook_that_was_refused_costs_nothing() -> None:
    limiter = Limiter(Rate(1.0, 1), 0.0)
    assert limiter.take(0.0)
    assert not any(limiter.take(0.0625 * i) for i in range(15))
    assert limiter.take(1.0)


@given(RATES, st.lists(st.floats(-1000, 1000), max_size=100))
def test_adversarial_clock_that_jumps_never_yields_more_than_the_burst_at_once(rate: Rate, jumps: list[float]) -> None:
    limiter, now = Limiter(rate, 0.0), 0.0
    for jump in jumps:
        now += jump
        assert sum(limiter.take(now) for _ in range(rate.burst + 1)) <= rate.burst


def test_adversarial_clock_that_goes_back_neither_fills_the_bucket_nor_stops_it() -> None:
    limiter = Limiter(Rate(1.0, 2), 1000.0)
    assert [limiter.take(1000.0) for _ in range(3)] == [True, True, False]
    assert not limiter.take(0.0)
    assert [limiter.take(t) for t in (0.5, 1.0, 1.5, 2.0)] == [False, True, False, True]


@given(RATES, RATES, st.integers(0, 1000))
def test_what_was_taken_stays_taken_under_another_rate(old: Rate, new: Rate, hooks: int) -> None:
    limiter = Limiter(old, 0.0)
    taken = sum(limiter.take(0.0) for _ in range(hooks))
    limiter.configure(new)
    assert sum(limiter.take(0.0) for _ in range(new.burst + 1)) == max(0, new.burst - taken)


def test_a_reload_with_the_same_rate_changes_nothing() -> None:
    limiter = Limiter(Rate(1.0, 4), 0.0)
    assert [limiter.take(0.0) for _ in range(3)] == [True] * 3
    for _ in range(100):
        limiter.configure(Rate(1.0, 4))
    assert [limiter.take(0.0) for _ in range(3)] == [True, False, False]


def test_another_rate_counts_from_the_time_of_the_last_hook() -> None:
    limiter = Limiter(Rate(1.0, 1), 0.0)
    assert limiter.take(0.0)
    limiter.configure(Rate(10.0, 1))
    assert not limiter.take(0.05)
    assert limiter.take(0.1)


def test_a_lower_burst_leaves_no_debt() -> None:
    limiter = Limiter(Rate(1.0, 100), 0.0)
    assert sum(limiter.take(0.0) for _ in range(100)) == 100
    limiter.configure(Rate(1.0, 2))
    assert not limiter.take(0.5)
    assert limiter.take(1.0)


@given(RATES, st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.01, 1.0), st.integers(0, 100)), max_size=50))
def test_a_share_that_changes_yields_no_more_than_the_first_burst_and_what_each_share_brings(
    whole: Rate, steps: list[tuple[float, float, int]]
) -> None:
    rate, now, passed = whole, 0.0, 0
    limiter, allowed = Limiter(rate, now), float(rate.burst)
    for seconds, part, hooks in steps:
        now += seconds
        allowed += seconds * rate.per_second
        passed += sum(limiter.take(now) for _ in range(hooks))
        rate = whole.scaled(whole.per_second * part)
        limiter.rescale(rate, now)
        assert passed <= allowed + LITTLE
        passed_at_once = sum(limiter.take(now) for _ in range(rate.burst + 1))
        passed += passed_at_once
        assert passed_at_once <= rate.burst


def test_a_share_that_comes_and_goes_gives_nothing_each_time() -> None:
    limiter = Limiter(Rate(80.0, 80), 0.0)
    assert sum(limiter.take(0.0) for _ in range(100)) == 80
    for _ in range(10):
        limiter.rescale(Rate(20.0, 20), 0.0)
        limiter.rescale(Rate(80.0, 80), 0.0)
    assert not limiter.take(0.0)


def test_an_idle_replica_whose_share_grows_gets_the_rate_at_once_and_the_burst_in_time() -> None:
    limiter = Limiter(Rate(1.0, 1), 0.0)
    limiter.rescale(Rate(100.0, 100), 60.0)
    assert sum(limiter.take(60.0) for _ in range(100)) == 1
    assert sum(limiter.take(60.5) for _ in range(100)) == 50
