"""What no general proxy counts: annotations on rulings, and hooks whose upstream was chosen by weight."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.model.decision import UNKNOWN_APP, Decision
from gateway.model.verdicts import Ruling, backend_allow, backend_reject, duplicate_ruling
from gateway.telemetry.metrics import Metrics

FAMILIES: Final = {
    "gateway_ineffective_rejects_total",
    "gateway_ineffective_changes_total",
    "gateway_excluded_fields_total",
    "gateway_client_config_answers_total",
    "gateway_repaired_answers_total",
    "gateway_split_hooks_total",
    "gateway_failovers_total",
    "gateway_rule_hits_total",
}
TARGETS: Final = {("old", "o:1"), ("new", "n:1"), ("shadow:new", "n:1")}


def metrics_of(*apps: str) -> Metrics:
    metrics = Metrics("1")
    metrics.configure(apps, TARGETS)
    return metrics


def decision(ruling: Ruling, **changes: Any) -> Decision:
    made = Decision(ruling, 1_700_000_000.0, "id", "a", "OnCallEvent", 1.5, 0.02, "old", "o:1", 1, 0.01)
    return msgspec.structs.replace(made, **changes)


def counted(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """The series of FAMILIES: name and label values as the exposition has them, and the count."""
    read = text_string_to_metric_families(metrics.render().decode())
    samples = (sample for family in read for sample in family.samples if sample.name in FAMILIES)
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def after(*decisions: Decision) -> dict[tuple[str, ...], float]:
    metrics = metrics_of("a", "b")
    for each in decisions:
        metrics.record(each)
    return counted(metrics)


def test_a_hook_without_annotations_has_no_series_of_them() -> None:
    assert after(decision(backend_allow(b"{}")), decision(backend_reject())) == {}


def test_each_annotation_is_counted_under_its_own_name() -> None:
    ruling = backend_reject().annotate(
        rule="spam", repaired="bom+after", client_config="missing", ineffective=True, failed_over_from="old", cut="x",
        failover_cause="timeout", changed_fields="callee,caller", ignored_fields="callee",
        excluded=("call.caller", "OnCallEvent.caller", "_other.sessionId"),
    )  # fmt: skip
    assert after(decision(ruling, upstream="new", split=True)) == {
        ("gateway_ineffective_rejects_total", "a", "OnCallEvent"): 1,
        ("gateway_client_config_answers_total", "a", "missing"): 1,
        ("gateway_repaired_answers_total", "a", "bom+after"): 1,
        ("gateway_split_hooks_total", "a", "new", "reject"): 1,
        ("gateway_failovers_total", "a", "timeout", "old"): 1,
        ("gateway_ineffective_changes_total", "a", "OnCallEvent"): 1,
        ("gateway_excluded_fields_total", "a", "caller"): 1,
        ("gateway_excluded_fields_total", "a", "sessionId"): 1,
        ("gateway_rule_hits_total", "a", "spam", "reject"): 1,
    }


def test_a_connect_answer_that_is_as_wanted_is_counted_too() -> None:
    ruling = backend_allow(b"{}").annotate(client_config="ok")
    assert after(decision(ruling, method="connect")) == {("gateway_client_config_answers_total", "a", "ok"): 1}


def test_only_upstreams_chosen_by_weight_have_a_share() -> None:
    chosen = [decision(backend_allow(b"{}"), upstream=name, split=True) for name in ("old", "old", "new")]
    assert after(*chosen, decision(backend_allow(b"{}"), upstream="new")) == {
        ("gateway_split_hooks_total", "a", "old", "allow"): 2,
        ("gateway_split_hooks_total", "a", "new", "allow"): 1,
    }


def test_what_is_said_again_to_a_duplicate_is_not_counted_again() -> None:
    ruling = backend_reject().annotate(rule="spam", repaired="bom", ineffective=True)
    once = after(decision(ruling))
    assert after(decision(ruling), decision(duplicate_ruling(ruling), split=True)) == once


annotated = st.fixed_dictionaries(
    {},
    optional={
        "rule": st.sampled_from(["spam", "rules[0]"]),
        "repaired": st.sampled_from(["bom", "before+after"]),
        "client_config": st.sampled_from(["ok", "missing", "enforced", "unreadable"]),
        "ineffective": st.booleans(),
        "failed_over_from": st.sampled_from(["old", "new"]),
        "failover_cause": st.sampled_from(["timeout", "unreachable"]),
        "changed_fields": st.sampled_from(["callee", "callee,caller"]),
        "ignored_fields": st.just("callee"),
        "excluded": st.sets(st.sampled_from(["call.caller", "x.caller", "call.callee"])).map(tuple),
    },
)


@given(st.lists(st.tuples(annotated, st.sampled_from("ab"), st.sampled_from(["old", "new"]), st.booleans())))
def test_counts_are_those_of_a_naive_model(hooks: list[tuple[dict[str, Any], str, str, bool]]) -> None:
    model: Counter[tuple[str, ...]] = Counter()
    decisions = []
    for chosen, app, upstream, split in hooks:
        ruling = backend_reject().annotate(**chosen)
        decisions.append(decision(ruling, app=app, upstream=upstream, split=split))
        if "rule" in chosen:
            model["gateway_rule_hits_total", app, chosen["rule"], "reject"] += 1
        if "repaired" in chosen:
            model["gateway_repaired_answers_total", app, chosen["repaired"]] += 1
        if "client_config" in chosen:
            model["gateway_client_config_answers_total", app, chosen["client_config"]] += 1
        if chosen.get("ineffective"):
            model["gateway_ineffective_rejects_total", app, "OnCallEvent"] += 1
        if "failed_over_from" in chosen:
            cause = (chosen["failover_cause"],) if "failover_cause" in chosen else ()
            model[("gateway_failovers_total", app, *cause, chosen["failed_over_from"])] += 1
        if "ignored_fields" in chosen:
            model["gateway_ineffective_changes_total", app, "OnCallEvent"] += 1
        for field in {name.split(".")[1] for name in chosen.get("excluded", ())}:
            model["gateway_excluded_fields_total", app, field] += 1
        if split:
            model["gateway_split_hooks_total", app, upstream, "reject"] += 1
    assert after(*decisions) == model


# --- reloads ---

ALL: Final = backend_reject().annotate(
    rule="spam", repaired="bom", client_config="ok", ineffective=True, failed_over_from="old", failover_cause="timeout",
    changed_fields="callee", ignored_fields="callee", excluded=("call.caller",),
)  # fmt: skip


def test_what_a_reload_removes_takes_its_series_along() -> None:
    metrics = metrics_of("a", "b")
    for app in ("a", "b"):
        metrics.record(decision(ALL, app=app, upstream="new", split=True))
        metrics.rate_limited.with_labels(app).inc()
        for upstream in ("old", "new"):
            metrics.shadow_hooks.with_labels(app, upstream, "match").inc()
    metrics.configure({"a"}, {("old", "o:1")})
    assert {key[1] for key in counted(metrics)} == {"a"}
    assert metrics.totals(metrics.split_hooks) == {}
    assert metrics.totals(metrics.failovers) == {("a", "old", "timeout"): 1}
    assert metrics.totals(metrics.shadow_hooks) == {("a", "old", "match"): 1}
    assert metrics.totals(metrics.rate_limited) == {("a",): 1}


def test_a_hook_that_outlives_its_app_and_its_upstream_brings_neither_back() -> None:
    metrics = metrics_of("a", "b")
    late = decision(ALL, app="b", upstream="new", split=True)
    metrics.record(late)
    metrics.configure({"a"}, {("other", "x:1")})
    metrics.record(late)
    found = counted(metrics)
    assert {key[1] for key in found} == {UNKNOWN_APP}
    assert {key[0] for key in found} == FAMILIES - {"gateway_split_hooks_total", "gateway_failovers_total"}


def test_counting_goes_on_over_a_reload_that_changes_nothing() -> None:
    metrics = metrics_of("a")
    for _ in range(3):
        metrics.record(decision(ALL, split=True))
        metrics.configure({"a"}, TARGETS)
    assert set(counted(metrics).values()) == {3}


def test_rules_that_go_take_their_series_along_where_the_rules_are_told() -> None:
    metrics = metrics_of("a")
    for rule in ("spam", "night"):
        metrics.record(decision(backend_reject().annotate(rule=rule)))
    metrics.configure({"a"}, TARGETS)
    assert len(metrics.totals(metrics.rule_hits)) == 2
    metrics.configure({"a"}, TARGETS, rules={("a", "night")})
    assert metrics.totals(metrics.rule_hits) == {("a", "night", "reject"): 1}


def test_a_hook_that_outlives_its_rule_does_not_bring_it_back() -> None:
    metrics = metrics_of("a")
    late = decision(backend_reject().annotate(rule="night"))
    metrics.configure({"a"}, TARGETS, rules={("a", "spam")})
    metrics.record(late)
    assert metrics.totals(metrics.rule_hits) == {}
    metrics.configure({"a"}, TARGETS, rules={("a", "night")})
    metrics.record(late)
    assert metrics.totals(metrics.rule_hits) == {("a", "night", "reject"): 1}


def test_a_shadow_s_series_stay_while_only_the_candidate_s_own_copy_is_left() -> None:
    metrics = metrics_of("a")
    metrics.shadow_hooks.with_labels("a", "new", "match").inc()
    metrics.configure({"a"}, {("shadow:new", "n:1")})
    assert metrics.totals(metrics.shadow_hooks) == {("a", "new", "match"): 1}
