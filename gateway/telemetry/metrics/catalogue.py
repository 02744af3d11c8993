"""Every metric: its name, help text, kind, labels and buckets."""

from __future__ import annotations

import operator
from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

DURATION_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0,
)  # fmt: skip
"""Seconds, as those of OVERHEAD_BUCKETS."""
OVERHEAD_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
COMMIT_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: an event has 0.1 s for its commit, all waiting included."""
BUDGET_BUCKETS: Final = (0.1, 0.25, 0.5, 0.8, 0.95, 1.0)
"""Shares of a budget: from 0.8 on alerts say that it gets tight, and above 1.0 it was used up."""


class Kind(StrEnum):
    """What Prometheus calls the type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Spec(NamedTuple):
    """One metric."""

    name: str
    help: str
    kind: Kind
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, rising."""
    merge: Callable[[float, float], float] = operator.add
    """How two processes' values of a gauge become one."""
    presets: tuple[str, ...] = ()
    """Values of the only label whose series are there from the start, at 0."""
    optional: bool = False
    """Whether a metric without labels has no series until something sets it: what it is about may not be configured."""


CATALOGUE: Final = {
    "hooks": Spec(
        "gateway_hooks_total", "Hooks by decision.", Kind.COUNTER, ("app", "method", "verdict", "source", "reason")
    ),
    "duration": Spec(
        "gateway_hook_duration_seconds",
        "From a hook's head to its answer.",
        Kind.HISTOGRAM,
        ("app", "method"),
        buckets=DURATION_BUCKETS,
    ),
    "in_flight": Spec("gateway_hooks_in_flight", "Hooks in flight inside the gateway.", Kind.GAUGE, ("app",)),
    "overhead": Spec(
        "gateway_overhead_seconds",
        "A hook's time minus the time spent on backends.",
        Kind.HISTOGRAM,
        ("app",),
        buckets=OVERHEAD_BUCKETS,
    ),
    "budget_used": Spec(
        "gateway_hook_budget_used_ratio",
        "The share of its budget that a hook used.",
        Kind.HISTOGRAM,
        ("app",),
        buckets=BUDGET_BUCKETS,
    ),
    "attempts": Spec(
        "gateway_upstream_attempts_total",
        "Requests to backends by outcome.",
        Kind.COUNTER,
        ("upstream", "target", "outcome"),
    ),
    "upstream_duration": Spec(
        "gateway_upstream_duration_seconds",
        "From the choice of a target to its answer.",
        Kind.HISTOGRAM,
        ("upstream",),
        buckets=DURATION_BUCKETS,
    ),
    "retries": Spec(
        "gateway_upstream_retries_total",
        "Further attempts, by the cause of the previous one.",
        Kind.COUNTER,
        ("upstream", "cause"),
    ),
    "target_up": Spec(
        "gateway_target_up",
        "1 while the target gets hooks; 0 while a worker has it ejected.",
        Kind.GAUGE,
        ("upstream", "target"),
        merge=min,
    ),
    "target_connections": Spec(
        "gateway_target_connections", "Open connections to a target.", Kind.GAUGE, ("upstream", "target")
    ),
    "target_ejections": Spec(
        "gateway_target_ejections_total", "How often a target was ejected.", Kind.COUNTER, ("upstream", "target")
    ),
    "target_ejected": Spec(
        "gateway_target_ejected",
        "1 while a worker has the target ejected for all apps, not only for single ones.",
        Kind.GAUGE,
        ("upstream", "target"),
        merge=max,
    ),
    "ready": Spec("gateway_ready", "1 while hooks are accepted; 0 while starting or draining.", Kind.GAUGE, merge=max),
    "reload_successful": Spec(
        "gateway_config_last_reload_successful",
        "1 if the last load of the configuration succeeded, else 0.",
        Kind.GAUGE,
        merge=max,
    ),
    "reload_time": Spec(
        "gateway_config_last_reload_success_timestamp_seconds",
        "Unix time of the last successful load of the configuration.",
        Kind.GAUGE,
        merge=max,
    ),
    "reloads": Spec(
        "gateway_config_reloads_total",
        "Reloads of the configuration.",
        Kind.COUNTER,
        ("result",),
        presets=("success", "failure"),
    ),
    "reload_failures": Spec(
        "gateway_config_reload_failures_total",
        "Failed reloads: invalid, not_applied (valid, but could not be applied), mass_removal.",
        Kind.COUNTER,
        ("reason",),
        presets=("invalid", "not_applied", "mass_removal"),
    ),
    "log_dropped": Spec(
        "gateway_log_lines_dropped_total", "Log lines dropped because nobody read them in time.", Kind.COUNTER
    ),
    "held_up": Spec(
        "gateway_held_up_seconds_total",
        "Seconds during which processes could not run: their timers were more than 0.25 s late.",
        Kind.COUNTER,
    ),
    "spans_exported": Spec("gateway_spans_exported_total", "Spans that the tracing collector accepted.", Kind.COUNTER),
    "spans_dropped": Spec(
        "gateway_spans_dropped_total",
        "Spans dropped: queue_full, or not_delivered to the collector.",
        Kind.COUNTER,
        ("reason",),
        presets=("queue_full", "not_delivered"),
    ),
    "ineffective_rejects": Spec(
        "gateway_ineffective_rejects_total",
        "Rejections that the media server only logs: the session's connect answer set no restOnError=FAIL.",
        Kind.COUNTER,
        ("app", "method"),
    ),
    "ineffective_changes": Spec(
        "gateway_ineffective_changes_total",
        "Fallback answers with a changed field that the media server ignores: restOverwrite does not list it.",
        Kind.COUNTER,
        ("app", "method"),
    ),
    "client_config_answers": Spec(
        "gateway_client_config_answers_total",
        "Answers to connect, by whether restClientConfig is as configured: ok, missing, enforced, unreadable.",
        Kind.COUNTER,
        ("app", "outcome"),
    ),
    "excluded_fields": Spec(
        "gateway_excluded_fields_total",
        "Answers to connect whose restExclude leaves out a field that the gateway needs.",
        Kind.COUNTER,
        ("app", "field"),
    ),
    "unkept_settings": Spec(
        "gateway_session_settings_unkept_total",
        "Answers to connect whose settings could not be kept in memory; only their restOnError is known.",
        Kind.COUNTER,
    ),
    "repaired_answers": Spec(
        "gateway_repaired_answers_total",
        "Backends' answers cut down to their JSON object, by what was cut away: bom, before, after.",
        Kind.COUNTER,
        ("app", "kinds"),
    ),
    "shadow_hooks": Spec(
        "gateway_shadow_hooks_total",
        "Hooks copied to a candidate, by how its answer compares with the one that was sent.",
        Kind.COUNTER,
        ("app", "upstream", "outcome"),
    ),
    "split_hooks": Spec(
        "gateway_split_hooks_total",
        "Hooks whose upstream was chosen by weight, by verdict.",
        Kind.COUNTER,
        ("app", "upstream", "verdict"),
    ),
    "failovers": Spec(
        "gateway_failovers_total",
        "Hooks that failed over to another upstream, by the cause of this one's failure.",
        Kind.COUNTER,
        ("app", "upstream", "cause"),
    ),
    "rate_limited": Spec("gateway_rate_limited_total", "Hooks over their app's rate limit.", Kind.COUNTER, ("app",)),
    "rule_hits": Spec(
        "gateway_rule_hits_total",
        "Hooks that matched a rule of their app, by verdict.",
        Kind.COUNTER,
        ("app", "rule", "verdict"),
    ),
    "recorded_hooks": Spec(
        "gateway_recorded_hooks_total",
        "Hooks of the recording: written, dropped, or deleted later with the oldest file.",
        Kind.COUNTER,
        ("outcome",),
        presets=("written", "dropped", "deleted"),
    ),
    "certificate_days": Spec(
        "gateway_certificate_days_to_expiry",
        "Days until a configured certificate expires.",
        Kind.GAUGE,
        ("certificate",),
        merge=min,
    ),
    "failed_handshakes": Spec(
        "gateway_tls_handshake_failures_total",
        "TLS handshakes on the hook port that failed.",
        Kind.COUNTER,
        ("reason",),
    ),
    "dropped_connections": Spec(
        "gateway_dropped_connections_total",
        "Connections to the hook port closed immediately: a limit was reached, or a PROXY header missing or malformed.",
        Kind.COUNTER,
        ("reason",),
        presets=("limit", "proxy_header"),
    ),
    "workers": Spec("gateway_workers", "Processes that serve hooks.", Kind.GAUGE),
    "worker_deaths": Spec("gateway_worker_deaths_total", "Workers that died and were replaced.", Kind.COUNTER),
    "spool_events": Spec(
        "gateway_spool_events", "Events kept for later delivery, dead letters apart.", Kind.GAUGE, ("upstream",)
    ),
    "spool_bytes": Spec(
        "gateway_spool_bytes", "Bytes of the events kept for later delivery.", Kind.GAUGE, ("upstream",)
    ),
    "spool_oldest_age": Spec(
        "gateway_spool_oldest_age_seconds",
        "Seconds since the oldest event that waits for delivery came.",
        Kind.GAUGE,
        ("upstream",),
        merge=max,
    ),
    "spool_dead": Spec(
        "gateway_spool_dead_total",
        "Events that became dead letters: the backend refused each to the end.",
        Kind.COUNTER,
    ),
    "spool_dropped": Spec(
        "gateway_spool_dropped_total",
        "Kept events dropped undelivered: older than max_age, beyond max_size, or by an operator.",
        Kind.COUNTER,
        ("reason",),
        presets=("max_age", "max_size", "operator"),
    ),
    "spool_redelivered": Spec("gateway_spool_redelivered_total", "Kept events that were delivered.", Kind.COUNTER),
    "store_commit": Spec(
        "gateway_store_commit_seconds",
        "From an event's arrival at the store's process to its commit.",
        Kind.HISTOGRAM,
        buckets=COMMIT_BUCKETS,
        optional=True,
    ),
    "store_up": Spec(
        "gateway_store_up",
        "1 while the store takes events, else 0; missing where no store is configured.",
        Kind.GAUGE,
        merge=min,
        optional=True,
    ),
    "history_dropped": Spec(
        "gateway_history_dropped_total",
        "Decisions missing from the history: it could not take them in time.",
        Kind.COUNTER,
    ),
    "state_up": Spec(
        "gateway_state_up",
        "1 while the state's server can be used, else 0; missing where no state is configured.",
        Kind.GAUGE,
        merge=min,
        optional=True,
    ),
    "state_degraded": Spec(
        "gateway_state_degraded",
        "1 while a feature does without the state's server: sessions, dedupe, limits, orders.",
        Kind.GAUGE,
        ("feature",),
        merge=max,
    ),
    "state_late": Spec(
        "gateway_state_late_total", "Answers of the state's server that came too late to be of use.", Kind.COUNTER
    ),
    "fleet_replicas": Spec(
        "gateway_fleet_replicas",
        "Gateways of the fleet that live, this one included, as last known; missing where no state is configured.",
        Kind.GAUGE,
        merge=max,
        optional=True,
    ),
    "fleet_config_mismatch": Spec(
        "gateway_fleet_config_mismatch",
        "1 while the gateways of the fleet have different configurations, else 0.",
        Kind.GAUGE,
        merge=max,
        optional=True,
    ),
    "build_info": Spec(
        "gateway_build_info", "1; the labels say what runs.", Kind.GAUGE, ("version", "python"), merge=max
    ),
}
"""By the attribute of ``Metrics`` that holds it; the exposition has the same order."""
