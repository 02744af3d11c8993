"""Several gateways' activity and upstreams as one: sums where they can be added, the worst where they cannot."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.fleet_merge import Named, merge_activity, merge_hooks, merge_upstreams

TALLY = {
    "per_second": 1.0, "allow": 1.0, "reject": 0.0, "error": 0.0, "reasons": {}, "allowed_by_fallback": 0.0,
    "rejected_by_fallback": 0.0, "spooled": 0.0, "p50_ms": 5.0, "p99_ms": 9.0,
}  # fmt: skip


def activity(apps: dict[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    listed = [{"app": name, "in_flight": 1, **TALLY, **fields} for name, fields in apps.items()]
    return {
        "time": "2026-01-01T00:00:00.000Z", "window_seconds": 10.0, "in_flight": len(listed), "total": TALLY,
        "apps": listed, "app_count": len(listed), **more,
    }  # fmt: skip


def target(name: str, state: str | None, **more: Any) -> dict[str, Any]:
    return {
        "target": name, "url": f"http://{name}", "weight": 1, "backup": False, "state": state, "since": None,
        "reason": None, "ejected_for": [], "retry_in_seconds": None, "in_flight": 1, "queued": 0, "connections": 2,
        "max_connections": 64, "usual_ms": 3.0, "p50_ms": 3.0, "p95_ms": None, "p99_ms": 4.0, "ejections": 0,
        "last_error": None, "workers_ejected": 0, "workers": 1, **more,
    }  # fmt: skip


def upstreams(*targets: dict[str, Any]) -> dict[str, Any]:
    return {"upstreams": [{"name": "php", "balance": "round_robin", "apps": ["a"], "app_count": 1, "targets": targets}]}


def test_rates_of_an_app_add_up_and_its_high_times_are_those_of_the_slowest() -> None:
    one = activity({"a": {"per_second": 3.0, "reasons": {"timeout": 1.0}, "p50_ms": 10.0, "p99_ms": 30.0}})
    other = activity({"a": {"per_second": 1.0, "reasons": {"timeout": 0.5, "overload": 2.0}, "p50_ms": 50.0}})
    merged = merge_activity([Named("one", one), Named("other", other)], 10)
    (app,) = merged["apps"]
    assert (app["per_second"], app["in_flight"], app["p99_ms"]) == (4.0, 2, 30.0)
    assert app["p50_ms"] == 20.0
    assert list(app["reasons"].items()) == [("overload", 2.0), ("timeout", 1.5)]
    assert merged["total"]["per_second"] == 2.0


def test_failing_apps_come_first_then_busy_ones_and_only_so_many() -> None:
    one = activity({"busy": {"per_second": 9.0}, "quiet": {"per_second": 0.0}})
    other = activity({"failing": {"per_second": 1.0, "reasons": {"timeout": 0.1}}})
    merged = merge_activity([Named("one", one), Named("other", other)], 2)
    assert [app["app"] for app in merged["apps"]] == ["failing", "busy"]
    assert merged["app_count"] == 3


def test_nothing_known_is_nothing_not_zero() -> None:
    unknown = activity({"a": dict.fromkeys(TALLY, None) | {"reasons": {}}})
    (app,) = merge_activity([Named("one", unknown)], 10)["apps"]
    assert (app["per_second"], app["p50_ms"], app["p99_ms"]) == (None, None, None)
    assert merge_hooks([{"in_flight": None}, {}])["in_flight"] is None
    assert merge_hooks([{"in_flight": 2}, {"in_flight": 3}])["in_flight"] == 5


def test_a_target_has_the_worst_of_its_states_with_its_reason_and_names_who_sees_it_so() -> None:
    well = upstreams(target("t", "up", last_error={"time": "2026-01-01T00:00:00.000Z", "text": "old"}))
    out = upstreams(
        target(
            "t", "ejected", reason="refused", since="2026-01-02T00:00:00.000Z", retry_in_seconds=3.0,
            last_error={"time": "2026-01-02T00:00:00.000Z", "text": "refused"},
        )
    )  # fmt: skip
    (merged,) = merge_upstreams([Named("one", well), Named("other", out)])["upstreams"]
    (found,) = merged["targets"]
    assert (found["state"], found["reason"], found["retry_in_seconds"]) == ("ejected", "refused", 3.0)
    assert (found["in_flight"], found["connections"], found["workers"]) == (2, 4, 2)
    assert (found["replicas"], found["not_up_at"], found["last_error"]["text"]) == (2, ["other"], "refused")


def test_targets_that_only_one_configuration_has_are_listed() -> None:
    merged = merge_upstreams([Named("one", upstreams(target("a", "up"))), Named("other", upstreams(target("b", None)))])
    assert [each["target"] for each in merged["upstreams"][0]["targets"]] == ["a", "b"]
    assert merged["upstreams"][0]["targets"][1]["not_up_at"] == []


def test_answers_of_a_version_that_lacks_fields_are_merged() -> None:
    assert merge_activity([Named("old", {"apps": [{"app": "a"}]})], 5)["apps"][0]["app"] == "a"
    merged = merge_upstreams([Named("old", {"upstreams": [{"name": "php", "targets": [{"target": "t"}]}]})])
    assert merged["upstreams"][0]["targets"][0]["in_flight"] is None
    assert merge_upstreams([Named("old", {})]) == {"upstreams": []}


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c"]), unique=True), min_size=1, max_size=4))
def test_no_app_is_lost_or_doubled(apps: list[list[str]]) -> None:
    answers = [Named(str(number), activity({app: {} for app in names})) for number, names in enumerate(apps)]
    merged = merge_activity(answers, 10)
    counts = {app["app"]: app["per_second"] for app in merged["apps"]}
    assert counts == {app: float(sum(app in names for names in apps)) for names in apps for app in names}
