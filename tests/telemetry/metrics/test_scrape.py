"""What Prometheus gets: the contract's names and labels, no others, never more of them by what callers send."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.faulty import FaultyBackend
from tests.support.gateways import RunningGateway, read_answer, running_gateway
from tests.support.programs import promtool_check

CONTRACT: Final[dict[str, tuple[str, set[str]]]] = {
    "gateway_hooks": ("counter", {"app", "method", "verdict", "source", "reason"}),
    "gateway_hook_duration_seconds": ("histogram", {"app", "method"}),
    "gateway_hooks_in_flight": ("gauge", {"app"}),
    "gateway_overhead_seconds": ("histogram", {"app"}),
    "gateway_upstream_attempts": ("counter", {"upstream", "target", "outcome"}),
    "gateway_upstream_duration_seconds": ("histogram", {"upstream"}),
    "gateway_upstream_retries": ("counter", {"upstream", "cause"}),
    "gateway_target_up": ("gauge", {"upstream", "target"}),
    "gateway_target_connections": ("gauge", {"upstream", "target"}),
    "gateway_target_ejections": ("counter", {"upstream", "target"}),
    "gateway_config_last_reload_successful": ("gauge", set()),
    "gateway_config_last_reload_success_timestamp_seconds": ("gauge", set()),
    "gateway_config_reloads": ("counter", {"result"}),
    "gateway_config_reload_failures": ("counter", {"reason"}),
    "gateway_dropped_connections": ("counter", {"reason"}),
    "gateway_build_info": ("gauge", {"version", "python"}),
    # Beyond the contract's table: what an operator must be able to see of the gateway's own losses.
    "gateway_log_lines_dropped": ("counter", set()),
    "gateway_held_up_seconds": ("counter", set()),
    "gateway_hook_budget_used_ratio": ("histogram", {"app"}),
    "gateway_target_ejected": ("gauge", {"upstream", "target"}),
    "gateway_ready": ("gauge", set()),
    "gateway_workers": ("gauge", set()),
    "gateway_worker_deaths": ("counter", set()),
    "gateway_certificate_days_to_expiry": ("gauge", {"certificate"}),
    "gateway_tls_handshake_failures": ("counter", {"reason"}),
    "gateway_spans_exported": ("counter", set()),
    "gateway_spans_dropped": ("counter", {"reason"}),
    "gateway_spool_events": ("gauge", {"upstream"}),
    "gateway_spool_bytes": ("gauge", {"upstream"}),
    "gateway_spool_oldest_age_seconds": ("gauge", {"upstream"}),
    "gateway_spool_dead": ("counter", set()),
    "gateway_spool_dropped": ("counter", {"reason"}),
    "gateway_spool_redelivered": ("counter", set()),
    "gateway_store_commit_seconds": ("histogram", set()),
    "gateway_store_up": ("gauge", set()),
    "gateway_history_dropped": ("counter", set()),
    "gateway_state_up": ("gauge", set()),
    "gateway_state_degraded": ("gauge", {"feature"}),
    "gateway_state_late": ("counter", set()),
    "gateway_fleet_replicas": ("gauge", set()),
    "gateway_fleet_config_mismatch": ("gauge", set()),
    # What is wise about this protocol.
    "gateway_ineffective_rejects": ("counter", {"app", "method"}),
    "gateway_ineffective_changes": ("counter", {"app", "method"}),
    "gateway_client_config_answers": ("counter", {"app", "outcome"}),
    "gateway_excluded_fields": ("counter", {"app", "field"}),
    "gateway_session_settings_unkept": ("counter", set()),
    "gateway_repaired_answers": ("counter", {"app", "kinds"}),
    "gateway_shadow_hooks": ("counter", {"app", "upstream", "outcome"}),
    "gateway_split_hooks": ("counter", {"app", "upstream", "verdict"}),
    "gateway_failovers": ("counter", {"app", "upstream", "cause"}),
    "gateway_rate_limited": ("counter", {"app"}),
    "gateway_rule_hits": ("counter", {"app", "rule", "verdict"}),
    "gateway_recorded_hooks": ("counter", {"outcome"}),
}
WISE: Final = set(list(CONTRACT)[-12:])
"""Nothing of it is configured here: test_catalogue.py is about these."""
STORE: Final = {
    "gateway_spool_events",
    "gateway_spool_bytes",
    "gateway_spool_oldest_age_seconds",
    "gateway_store_commit_seconds",
    "gateway_store_up",
}
"""Have no series where no store is configured: no alert must take that for a store that is down."""
STATE: Final = {
    "gateway_state_up",
    "gateway_state_degraded",
    "gateway_fleet_replicas",
    "gateway_fleet_config_mismatch",
}
"""The same of the state."""
EMPTY: Final = {"gateway_certificate_days_to_expiry", *WISE, *STORE, *STATE} - {
    "gateway_recorded_hooks",
    "gateway_session_settings_unkept",
}
"""No certificate is configured here either."""
VERDICTS: Final = {"allow", "reject", "error"}
SOURCES: Final = {"backend", "fallback", "duplicate", "static", "rule", "gateway", "spool"}
CAUSES: Final = {"timeout", "unreachable", "overload", "bad_answer", "error_status"}
REASONS: Final = CAUSES | {"ok", "denied", "backlog", "unknown_app", "bad_request", "unauthorized", "internal"}
CASES: Final = ("ok", "denied", "hang", "close_without_a_byte", "body_bom", "status_500", "close_after_idle")
FAILURES: Final = 3
"""In a row, that eject the target of the upstream "down"."""
FLOOD: Final = 2000
BATCH: Final = 50


def configuration(backend: FaultyBackend, unknown_app: str) -> str:
    apps: dict[str, dict[str, str]] = {name: {"upstream": name, "timeout": "10s"} for name in CASES}
    apps["blocked"] = {"static": "reject"}
    apps["all others"] = {"static": "allow"}
    apps["hang"]["timeout"] = "300ms"
    apps["down"] = {"upstream": "down", "timeout": "10s"}
    upstreams: dict[str, dict[str, Any]] = {name: {"url": backend.url_of(name)} for name in CASES}
    breaker = {"failures": FAILURES, "window": "1m", "open_for": "1m"}
    upstreams["down"] = {"url": backend.url_of("close_without_a_byte"), "breaker": breaker}
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "log": {"access": "off"},
            "defaults": {"dedupe": "off"},
            "upstreams": upstreams,
            "apps": {**apps, 'odd "name"\\': {"static": "allow"}},
            "unknown_app": unknown_app,
        }
    )


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running


@pytest.fixture(scope="module", params=["reject", "all others"])
def gateway(
    request: pytest.FixtureRequest, backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """A gateway that has met every fate of a hook that it knows."""
    config = configuration(backend, request.param)
    with running_gateway(config, tmp_path_factory.mktemp("gateway")) as running:
        for app in (*CASES, "close_after_idle", *["down"] * (FAILURES + 1), "blocked", 'odd "name"\\', "nobody", ""):
            running.hook(body=json.dumps({"appKey": app}).encode())
        running.hook("NewMethod", body=b'{"appKey":"ok"}')
        running.hook(body=b"no JSON")
        running.hook("no/method/", body=b'{"appKey":"ok"}')
        yield running


def families(gateway: RunningGateway) -> dict[str, Metric]:
    parsed = text_string_to_metric_families(gateway.get("/metrics").text)
    return {family.name: family for family in parsed if family.name.startswith("gateway_")}


def series(gateway: RunningGateway) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return {
        (sample.name, frozenset(sample.labels.items()))
        for family in families(gateway).values()
        for sample in family.samples
    }


@pytest.mark.real
def test_promtool_finds_nothing_to_complain_about(gateway: RunningGateway) -> None:
    assert promtool_check(gateway.get("/metrics").text) == []


def test_the_names_kinds_and_labels_are_the_contracts(gateway: RunningGateway) -> None:
    found = families(gateway)
    assert set(found) == set(CONTRACT)
    for name, family in found.items():
        kind, labels = CONTRACT[name]
        assert family.type == kind
        assert family.documentation
        assert bool(family.samples) == (name not in EMPTY)
        assert {frozenset(sample.labels.keys() - {"le"}) for sample in family.samples} <= {frozenset(labels)}


def test_the_labels_values_are_the_contracts_words_and_the_configurations_names(gateway: RunningGateway) -> None:
    found = families(gateway)
    config = gateway.get("/api/config").json()
    hooks = found["gateway_hooks"].samples
    assert {sample.labels["verdict"] for sample in hooks} <= VERDICTS
    assert {sample.labels["source"] for sample in hooks} <= SOURCES
    assert {sample.labels["reason"] for sample in hooks} <= REASONS
    assert {sample.labels["app"] for sample in hooks} <= {*config["apps"], "_unknown"}
    assert {sample.labels["method"] for sample in hooks} == {"OnCallEvent", "_other"}
    attempts = found["gateway_upstream_attempts"].samples
    assert {sample.labels["outcome"] for sample in attempts} <= CAUSES | {"ok", "denied"}
    assert {sample.labels["upstream"] for sample in attempts} == set(config["upstreams"])
    assert {sample.labels["cause"] for sample in found["gateway_upstream_retries"].samples} <= CAUSES


def test_a_hooks_fate_is_counted_under_its_own_words(gateway: RunningGateway) -> None:
    fates = {
        "ok": ("allow", "backend", "ok"),
        "denied": ("reject", "backend", "denied"),
        "hang": ("reject", "fallback", "timeout"),
        "close_without_a_byte": ("reject", "fallback", "unreachable"),
        "body_bom": ("reject", "fallback", "bad_answer"),
        "status_500": ("reject", "fallback", "error_status"),
        "blocked": ("reject", "static", "denied"),
        'odd "name"\\': ("allow", "static", "ok"),
    }
    samples = families(gateway)["gateway_hooks"].samples
    for app, fate in fates.items():
        labels = {"app": app, "method": "OnCallEvent", **dict(zip(("verdict", "source", "reason"), fate, strict=True))}
        assert [sample.value for sample in samples if sample.labels == labels] == [1]


def test_histograms_count_each_hook_once_and_reach_to_15_seconds(gateway: RunningGateway) -> None:
    found = families(gateway)
    hooks = sum(sample.value for sample in found["gateway_hooks"].samples)
    for name in ("gateway_hook_duration_seconds", "gateway_overhead_seconds"):
        samples = found[name].samples
        assert sum(sample.value for sample in samples if sample.name == f"{name}_count") == hooks
        assert sum(sample.value for sample in samples if sample.labels.get("le") == "+Inf") == hooks
    bounds = [float(s.labels["le"]) for s in found["gateway_hook_duration_seconds"].samples if "le" in s.labels]
    assert max(bound for bound in bounds if bound != float("inf")) == 15.0


def test_a_retry_on_a_stale_connection_is_counted_by_the_cause_before_it(gateway: RunningGateway) -> None:
    labels = {"upstream": "close_after_idle", "cause": "unreachable"}
    assert gateway.metric("gateway_upstream_retries_total", **labels) == 1
    assert gateway.metric("gateway_upstream_attempts_total", upstream="close_after_idle") == 3


def test_a_target_that_was_ejected_shows_as_down_with_its_ejection_counted_and_no_other_does(
    gateway: RunningGateway,
) -> None:
    for name in (*CASES, "down"):
        ejected = float(name == "down")
        assert gateway.metric("gateway_target_up", upstream=name) == 1 - ejected
        assert gateway.metric("gateway_target_ejected", upstream=name) == ejected
        assert gateway.metric("gateway_target_ejections_total", upstream=name) == ejected
    assert gateway.metric("gateway_upstream_attempts_total", upstream="down", outcome="unreachable") == FAILURES


def test_connections_open_to_a_target_are_counted(gateway: RunningGateway) -> None:
    assert gateway.metric("gateway_target_connections", upstream="ok") == 1
    assert gateway.metric("gateway_target_connections", upstream="hang") == 0


def test_the_part_of_its_budget_that_a_hook_took_is_known_where_a_backend_had_one(gateway: RunningGateway) -> None:
    name = "gateway_hook_budget_used_ratio"
    assert gateway.metric(f"{name}_bucket", app="ok", le="0.5") == gateway.metric(f"{name}_count", app="ok") == 2
    assert gateway.metric(f"{name}_bucket", app="hang", le="0.95") == 0
    assert gateway.metric(f"{name}_count", app="hang") == 1
    assert gateway.metric(f"{name}_count", app="blocked") == 0


def test_a_gateway_that_takes_hooks_is_ready(gateway: RunningGateway) -> None:
    assert gateway.metric("gateway_ready") == 1


def test_one_process_serves_and_no_worker_has_died(gateway: RunningGateway) -> None:
    assert gateway.metric("gateway_workers") == 1
    assert gateway.metric("gateway_worker_deaths_total") == 0
    assert gateway.metric("gateway_log_lines_dropped_total") == 0


def flood(gateway: RunningGateway, first: int, count: int) -> int:
    """Send hooks of random appKeys and methods, many in a segment; how many were answered."""
    answered = 0
    with gateway.connect() as sock, sock.makefile("rb") as stream:
        for start in range(first, first + count, BATCH):
            sent = b""
            for number in range(start, start + BATCH):
                body = b'{"appKey":"tenant-%d","callee":"%d"}' % (number, number)
                head = b"POST /p%d/Method%d HTTP/1.1\r\nHost: h%d\r\n" % (number, number, number)
                sent += head + b"X-Request-Id: id-%d\r\nContent-Length: %d\r\n\r\n" % (number, len(body)) + body
            sock.sendall(sent)
            for _ in range(BATCH):
                assert read_answer(stream).status in (200, 403)
                answered += 1
    return answered


def test_random_appkeys_and_methods_add_no_series(gateway: RunningGateway) -> None:
    flood(gateway, 0, BATCH)
    before = series(gateway)
    hooks = gateway.metric("gateway_hooks_total")
    assert flood(gateway, BATCH, FLOOD) == FLOOD
    assert series(gateway) == before
    assert gateway.metric("gateway_hooks_total") == hooks + FLOOD
    assert "tenant-" not in gateway.get("/metrics").text


def test_scrapes_during_traffic_are_whole_and_counters_only_rise(gateway: RunningGateway) -> None:
    failed: list[BaseException] = []

    def traffic() -> None:
        try:
            flood(gateway, 10_000, FLOOD)
        except BaseException as exc:  # it is raised again below
            failed.append(exc)

    start = gateway.metric("gateway_hooks_total")
    thread = threading.Thread(target=traffic)
    thread.start()
    seen = [start]
    for _ in range(200):
        if not thread.is_alive():
            break
        seen.append(gateway.metric("gateway_hooks_total"))
    thread.join(30)
    if failed:
        raise failed[0]
    assert gateway.metric("gateway_hooks_total") == start + FLOOD
    assert seen == sorted(seen)
