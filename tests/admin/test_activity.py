"""What the activity says, against what was really counted."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin import activity
from gateway.admin.activity import Activity, Reading, Sampler, Step, quantile, read, step
from gateway.model.decision import UNKNOWN_APP, Decision
from gateway.model.verdicts import Reason, Ruling, Source, Verdict
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.metrics.catalogue import DURATION_BUCKETS
from gateway.telemetry.metrics.cells import MetricCells
from gateway.telemetry.metrics.shared import WorkerMetrics

APPS = ["a", "b", "c"]
FATES = [
    (Verdict.ALLOW, Source.BACKEND, Reason.OK),
    (Verdict.REJECT, Source.BACKEND, Reason.DENIED),
    (Verdict.REJECT, Source.FALLBACK, Reason.TIMEOUT),
    (Verdict.ALLOW, Source.FALLBACK, Reason.UNREACHABLE),
    (Verdict.ALLOW, Source.STATIC, Reason.OK),
    (Verdict.ALLOW, Source.SPOOL, Reason.BACKLOG),
    (Verdict.ERROR, Source.GATEWAY, Reason.BAD_REQUEST),
    (Verdict.REJECT, Source.GATEWAY, Reason.UNKNOWN_APP),
]
PATIENCE = 10.0


def decision(app: str, fate: tuple[Verdict, Source, Reason], duration: float = 0.01, method: str = "call") -> Decision:
    return Decision(Ruling(*fate, status=0), 0.0, "id", app, method, None, duration)


decisions = st.lists(
    st.builds(
        decision,
        st.sampled_from([*APPS, UNKNOWN_APP]),
        st.sampled_from(FATES),
        st.floats(0.0, 20.0),
        st.sampled_from(["call", "connect"]),
    ),
    max_size=60,
)


def counting(app_label: str = "auto") -> Metrics:
    metrics = Metrics("0")
    metrics.configure(APPS, [], app_label)
    for app in (*APPS, UNKNOWN_APP):
        metrics.in_flight.with_labels(app)
    return metrics


def at(seconds: float, reading: Reading) -> Reading:
    return reading._replace(time=seconds)


def histogram(values: Sequence[float]) -> list[float]:
    """The observations per bucket, counted one by one."""
    buckets = [0.0] * (len(DURATION_BUCKETS) + 1)
    for value in values:
        buckets[sum(bound < value for bound in DURATION_BUCKETS)] += 1
    return buckets


# --- quantiles ---
@given(st.lists(st.floats(0.0, 20.0), min_size=1, max_size=200), st.floats(0.0, 1.0))
def test_a_quantile_errs_by_no_more_than_the_width_of_its_bucket(values: list[float], share: float) -> None:
    exact = sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]
    estimated = quantile(share, histogram(values))
    assert estimated is not None
    if exact > DURATION_BUCKETS[-1]:
        assert estimated == DURATION_BUCKETS[-1]
    else:
        bounds = [0.0, *DURATION_BUCKETS]
        widths = {upper: upper - lower for lower, upper in itertools.pairwise(bounds)}
        width = widths[next(bound for bound in DURATION_BUCKETS if exact <= bound)]
        assert abs(estimated - exact) <= width + 1e-9


@given(st.lists(st.integers(0, 50), min_size=16, max_size=16).map(lambda counts: [float(n) for n in counts]))
def test_a_larger_share_is_never_a_smaller_value(buckets: list[float]) -> None:
    found = [quantile(share / 20, buckets) for share in range(21)]
    if not sum(buckets):
        assert found == [None] * 21
    else:
        assert found == sorted(value for value in found if value is not None)


def test_a_quantile_lies_within_its_bucket_as_if_all_were_evenly_spread() -> None:
    buckets = [0.0] * 16
    buckets[DURATION_BUCKETS.index(2.0)] = 4.0
    assert quantile(0.5, buckets) == pytest.approx(1.5)
    assert quantile(1.0, buckets) == pytest.approx(2.0)


# --- rates ---
@given(decisions, decisions, st.floats(0.5, 10.0))
def test_rates_are_what_was_counted_between_two_readings(
    before: list[Decision], within: list[Decision], seconds: float
) -> None:
    metrics = counting()
    for counted in before:
        metrics.record(counted)
    first = read(metrics)
    for counted in within:
        metrics.record(counted)
    taken = step(at(0.0, first), at(seconds, read(metrics)))
    found = Activity([taken], {}).as_json(100)
    assert {row["app"] for row in found["apps"]} == {counted.app for counted in within}
    for row in found["apps"]:
        mine = [counted for counted in within if counted.app == row["app"]]
        assert row["per_second"] == rate(len(mine), seconds)
        for verdict in Verdict:
            assert row[verdict] == rate(sum(it.ruling.verdict is verdict for it in mine), seconds)
        reasons = Counter(str(it.ruling.reason) for it in mine) - Counter(ok=10**6, denied=10**6)
        assert row["reasons"] == {reason: rate(count, seconds) for reason, count in reasons.items()}
        exact = quantile(0.5, histogram([it.duration for it in mine]))
        assert exact is not None
        assert row["p50_ms"] == pytest.approx(exact * 1000, abs=0.001)
    assert found["total"]["per_second"] == rate(len(within), seconds)
    assert found["window_seconds"] == round(seconds, 3)


def rate(count: int, seconds: float) -> float:
    return round(count / seconds, 3)


@given(decisions)
def test_many_short_steps_say_the_same_as_one_long_step(within: list[Decision]) -> None:
    metrics = counting()
    readings = [at(0.0, read(metrics))]
    for number, counted in enumerate(within, 1):
        metrics.record(counted)
        readings.append(at(float(number), read(metrics)))
    short = Activity([step(a, b) for a, b in itertools.pairwise(readings)], {}).as_json(100)
    long = Activity([step(readings[0], readings[-1])], {}).as_json(100)
    if within:
        assert {**short, "time": 0} == {**long, "time": 0}


def test_the_most_troubled_apps_come_first_then_the_busiest_then_the_quiet_ones() -> None:
    metrics = counting()
    start = at(0.0, read(metrics))
    for counted in [*[decision("c", FATES[0])] * 5, *[decision("b", FATES[0])] * 9, decision("c", FATES[2])]:
        metrics.record(counted)
    reading = at(1.0, read(metrics))
    found = Activity([step(start, reading)], reading.in_flight).as_json(100)
    assert [row["app"] for row in found["apps"]] == ["c", "b", "a"]
    assert found["app_count"] == 3
    assert [row["app"] for row in Activity([step(start, reading)], reading.in_flight).as_json(2)["apps"]] == ["c", "b"]


def test_an_unknown_app_is_listed_only_while_it_is_asked_for() -> None:
    metrics = counting()
    start = read(metrics)
    metrics.record(decision(UNKNOWN_APP, FATES[6]))
    reading = read(metrics)
    found = Activity([step(at(0, start), at(1, reading))], reading.in_flight).as_json(100)
    assert found["apps"][0]["app"] == UNKNOWN_APP
    quiet = Activity([step(at(0, reading), at(1, reading))], reading.in_flight).as_json(100)
    assert [row["app"] for row in quiet["apps"]] == APPS


def test_where_histograms_carry_no_app_only_the_whole_has_quantiles() -> None:
    metrics = counting("never")
    start = read(metrics)
    metrics.record(decision("a", FATES[0], 0.2))
    found = Activity([step(at(0, start), at(1, read(metrics)))], {}).as_json(100)
    assert (found["apps"][0]["p50_ms"], found["apps"][0]["p99_ms"]) == (None, None)
    assert found["total"]["p50_ms"] == pytest.approx(175.0)


def test_what_the_fallback_allowed_and_rejected_is_told_apart() -> None:
    metrics = counting()
    start = read(metrics)
    for fate in FATES:
        metrics.record(decision("a", fate))
    told = Activity([step(at(0, start), at(2, read(metrics)))], {("a",): 3.0}).hooks_as_json()
    assert told == {
        "in_flight": 3,
        "per_second": 4.0,
        "rejected_per_second": 1.5,
        "allowed_by_fallback_per_second": 0.5,
        "rejected_by_fallback_per_second": 0.5,
    }


def test_before_there_are_two_readings_rates_are_unknown() -> None:
    found = Activity((), {("a",): 1.0})
    assert found.hooks_as_json()["per_second"] is None
    assert found.as_json(10)["apps"][0]["per_second"] is None


def test_a_counter_that_begins_anew_is_taken_as_new() -> None:
    labels = ("a", "call", "allow", "backend", "ok")
    earlier = Reading(0.0, {labels: 5.0}, {("a", "call"): [3.0, 2.0, 1.5]}, {})
    later = Reading(1.0, {labels: 2.0}, {("a", "call"): [0.0, 2.0, 0.5]}, {})
    assert step(earlier, later) == Step(1.0, {labels: 2.0}, {("a", "call"): [0.0, 2.0, 0.5]})


def test_workers_are_counted_together_and_one_that_ends_takes_nothing_with_it() -> None:
    supervisor, foreign = counting(), [WorkerMetrics(), WorkerMetrics()]
    workers = [Metrics("0", MetricCells(cells.values_fd, cells.names_fd)) for cells in foreign]
    for worker in workers:
        worker.configure(APPS, [])
        worker.in_flight.with_labels("a").set(2.0)
        worker.record(decision("a", FATES[0]))
    before = read(supervisor, foreign)
    workers[0].record(decision("a", FATES[0]))
    workers[1].record(decision("b", FATES[2]))
    supervisor.inherit(foreign[0])
    after = read(supervisor, foreign[1:])
    taken = step(before, after)
    assert sorted(taken.hooks.values()) == [1.0, 1.0]
    assert after.in_flight[("a",)] == 2.0
    hooks = supervisor.merged_values(supervisor.hooks, foreign[1:])
    assert supervisor.totals(supervisor.hooks, foreign[1:]) == {labels: values[0] for labels, values in hooks.items()}
    for cells in foreign:
        cells.close()


# --- the sampler ---


async def test_the_sampler_reads_only_while_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "READ_EVERY", 0.01)
    monkeypatch.setattr(activity, "_FIRST_READ_AFTER", 0.01)
    monkeypatch.setattr(activity, "KEEP_READING", 0.05)
    metrics = counting()
    readings = 0

    def counted() -> Reading:
        nonlocal readings
        readings += 1
        return read(metrics)

    sampler = Sampler(counted)
    assert readings == 0
    assert sampler.ask() is None
    assert (await sampler.activity()).seconds > 0
    async with asyncio.timeout(PATIENCE):
        while "reading" in repr(sampler):
            await asyncio.sleep(0.01)
    rested = readings
    metrics.record(decision("a", FATES[0]))
    assert (readings, sampler.ask()) == (rested, None)
    # The next question gets rates of the time from then on.
    assert (await sampler.activity()).hooks_as_json()["per_second"] == 0.0
    await sampler.aclose()


async def test_a_reading_that_fails_is_logged_and_the_next_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(activity, "_FIRST_READ_AFTER", 0.01)
    metrics, left = counting(), [OSError("once")]

    def failing() -> Reading:
        if left:
            raise left.pop()
        return read(metrics)

    sampler = Sampler(failing)
    assert (await sampler.activity()).seconds > 0
    assert "could not be read" in caplog.text
    await sampler.aclose()


async def test_whoever_waits_is_told_when_the_sampler_ends() -> None:
    sampler = Sampler(lambda: read(counting()))
    waiting = asyncio.create_task(sampler.activity())
    await asyncio.sleep(0)
    await sampler.aclose()
    async with asyncio.timeout(PATIENCE):
        assert (await waiting).seconds == 0.0
