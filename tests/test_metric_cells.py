"""Counters and histograms against a naive model, what reloads remove, and what a scrape then reads."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator

import pytest
from gateways import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.config import parse_duration
from gateway.metrics import Metrics
from gateway.metrics.catalogue import APP_LABEL_LIMIT, DURATION_BUCKETS, UNKNOWN_APP
from gateway.metrics.cells import Cells, Counter, Gauge, Histogram
from gateway.metrics.exposition import render
from gateway.metrics.foreign import ForeignCells
from gateway.verdicts import (
    Cause,
    Decision,
    Failure,
    Fallback,
    ProxyError,
    Ruling,
    allowed_by_backend,
    by_fallback,
    denied_by_backend,
)

CHECKED = settings(deadline=None, max_examples=50)
LONGEST_HOOK = parse_duration("10m")
"""Seconds: the longest budget that the configuration allows."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples_of(text: bytes) -> Samples:
    """Every sample of an exposition; none may stand there twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode("utf-8")):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


def values(samples: Samples, name: str, **labels: str) -> list[float]:
    return [value for (got, pairs), value in samples.items() if got == name and labels.items() <= dict(pairs).items()]


def apps_of(samples: Samples, name: str) -> set[str | None]:
    return {dict(pairs).get("app") for got, pairs in samples if got == name}


amounts = st.integers(0, 1000).map(float)
label_values = st.text(min_size=1, max_size=5)
observations = st.floats(0, 100, allow_nan=False) | st.sampled_from(DURATION_BUCKETS)
BOUNDS = (0.5, 1.0, 2.5)


@CHECKED
@given(st.lists(st.tuples(label_values, label_values, amounts), max_size=30))
def test_counters_add_up_as_a_dictionary_does(events: list[tuple[str, str, float]]) -> None:
    counter = Counter(Cells(), "things_total", "Things.", ("a", "b"))
    model: dict[tuple[str, str], float] = defaultdict(float)
    for one, other, amount in events:
        counter.labelled(one, other).inc(amount)
        model[one, other] += amount
    assert {series.labels: series.values[0] for series in counter.read()} == model
    read = samples_of(render([(counter, counter.read())]))
    assert {dict(pairs)["a"] + "/" + dict(pairs)["b"] for name, pairs in read if name == "things_total"} == {
        f"{one}/{other}" for one, other in model
    }
    for (one, other), total in model.items():
        assert values(read, "things_total", a=one, b=other) == [total]


@CHECKED
@given(st.lists(st.tuples(st.booleans(), st.floats(allow_nan=False, allow_infinity=False, width=32)), max_size=30))
def test_a_gauge_stands_where_it_was_set_and_then_moved(events: list[tuple[bool, float]]) -> None:
    gauge = Gauge(Cells(), "level", "Level.", ())
    level = 0.0
    for is_set, value in events:
        if is_set:
            gauge.labelled().set(value)
            level = value
        else:
            gauge.labelled().inc(value)
            level += value
    assert gauge.labelled().get() == level


@CHECKED
@given(st.lists(st.tuples(st.sampled_from("xyz"), st.floats(0, 5) | st.sampled_from(BOUNDS)), max_size=40))
def test_histograms_count_as_a_list_of_all_observations_does(events: list[tuple[str, float]]) -> None:
    histogram = Histogram(Cells(), "seconds", "Seconds.", ("a",), BOUNDS)
    model: dict[str, list[float]] = defaultdict(list)
    for label, value in events:
        histogram.labelled(label).observe(value)
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
    counter = Counter(Cells(), "things_total", "Things.", ("a", "b"))
    with pytest.raises(ValueError, match="things_total"):
        counter.labelled("one")
    assert list(counter.read()) == []


# --- removal ---


steps = st.one_of(
    st.tuples(st.just("inc"), st.sampled_from("abcd"), amounts),
    st.tuples(st.just("keep"), st.sets(st.sampled_from("abcd")), st.just(0.0)),
    st.tuples(st.just("wait"), st.just(""), st.floats(0, 2 * LONGEST_HOOK)),
)


@CHECKED
@given(st.lists(steps, max_size=40))
def test_removed_series_go_and_those_that_come_back_begin_at_zero(
    events: list[tuple[str, str | set[str], float]],
) -> None:
    clock = Clock()
    cells = Cells(clock=clock)
    families = [Counter(cells, f"f{number}_total", "F.", ("a",)) for number in range(2)]
    histogram = Histogram(cells, "h", "H.", ("a",), BOUNDS)
    model: dict[str, list[float]] = {}
    for what, which, number in events:
        if what == "inc":
            assert isinstance(which, str)
            for family in families:
                family.labelled(which).inc(number)
            histogram.labelled(which).observe(number)
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
    counter = Counter(Cells(clock=clock), "things_total", "Things.", ("a",))
    held = counter.labelled("old")
    counter.keep(("a",), ())
    clock.now += LONGEST_HOOK
    fresh = counter.labelled("new")
    held.inc()
    assert fresh.get() == 0
    assert [series.labels for series in counter.read()] == [("new",)]


def test_a_removed_series_room_is_used_again_in_the_end() -> None:
    clock = Clock()
    cells = Cells(clock=clock)
    histogram = Histogram(cells, "h", "H.", ("a",), BOUNDS)
    before = cells.allocate("before", (), 1)
    for _ in range(5):
        histogram.labelled("x").observe(1.0)
        histogram.keep(("a",), ())
        clock.now += 10 * LONGEST_HOOK
    assert cells.allocate("after", (), 1) == before + 1 + histogram.length


def test_beyond_the_memory_counting_does_no_harm_and_is_not_read() -> None:
    cells = Cells()
    counter = Counter(cells, "c_total", "C.", ("a",))
    histogram = Histogram(cells, "h", "H.", ("a",), BOUNDS)
    counter.labelled("last").inc()
    last = cells.allocate("nearly all", (), 1)
    assert cells.allocate("nearly all", (), len(cells.values) - last - 1) == last + 1
    counter.labelled("no room").inc(5)
    histogram.labelled("no room").observe(0.1)
    counter.keep(("a",), ("last",))
    assert [(series.labels, list(series.values)) for series in counter.read()] == [(("last",), [1.0])]
    assert list(histogram.read()) == []


# --- other processes' ---


def worker_of(foreign: ForeignCells) -> Metrics:
    """The metrics of a worker that counts into this memory."""
    return Metrics("1", Cells(foreign.values_fd, foreign.names_fd))


@pytest.fixture
def others() -> Iterator[list[ForeignCells]]:
    """The memory of three workers."""
    made = [ForeignCells() for _ in range(3)]
    yield made
    for foreign in made:
        foreign.close()


def test_a_scrape_adds_up_what_all_processes_have_counted(others: list[ForeignCells]) -> None:
    ours = Metrics("1")
    ours.configure({"a", "b"}, set())
    ours.record(decision("a", duration=0.3))
    for number, foreign in enumerate(others):
        worker = worker_of(foreign)
        worker.configure({"a", "b"}, set())
        for _ in range(number):
            worker.record(decision("a", duration=0.3, upstream_duration=0.0))
    worker.record(decision("b"))
    read = samples_of(ours.render(others))
    assert_histograms_hold(read)
    assert values(read, "gateway_hooks_total", app="a") == [1 + 0 + 1 + 2]
    assert values(read, "gateway_hooks_total", app="b") == [1]
    assert values(read, "gateway_hook_duration_seconds_bucket", app="a", le="0.25") == [0]
    assert values(read, "gateway_hook_duration_seconds_bucket", app="a", le="0.5") == [4]
    (total,) = values(read, "gateway_hook_duration_seconds_sum", app="a")
    assert math.isclose(total, 1.2)


def test_what_a_worker_goes_on_counting_is_in_the_next_scrape(others: list[ForeignCells]) -> None:
    ours, worker = Metrics("1"), worker_of(others[0])
    for expected in (1, 2, 3):
        worker.worker_deaths.inc()
        assert values(samples_of(ours.render(others)), "gateway_worker_deaths_total") == [expected]


def test_a_scrape_changes_nothing_of_what_is_counted(others: list[ForeignCells]) -> None:
    ours, worker = Metrics("1"), worker_of(others[0])
    worker.record(decision(UNKNOWN_APP))
    ours.record(decision(UNKNOWN_APP))
    wanted = values(samples_of(ours.render(others)), "gateway_hooks_total")
    assert wanted == values(samples_of(ours.render(others)), "gateway_hooks_total") == [2]
    assert values(samples_of(ours.render()), "gateway_hooks_total") == [1]


def test_hooks_in_flight_add_up_over_the_processes(others: list[ForeignCells]) -> None:
    for number, foreign in enumerate(others):
        worker_of(foreign).in_flight.labelled("a").set(number + 1)
    assert values(samples_of(Metrics("1").render(others)), "gateway_hooks_in_flight", app="a") == [6]


@pytest.mark.parametrize(("said", "shown"), [((1, 1, 1), 1), ((1, 0, 1), 0), ((0, 0, 0), 0)])
def test_a_target_is_down_where_one_process_has_it_ejected(
    others: list[ForeignCells], said: tuple[int, ...], shown: int
) -> None:
    for foreign, up in zip(others, said, strict=True):
        worker_of(foreign).target_up.labelled("u", "t").set(up)
    assert values(samples_of(Metrics("1").render(others)), "gateway_target_up", target="t") == [shown]


def test_the_configuration_s_load_and_the_build_are_told_once_and_not_added_up(others: list[ForeignCells]) -> None:
    ours = Metrics("1")
    ours.loaded(successful=True)
    before = values(samples_of(ours.render()), "gateway_config_last_reload_success_timestamp_seconds")
    for foreign in others:
        worker_of(foreign)
    read = samples_of(ours.render(others))
    assert values(read, "gateway_config_last_reload_successful") == [1]
    assert values(read, "gateway_config_last_reload_success_timestamp_seconds") == before
    assert values(read, "gateway_build_info", version="1") == [1]


def test_what_a_dead_worker_had_counted_stays_and_its_gauges_end(others: list[ForeignCells]) -> None:
    ours, worker = Metrics("1"), worker_of(others[0])
    ours.record(decision(UNKNOWN_APP))
    worker.record(decision(UNKNOWN_APP, "connect"))
    worker.record(decision(UNKNOWN_APP))
    worker.in_flight.labelled(UNKNOWN_APP).inc()
    before = samples_of(ours.render(others[:1]))
    ours.inherit(others[0])
    after = samples_of(ours.render())
    counted = {key: value for key, value in before.items() if key[0].startswith(("gateway_hook", "gateway_overhead"))}
    level = {key for key in counted if key[0] == "gateway_hooks_in_flight"}
    assert {key: after[key] for key in counted.keys() - level} == {key: counted[key] for key in counted.keys() - level}
    assert values(before, "gateway_hooks_in_flight") == [1]
    assert sum(values(after, "gateway_hooks_in_flight")) == 0


def test_a_worker_that_is_killed_has_counted_all_the_same(others: list[ForeignCells]) -> None:
    foreign = others[0]
    program = (
        "import os, signal\n"
        "from gateway.metrics import Metrics\n"
        "from gateway.metrics.cells import Cells\n"
        f"metrics = Metrics('1', Cells({foreign.values_fd}, {foreign.names_fd}))\n"
        "metrics.attempts.labelled('u', 't', 'ok').inc(3)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    fds = (foreign.values_fd, foreign.names_fd)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, pass_fds=fds, timeout=60)
    assert done.returncode == -signal.SIGKILL
    ours = Metrics("1")
    ours.inherit(foreign)
    assert values(samples_of(ours.render()), "gateway_upstream_attempts_total", upstream="u") == [3]


def test_series_that_a_worker_removed_are_not_read_from_it(others: list[ForeignCells]) -> None:
    ours, worker = Metrics("1"), worker_of(others[0])
    worker.configure({"a", "b"}, set())
    worker.record(decision("a"))
    worker.record(decision("b"))
    assert apps_of(samples_of(ours.render(others)), "gateway_hooks_total") == {"a", "b"}
    worker.configure({"b"}, set())
    assert apps_of(samples_of(ours.render(others)), "gateway_hooks_total") == {"b"}


def test_cells_that_a_worker_used_again_count_for_their_new_series_alone(others: list[ForeignCells]) -> None:
    clock, foreign = Clock(), others[0]
    counter = Counter(Cells(foreign.values_fd, foreign.names_fd, clock), "c_total", "C.", ("a",))
    for number in range(3):
        name = f"series-{number}"
        counter.labelled(name).inc(number + 1)
        foreign.refresh()
        assert [(one.labels, list(one.values)) for one in foreign.series(counter)] == [((name,), [number + 1])]
        counter.keep(("a",), ())
        clock.now += 10 * LONGEST_HOOK
    counter.labelled("last").inc(7)
    counter.labelled("more").inc(8)
    foreign.refresh()
    assert {one.labels: list(one.values) for one in foreign.series(counter)} == {("last",): [7], ("more",): [8]}


journals = st.lists(st.tuples(st.sampled_from("+-"), label_values, st.integers(64, 5000)), max_size=12)


@CHECKED
@given(journals, st.data())
def test_a_journal_that_is_read_while_it_is_written_reads_as_it_does_whole(
    entries: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    lines = [json.dumps([sign, "c_total", [label], index]).encode() + b"\n" for sign, label, index in entries]
    journal = b"".join(lines)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(journal)), max_size=8)))
    counter = Counter(Cells(), "c_total", "C.", ("a",))
    whole, piecemeal = ForeignCells(), ForeignCells()
    try:
        os.write(whole.names_fd, journal)
        whole.refresh()
        for start, end in itertools.pairwise([0, *cuts, len(journal)]):
            os.write(piecemeal.names_fd, journal[start:end])
            piecemeal.refresh()
        assert {one.labels for one in piecemeal.series(counter)} == {one.labels for one in whole.series(counter)}
        model: dict[str, int] = {}
        for sign, label, index in entries:
            model.pop(label, None)
            model.update({label: index} if sign == "+" else {})
        assert {one.labels[0] for one in whole.series(counter)} == model.keys()
    finally:
        whole.close()
        piecemeal.close()


def test_a_journal_whose_last_line_was_never_finished_is_read_up_to_it(others: list[ForeignCells]) -> None:
    ours, foreign = Metrics("1"), others[0]
    worker_of(foreign).attempts.labelled("u", "t", "ok").inc()
    os.write(foreign.names_fd, b'["+","gateway_hooks_to')
    for _ in range(2):
        assert values(samples_of(ours.render(others)), "gateway_upstream_attempts_total") == [1]
    ours.inherit(foreign)
    assert values(samples_of(ours.render()), "gateway_upstream_attempts_total") == [1]


def test_a_dead_worker_s_memory_is_let_go() -> None:
    foreign = ForeignCells()
    worker_of(foreign)
    foreign.refresh()
    foreign.close()
    for fd in (foreign.values_fd, foreign.names_fd):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_room_of_another_size_is_not_used_again() -> None:
    clock = Clock()
    cells = Cells(clock=clock)
    histogram, counter = Histogram(cells, "h", "H.", ("a",), BOUNDS), Counter(cells, "c_total", "C.", ("a",))
    counter.labelled("x").inc(7)
    counter.keep(("a",), ())
    clock.now += 10 * LONGEST_HOOK
    histogram.labelled("x").observe(0.1)
    other = counter.labelled("y")
    assert other.get() == 0
    other.inc()
    assert [list(series.values) for series in histogram.read()] == [[1, 0, 0, 0, 0.1]]


# --- exposition ---


def assert_histograms_hold(samples: Samples) -> None:
    """Buckets rise, and the last of them is the count."""
    buckets: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[float, float]]] = defaultdict(list)
    for (name, pairs), value in samples.items():
        if name.endswith("_bucket"):
            labels = dict(pairs)
            bound = float(labels.pop("le"))
            buckets[name.removesuffix("_bucket"), tuple(sorted(labels.items()))].append((bound, value))
    assert buckets
    for (name, series), found in buckets.items():
        counts = [count for _, count in sorted(found)]
        assert counts == sorted(counts)
        assert max(found)[0] == math.inf
        assert samples[f"{name}_count", series] == counts[-1]
        assert (f"{name}_sum", series) in samples


def decision(
    app: str = "a",
    method: str = "OnCallEvent",
    ruling: Ruling | None = None,
    duration: float = 0.02,
    upstream_duration: float = 0.015,
) -> Decision:
    return Decision(
        ruling or denied_by_backend(), 1e9, "id", app, method, 3.0, duration, "u", "http://t/", 1, upstream_duration
    )


RULINGS = [
    allowed_by_backend(b"{}"),
    denied_by_backend(),
    *(by_fallback(Failure(cause, ProxyError.DNS_ERROR, ""), Fallback(frozenset({cause})), b"") for cause in Cause),
    *(by_fallback(Failure(cause, ProxyError.DNS_ERROR, ""), Fallback(), b"") for cause in Cause),
]

decisions = st.builds(
    decision,
    app=st.sampled_from(["a", "tenant-*", 'quoted"app\\', "ünï", "gone", UNKNOWN_APP]),
    method=st.sampled_from(["OnCallEvent", "connect", "_other"]),
    ruling=st.sampled_from(RULINGS),
    duration=observations,
    upstream_duration=st.just(0.0),
)
CONFIGURED = {"a", "tenant-*", 'quoted"app\\', "ünï"}


@CHECKED
@given(st.lists(decisions, min_size=1, max_size=30))
def test_what_is_recorded_is_what_a_scrape_reads(recorded: list[Decision]) -> None:
    metrics = Metrics("1.2.3")
    metrics.configure(CONFIGURED, set())
    for one in recorded:
        metrics.record(one)
    read = samples_of(metrics.render())
    assert_histograms_hold(read)
    model: dict[tuple[str, str, str, str, str], int] = defaultdict(int)
    for one in recorded:
        app = one.app if one.app in CONFIGURED else UNKNOWN_APP
        model[app, one.method, one.ruling.verdict, one.ruling.source, one.ruling.reason] += 1
    assert len(values(read, "gateway_hooks_total")) == len(model)
    for (app, method, verdict, source, reason), count in model.items():
        labels = {"app": app, "method": method, "verdict": verdict, "source": source, "reason": reason}
        assert values(read, "gateway_hooks_total", **labels) == [count]
    assert sum(values(read, "gateway_hook_duration_seconds_count")) == len(recorded)
    assert sum(values(read, "gateway_overhead_seconds_count")) == len(recorded)


def test_an_app_that_is_not_configured_counts_as_unknown() -> None:
    metrics = Metrics("1")
    metrics.configure({"a"}, set())
    metrics.record(decision("stranger"))
    metrics.record(decision("a"))
    assert apps_of(samples_of(metrics.render()), "gateway_hooks_total") == {"a", UNKNOWN_APP}


def test_a_hook_that_outlives_its_app_counts_as_unknown() -> None:
    metrics = Metrics("1")
    metrics.configure({"a", "b"}, set())
    metrics.record(decision("b"))
    metrics.configure({"a"}, set())
    metrics.record(decision("b"))
    read = samples_of(metrics.render())
    for name in ("gateway_hooks_total", "gateway_hook_duration_seconds_count", "gateway_overhead_seconds_count"):
        assert apps_of(read, name) == {UNKNOWN_APP}


def test_series_of_what_a_reload_removes_go_away_and_the_others_stay() -> None:
    metrics = Metrics("1")
    metrics.configure({"a", "b"}, {("u", "http://1/"), ("u", "http://2/"), ("w", "http://3/")})
    for app in ("a", "b"):
        metrics.record(decision(app))
        metrics.in_flight.labelled(app).inc()
    for upstream, target in (("u", "http://1/"), ("u", "http://2/"), ("w", "http://3/")):
        metrics.attempts.labelled(upstream, target, "ok").inc()
        metrics.target_up.labelled(upstream, target).set(1)
        metrics.upstream_duration.labelled(upstream).observe(0.1)
        metrics.retries.labelled(upstream, "unreachable").inc()
    metrics.configure({"a"}, {("u", "http://2/")})
    read = samples_of(metrics.render())
    ours = [(name, dict(pairs)) for name, pairs in read if name.startswith("gateway_")]
    assert {labels["app"] for _, labels in ours if "app" in labels} == {"a"}
    assert {labels["upstream"] for _, labels in ours if "upstream" in labels} == {"u"}
    assert {labels["target"] for _, labels in ours if "target" in labels} == {"http://2/"}
    assert values(read, "gateway_hooks_total", app="a") == [1]
    assert values(read, "gateway_upstream_duration_seconds_count", upstream="u") == [2]
    assert values(read, "gateway_build_info") == [1]


def many(count: int) -> set[str]:
    return {f"app-{number}" for number in range(count)}


def recorded_over(*app_sets: Iterable[str]) -> Samples:
    """A scrape after each configuration in turn has had one hook of app-0."""
    metrics = Metrics("1")
    for apps in app_sets:
        metrics.configure(set(apps), set())
        metrics.record(decision("app-0"))
    return samples_of(metrics.render())


def test_with_five_hundred_apps_histograms_have_their_app_label() -> None:
    assert APP_LABEL_LIMIT == 500
    read = recorded_over(many(500))
    assert apps_of(read, "gateway_hook_duration_seconds_count") == {"app-0"}


@pytest.mark.parametrize("before", [[], [10]])
def test_beyond_five_hundred_apps_histograms_lose_their_app_label_and_counters_keep_it(before: list[int]) -> None:
    read = recorded_over(*map(many, before), many(501))
    assert_histograms_hold(read)
    for name in ("gateway_hook_duration_seconds", "gateway_overhead_seconds"):
        assert apps_of(read, f"{name}_count") == {None}
        assert values(read, f"{name}_count") == [1]
    assert apps_of(read, "gateway_hooks_total") == {"app-0"}
    assert values(read, "gateway_hooks_total") == [len(before) + 1]


def test_back_under_five_hundred_apps_histograms_have_their_app_label_again() -> None:
    read = recorded_over(many(501), many(10))
    assert apps_of(read, "gateway_hook_duration_seconds_count") == {"app-0"}
    assert values(read, "gateway_hook_duration_seconds_count") == [1]


def test_beyond_five_hundred_apps_a_further_reload_keeps_the_shared_histogram() -> None:
    read = recorded_over(many(501), many(502))
    assert values(read, "gateway_hook_duration_seconds_count") == [2]


def test_every_metric_of_the_contract_that_needs_no_hook_is_there_from_the_start() -> None:
    metrics = Metrics("1.2.3")
    metrics.loaded(successful=True)
    read = samples_of(metrics.render())
    assert values(read, "gateway_build_info", version="1.2.3") == [1]
    assert values(read, "gateway_config_last_reload_successful") == [1]
    assert values(read, "gateway_config_last_reload_success_timestamp_seconds")[0] > 1e9
    assert values(read, "gateway_config_reloads_total", result="success") == [0]
    assert values(read, "gateway_config_reloads_total", result="failure") == [0]


def test_a_reload_that_fails_is_told_and_keeps_the_time_of_the_last_good_one() -> None:
    metrics = Metrics("1")
    metrics.record_reload(successful=True)
    (good,) = values(samples_of(metrics.render()), "gateway_config_last_reload_success_timestamp_seconds")
    metrics.record_reload(successful=False)
    read = samples_of(metrics.render())
    assert values(read, "gateway_config_last_reload_successful") == [0]
    assert values(read, "gateway_config_last_reload_success_timestamp_seconds") == [good]
    assert values(read, "gateway_config_reloads_total", result="failure") == [1]


def test_gauges_that_nobody_keeps_are_sampled_at_each_scrape() -> None:
    metrics = Metrics("1")
    connections = metrics.target_connections.labelled("u", "t")
    metrics.on_scrape(connections.inc)
    metrics.render()
    assert values(samples_of(metrics.render()), "gateway_target_connections", upstream="u") == [2]
