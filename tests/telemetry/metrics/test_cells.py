"""Counters, gauges and histograms against a naive model, and the room of those that are removed."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.metrics.cells import Counter, Gauge, Histogram, MetricCells
from gateway.telemetry.metrics.exposition import render
from tests.support.samples import BOUNDS, LONGEST_HOOK, Clock, label_values, samples_of, values

amounts = st.integers(0, 1000).map(float)


@given(st.lists(st.tuples(label_values, label_values, amounts), max_size=30))
def test_counters_add_up_as_a_dictionary_does(events: list[tuple[str, str, float]]) -> None:
    counter = Counter(MetricCells(), "things_total", "Things.", ("a", "b"))
    model: dict[tuple[str, str], float] = defaultdict(float)
    for one, other, amount in events:
        counter.with_labels(one, other).inc(amount)
        model[one, other] += amount
    assert {series.labels: series.values[0] for series in counter.read()} == model
    read = samples_of(render([(counter, counter.read())]))
    assert {dict(pairs)["a"] + "/" + dict(pairs)["b"] for name, pairs in read if name == "things_total"} == {
        f"{one}/{other}" for one, other in model
    }
    for (one, other), total in model.items():
        assert values(read, "things_total", a=one, b=other) == [total]


@given(st.lists(st.tuples(st.booleans(), st.floats(allow_nan=False, allow_infinity=False, width=32)), max_size=30))
def test_a_gauge_stands_where_it_was_set_and_then_moved(events: list[tuple[bool, float]]) -> None:
    gauge = Gauge(MetricCells(), "level", "Level.", ())
    level = 0.0
    for is_set, value in events:
        if is_set:
            gauge.with_labels().set(value)
            level = value
        else:
            gauge.with_labels().inc(value)
            level += value
    assert gauge.with_labels().get() == level


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.floats(0, 5) | st.sampled_from(BOUNDS)), max_size=40))
def test_histograms_count_as_a_list_of_all_observations_does(events: list[tuple[str, float]]) -> None:
    histogram = Histogram(MetricCells(), "seconds", "Seconds.", ("a",), BOUNDS)
    model: dict[str, list[float]] = defaultdict(list)
    for label, value in events:
        histogram.with_labels(label).observe(value)
        model[label].append(value)
    read = samples_of(render([(histogram, histogram.read())]))
    for label, seen in model.items():
        for bound in BOUNDS:
            expected = sum(1 for value in seen if value <= bound)
            assert values(read, "seconds_bucket", a=label, le=repr(bound)) == [expected]
        assert values(read, "seconds_bucket", a=label, le="+Inf") == [len(seen)]
        assert values(read, "seconds_count", a=label) == [len(seen)]
        (total,) = values(read, "seconds_sum", a=label)
        assert math.isclose(total, math.fsum(seen), abs_tol=1e-9)


def test_a_series_wants_as_many_values_as_the_metric_has_labels() -> None:
    counter = Counter(MetricCells(), "things_total", "Things.", ("a", "b"))
    with pytest.raises(ValueError, match="things_total"):
        counter.with_labels("one")
    assert list(counter.read()) == []


# --- removal ---


steps = st.one_of(
    st.tuples(st.just("inc"), st.sampled_from("abcd"), amounts),
    st.tuples(st.just("keep"), st.sets(st.sampled_from("abcd")), st.just(0.0)),
    st.tuples(st.just("wait"), st.just(""), st.floats(0, 2 * LONGEST_HOOK)),
)


@given(st.lists(steps, max_size=40))
def test_removed_series_go_and_those_that_come_back_begin_at_zero(
    events: list[tuple[str, str | set[str], float]],
) -> None:
    clock = Clock()
    cells = MetricCells(clock=clock)
    families = [Counter(cells, f"f{number}_total", "F.", ("a",)) for number in range(2)]
    histogram = Histogram(cells, "h", "H.", ("a",), BOUNDS)
    model: dict[str, list[float]] = {}
    for what, which, number in events:
        if what == "inc":
            assert isinstance(which, str)
            for family in families:
                family.with_labels(which).inc(number)
            histogram.with_labels(which).observe(number)
            model.setdefault(which, []).append(number)
        elif what == "keep":
            for kept in (*families, histogram):
                kept.keep(("a",), which)
            model = {name: seen for name, seen in model.items() if name in which}
        else:
            clock.now += number
    for family in families:
        assert {series.labels[0]: series.values[0] for series in family.read()} == {
            name: sum(seen) for name, seen in model.items()
        }
    assert {series.labels[0]: (sum(series.values[:-1]), series.values[-1]) for series in histogram.read()} == {
        name: (len(seen), sum(seen)) for name, seen in model.items()
    }


def test_a_hook_in_flight_may_add_to_a_removed_series_without_harm_to_any_other() -> None:
    clock = Clock()
    counter = Counter(MetricCells(clock=clock), "things_total", "Things.", ("a",))
    held = counter.with_labels("old")
    counter.keep(("a",), ())
    clock.now += LONGEST_HOOK
    fresh = counter.with_labels("new")
    held.inc()
    assert fresh.get() == 0
    assert [series.labels for series in counter.read()] == [("new",)]


def test_a_removed_series_room_is_used_again_in_the_end() -> None:
    clock = Clock()
    cells = MetricCells(clock=clock)
    histogram = Histogram(cells, "h", "H.", ("a",), BOUNDS)
    before = cells.allocate("before", (), 1)
    for _ in range(5):
        histogram.with_labels("x").observe(1.0)
        histogram.keep(("a",), ())
        clock.now += 10 * LONGEST_HOOK
    assert cells.allocate("after", (), 1) == before + 1 + histogram.length


def test_beyond_the_memory_counting_does_no_harm_and_is_not_read() -> None:
    cells = MetricCells()
    counter = Counter(cells, "c_total", "C.", ("a",))
    histogram = Histogram(cells, "h", "H.", ("a",), BOUNDS)
    counter.with_labels("last").inc()
    last = cells.allocate("nearly all", (), 1)
    assert cells.allocate("nearly all", (), len(cells.values) - last - 1) == last + 1
    counter.with_labels("no room").inc(5)
    histogram.with_labels("no room").observe(0.1)
    counter.keep(("a",), ("last",))
    assert [(series.labels, list(series.values)) for series in counter.read()] == [(("last",), [1.0])]
    assert list(histogram.read()) == []


def test_room_of_another_size_is_not_used_again() -> None:
    clock = Clock()
    cells = MetricCells(clock=clock)
    histogram, counter = Histogram(cells, "h", "H.", ("a",), BOUNDS), Counter(cells, "c_total", "C.", ("a",))
    counter.with_labels("x").inc(7)
    counter.keep(("a",), ())
    clock.now += 10 * LONGEST_HOOK
    histogram.with_labels("x").observe(0.1)
    other = counter.with_labels("y")
    assert other.get() == 0
    other.inc()
    assert [list(series.values) for series in histogram.read()] == [[1, 0, 0, 0, 0.1]]
