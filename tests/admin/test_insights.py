"""What the insights say, against what was counted."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.activity import Activity, read, step
from gateway.admin.insights import Insights, Special, difference, is_noteworthy
from gateway.model.decision import Decision
from gateway.model.verdicts import Ruling, backend_allow, backend_reject
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.metrics.cells import MetricCells
from gateway.telemetry.metrics.shared import WorkerMetrics

APPS: Final = ("a", "b")
TARGETS: Final = {("old", "o:1"), ("new", "n:1")}
IGNORED: Final = backend_reject().annotate(ineffective=True)


def counting(cells: MetricCells | None = None) -> Metrics:
    metrics = Metrics("0", cells)
    metrics.configure(APPS, TARGETS)
    return metrics


def record(metrics: Metrics, ruling: Ruling, app: str = "a", upstream: str = "old", *, split: bool = False) -> None:
    metrics.record(Decision(ruling, 0.0, "id", app, "OnCallEvent", 1.0, 0.01, upstream, split=split))


def told(metrics: Metrics, before: Metrics | None = None, seconds: float = 2.0) -> dict[str, Any]:
    """What the insights say of all that was counted, within so many seconds or (given *before*) within none."""
    return of(read(metrics).special, {} if before is None else read(before).special, seconds)


def of(later: Special, earlier: Special, seconds: float = 2.0, most: int = 50) -> dict[str, Any]:
    return Insights(later, [difference(earlier, later)], seconds).as_json(most)


def test_refusals_that_stop_nothing_are_told_by_app_and_method_with_their_rate() -> None:
    metrics = counting()
    for _ in range(3):
        record(metrics, IGNORED)
    found = told(metrics)
    assert found["apps"][0]["ineffective"] == {"total": 3, "per_second": 1.5, "methods": {"OnCallEvent": 3}}
    assert found["total"]["ineffective"] == {"total": 3, "per_second": 1.5}


def test_shares_are_those_measured_lately_and_since_the_start() -> None:
    metrics = counting()
    for _ in range(9):
        record(metrics, backend_allow(b"{}"), split=True)
    before = read(metrics).special
    record(metrics, backend_allow(b"{}"), split=True)
    record(metrics, backend_reject(), upstream="new", split=True)
    (app,) = of(read(metrics).special, before)["apps"]
    assert [(share["upstream"], share["share"], share["share_of_total"]) for share in app["split"]] == [
        ("old", 0.5, 0.9091),
        ("new", 0.5, 0.0909),
    ]
    assert app["split"][1]["verdicts"] == {"reject": 1}


def test_a_candidate_agrees_by_those_of_its_answers_that_could_be_compared() -> None:
    metrics = counting()
    for outcome, count in {
        "match": 6,
        "verdict_differs": 1,
        "body_differs": 1,
        "candidate_failed": 5,
        "dropped": 2,
    }.items():
        metrics.shadow_hooks.with_labels("a", "new", outcome).inc(count)
    found = told(metrics)
    (shadow,) = found["apps"][0]["shadow"]
    assert (shadow["upstream"], shadow["compared"], shadow["agreement"], shadow["total"]) == ("new", 8, 0.75, 15)
    assert found["total"]["differing"]["total"] == 2


def test_a_candidate_that_was_never_compared_agrees_in_no_share() -> None:
    metrics = counting()
    metrics.shadow_hooks.with_labels("a", "new", "candidate_failed").inc()
    assert told(metrics)["apps"][0]["shadow"][0]["agreement"] is None


def test_everything_else_is_told_under_its_name() -> None:
    metrics = counting()
    record(metrics, backend_allow(b"{}").annotate(repaired="bom", client_config="missing"))
    record(metrics, backend_reject().annotate(rule="spam"))
    record(metrics, backend_allow(b"{}").annotate(rule="spam", failed_over_from="old", failover_cause="timeout"))
    metrics.rate_limited.with_labels("a").inc()
    metrics.recorded_hooks.with_labels("written").inc(4)
    metrics.recorded_hooks.with_labels("dropped").inc()
    found = told(metrics)
    (app,) = found["apps"]
    assert app["repaired"] == {"total": 1, "per_second": 0.5, "kinds": {"bom": 1}}
    assert app["client_config"] == {"outcomes": {"missing": 1}}
    assert app["rules"] == [{"rule": "spam", "total": 2, "per_second": 1.0, "verdicts": {"allow": 1, "reject": 1}}]
    assert app["failovers"] == [{"upstream": "old", "total": 1, "per_second": 0.5, "causes": {"timeout": 1}}]
    assert app["rate_limited"] == {"total": 1, "per_second": 0.5}
    assert found["recorded"]["written"] == {"total": 4, "per_second": 2.0}
    assert found["recorded"]["dropped"] == {"total": 1, "per_second": 0.5}


def test_an_app_whose_connect_answers_are_all_as_wanted_is_not_noteworthy() -> None:
    metrics = counting()
    record(metrics, backend_allow(b"{}").annotate(client_config="ok"))
    (app,) = told(metrics)["apps"]
    assert not is_noteworthy(app)
    record(metrics, backend_allow(b"{}").annotate(client_config="missing"))
    assert is_noteworthy(told(metrics)["apps"][0])


def test_who_needs_an_operator_comes_first_and_so_many_apps_are_told() -> None:
    metrics = counting()
    record(metrics, backend_allow(b"{}").annotate(repaired="bom"), "a")
    record(metrics, IGNORED, "b")
    found = told(metrics)
    assert [app["app"] for app in found["apps"]] == ["b", "a"]
    short = of(read(metrics).special, {}, most=1)
    assert ([app["app"] for app in short["apps"]], short["app_count"]) == (["b"], 2)


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_an_app_past_its_rate_comes_before_one_of_which_there_is_only_something_to_note(seconds: float) -> None:
    metrics = counting()
    record(metrics, backend_allow(b"{}").annotate(client_config="missing"), "a")
    metrics.rate_limited.with_labels("b").inc()
    assert [app["app"] for app in told(metrics, seconds=seconds)["apps"]] == ["b", "a"]


def test_a_series_that_has_begun_anew_has_moved_by_all_that_it_counts() -> None:
    counts: list[Special] = [{"rate_limited": {("a",): count, ("b",): 1.0}} for count in (5.0, 2.0)]
    assert difference(*counts) == {"rate_limited": {("a",): 2.0}}


def test_where_nothing_was_counted_there_is_nothing_to_tell() -> None:
    found = told(counting())
    assert (found["apps"], found["app_count"], found["total"]["ineffective"]["total"]) == ([], 0, 0)


def test_without_a_window_there_are_totals_and_no_rates() -> None:
    metrics = counting()
    record(metrics, IGNORED)
    found = Insights(read(metrics).special).as_json(10)
    assert found["total"]["ineffective"] == {"total": 1, "per_second": None}


def test_workers_counts_are_told_as_one() -> None:
    foreign = WorkerMetrics()
    theirs = counting(MetricCells(foreign.values_fd, foreign.names_fd))
    mine = counting()
    record(mine, IGNORED)
    record(theirs, IGNORED)
    found = Insights(read(mine, [foreign]).special).as_json(10)
    assert found["total"]["ineffective"]["total"] == 2
    foreign.close()


@given(st.lists(st.lists(st.tuples(st.sampled_from(APPS), st.booleans()), max_size=8), max_size=6))
def test_the_rates_of_many_short_steps_are_those_of_one_long_one(batches: list[list[tuple[str, bool]]]) -> None:
    metrics = counting()
    first = reading = read(metrics)._replace(time=0.0)
    steps = []
    for number, batch in enumerate(batches, 1):
        for app, ineffective in batch:
            record(metrics, IGNORED if ineffective else backend_reject(), app)
        later = read(metrics)._replace(time=float(number))
        steps.append(step(reading, later))
        reading = later
    short = Activity(steps, {}, reading.special).insights.as_json(10)
    assert short == Activity([step(first, reading)], {}, reading.special).insights.as_json(10)
    counted = sum(ineffective for batch in batches for _, ineffective in batch)
    assert short["total"]["ineffective"]["total"] == counted
    if batches:
        assert short["total"]["ineffective"]["per_second"] == pytest.approx(counted / len(batches), abs=0.001)
