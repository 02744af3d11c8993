"""What is recorded is what a scrape reads; apps that come and go, and more of them than histograms can bear."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.decision import UNKNOWN_APP, Decision
from gateway.model.verdicts import (
    Cause,
    Failure,
    Fallback,
    ProxyError,
    backend_allow,
    backend_reject,
    fallback_ruling,
)
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.metrics.registry import APP_LABEL_LIMIT
from tests.support.samples import (
    Samples,
    apps_of,
    assert_histograms_hold,
    decision,
    observations,
    samples_of,
    values,
)

RULINGS = [
    backend_allow(b"{}"),
    backend_reject(),
    *(fallback_ruling(Failure(cause, ProxyError.DNS_ERROR, ""), Fallback(frozenset({cause})), b"") for cause in Cause),
    *(fallback_ruling(Failure(cause, ProxyError.DNS_ERROR, ""), Fallback(), b"") for cause in Cause),
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
        metrics.in_flight.with_labels(app).inc()
    for upstream, target in (("u", "http://1/"), ("u", "http://2/"), ("w", "http://3/")):
        metrics.attempts.with_labels(upstream, target, "ok").inc()
        metrics.target_up.with_labels(upstream, target).set(1)
        metrics.upstream_duration.with_labels(upstream).observe(0.1)
        metrics.retries.with_labels(upstream, "unreachable").inc()
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
    metrics.record_load(successful=True)
    read = samples_of(metrics.render())
    assert values(read, "gateway_build_info", version="1.2.3") == [1]
    assert values(read, "gateway_config_last_reload_successful") == [1]
    assert values(read, "gateway_config_last_reload_success_timestamp_seconds")[0] > 1e9
    assert values(read, "gateway_config_reloads_total", result="success") == [0]
    assert values(read, "gateway_config_reloads_total", result="failure") == [0]


def test_a_reload_that_fails_is_told_and_keeps_the_time_of_the_last_good_one() -> None:
    metrics = Metrics("1")
    metrics.record_reload(None)
    (good,) = values(samples_of(metrics.render()), "gateway_config_last_reload_success_timestamp_seconds")
    metrics.record_reload("invalid")
    read = samples_of(metrics.render())
    assert values(read, "gateway_config_last_reload_successful") == [0]
    assert values(read, "gateway_config_last_reload_success_timestamp_seconds") == [good]
    assert values(read, "gateway_config_reloads_total", result="failure") == [1]


def test_gauges_that_nobody_keeps_are_sampled_at_each_scrape() -> None:
    metrics = Metrics("1")
    connections = metrics.target_connections.with_labels("u", "t")
    metrics.on_scrape(connections.inc)
    metrics.render()
    assert values(samples_of(metrics.render()), "gateway_target_connections", upstream="u") == [2]
