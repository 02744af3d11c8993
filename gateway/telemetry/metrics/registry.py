"""All metrics of a process, and the one place that turns a Decision into numbers."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from gateway.model.decision import UNKNOWN_APP, Decision
from gateway.model.verdicts import Annotations, Source
from gateway.telemetry.metrics.catalogue import CATALOGUE, Kind, Spec
from gateway.telemetry.metrics.cells import Counter, Distribution, Family, Gauge, Histogram, MetricCells, Series, Value
from gateway.telemetry.metrics.exposition import render
from gateway.telemetry.metrics.shared import WorkerMetrics

APP_LABEL_LIMIT: Final = 500
"""Number of apps above which histograms lose their app label, so that a scrape stays bounded."""

_NO_ANNOTATIONS: Final = Annotations()


class _HookSeries:
    """The series that count hooks of one kind, and what that kind is."""

    __slots__ = ("budget_used", "duration", "era", "hooks", "method", "overhead", "reason", "source", "verdict")

    def __init__(
        self, decision: Decision, era: object, hooks: Value, duration: Distribution, overhead: Distribution,
        budget_used: Distribution,
    ) -> None:  # fmt: skip
        self.method = decision.method
        self.verdict = decision.ruling.verdict
        self.source = decision.ruling.source
        self.reason = decision.ruling.reason
        self.era = era
        self.hooks = hooks
        self.duration = duration
        self.overhead = overhead
        self.budget_used = budget_used


class _Pairs(Container[tuple[str, str]]):
    """All pairs of an app and an upstream, without building them."""

    def __init__(self, apps: Container[str], upstreams: Container[str]) -> None:
        self._apps = apps
        self._upstreams = upstreams

    def __contains__(self, pair: Any) -> bool:
        app, upstream = pair
        return app in self._apps and (upstream in self._upstreams or f"shadow:{upstream}" in self._upstreams)


class Scope(NamedTuple):
    """What a configuration allows series for."""

    apps: Container[str]
    upstreams: Container[str]
    app_label: bool
    """Whether histograms have the app label."""
    rules: Container[tuple[str, str]] | None
    """(app, rule) pairs; None: any."""


class Metrics:
    """All families of this process. Their label values come from the configuration, never from a caller."""

    hooks: Counter
    duration: Histogram
    in_flight: Gauge
    overhead: Histogram
    budget_used: Histogram
    attempts: Counter
    upstream_duration: Histogram
    retries: Counter
    target_up: Gauge
    target_connections: Gauge
    target_ejections: Counter
    target_ejected: Gauge
    ready: Value
    reload_successful: Value
    reload_time: Value
    reloads: Counter
    reload_failures: Counter
    log_dropped: Value
    held_up: Value
    spans_exported: Value
    spans_dropped: Counter
    ineffective_rejects: Counter
    ineffective_changes: Counter
    client_config_answers: Counter
    excluded_fields: Counter
    unkept_settings: Value
    repaired_answers: Counter
    shadow_hooks: Counter
    split_hooks: Counter
    failovers: Counter
    rate_limited: Counter
    rule_hits: Counter
    recorded_hooks: Counter
    certificate_days: Gauge
    failed_handshakes: Counter
    dropped_connections: Counter
    workers: Value
    worker_deaths: Value
    spool_events: Gauge
    spool_bytes: Gauge
    spool_oldest_age: Gauge
    spool_dead: Value
    spool_dropped: Counter
    spool_redelivered: Value
    store_commit: Histogram
    store_up: Gauge
    history_dropped: Value
    state_up: Gauge
    state_degraded: Gauge
    state_late: Value
    fleet_replicas: Gauge
    fleet_config_mismatch: Gauge
    build_info: Gauge

    def __init__(self, version: str, cells: MetricCells | None = None) -> None:
        cells = cells or MetricCells()
        self._families: list[Family] = []
        for attribute, spec in CATALOGUE.items():
            family = make_family(spec, cells)
            self._families.append(family)
            setattr(self, attribute, family if spec.labels or spec.optional else family.with_labels())
        self.build_info.with_labels(version, platform.python_version()).set(1)
        self._samplers: list[Callable[[], None]] = []
        self.scope = Scope(apps=frozenset((UNKNOWN_APP,)), upstreams=frozenset(), app_label=True, rules=None)
        """What series may be created for."""
        self._hook_series: dict[tuple[str, ...], _HookSeries] = {}
        self._era = object()
        """Changes with the configuration: series that were looked up before may have been removed."""
        self._annotated: dict[tuple[object, ...], tuple[Value, ...]] = {}

    @property
    def families(self) -> Sequence[Family]:
        """Every family, in the order of the exposition."""
        return tuple(self._families)

    def record(self, decision: Decision) -> None:
        """Count a decision."""
        ruling, cache = decision.ruling, decision.app_cache
        series: _HookSeries | None = None if cache is None else cache.metrics_slot
        if (  # an app's hooks are mostly of one kind: the series of the last one is kept
            series is None
            or series.method is not decision.method
            or series.reason is not ruling.reason
            or series.source is not ruling.source
            or series.verdict is not ruling.verdict
            or series.era is not self._era
        ):
            series = self._find_series(decision)
        series.hooks.inc()
        series.duration.observe(decision.duration)
        series.overhead.observe(decision.duration - decision.upstream_duration)
        if decision.budget:
            series.budget_used.observe(decision.duration / decision.budget)
        if ruling.annotations is not None or decision.split:
            self._count_annotations(decision)

    def record_reload(self, failed_by: str | None) -> None:
        """Count a reload; *failed_by* is the reason if it failed."""
        self.reloads.with_labels("success" if failed_by is None else "failure").inc()
        if failed_by is not None:
            self.reload_failures.with_labels(failed_by).inc()
        self.record_load(successful=failed_by is None)

    def record_load(self, *, successful: bool) -> None:
        """Record whether the last load of the configuration, at start or later, succeeded."""
        self.reload_successful.set(1.0 if successful else 0.0)
        if successful:
            self.reload_time.set(time.time())

    def configure(
        self,
        apps: Collection[str],
        targets: Collection[tuple[str, str]],
        app_label: str = "auto",
        rules: Container[tuple[str, str]] | None = None,
    ) -> None:
        """Keep the series of these apps, (upstream, target) and (app, rule) pairs; remove all others.

        *app_label*: whether histograms have it: ``auto`` (for up to APP_LABEL_LIMIT apps), ``always``, ``never``.
        *rules*: None keeps those of every app that stays.
        """
        scope = self.make_scope(apps, {upstream for upstream, _ in targets}, app_label, rules)
        self.set_scope(scope)
        self.prune(targets)

    def make_scope(
        self,
        apps: Collection[str],
        upstreams: Iterable[str],
        app_label: str = "auto",
        rules: Container[tuple[str, str]] | None = None,
    ) -> Scope:
        """The argument of ``set_scope``, from those of ``configure``; of *upstreams* the names are enough."""
        with_labels = app_label == "always" or (app_label == "auto" and len(apps) <= APP_LABEL_LIMIT)
        return Scope(frozenset((*apps, UNKNOWN_APP)), frozenset(upstreams), with_labels, rules)

    def set_scope(self, scope: Scope) -> None:
        """Create only series of this scope from now on."""
        self.scope = scope
        self._hook_series.clear()
        self._era = object()
        self._annotated.clear()

    def prune(self, targets: Collection[tuple[str, str]]) -> None:
        """Remove all series outside the scope, and those of all other (upstream, target) pairs than these."""
        apps, upstreams, app_label, rules = self.scope
        for family in self._families:
            if "app" in family.labels and "upstream" in family.labels:
                family.keep(("app", "upstream"), _Pairs(apps, upstreams))
            elif "app" in family.labels:
                bare = isinstance(family, Histogram) and not app_label
                family.keep(("app",), {""} if bare else apps)
            elif "target" in family.labels:
                family.keep(("upstream", "target"), targets)
            elif "upstream" in family.labels:
                family.keep(("upstream",), upstreams)
        if rules is not None:
            self.rule_hits.keep(("app", "rule"), rules)
        self._hook_series.clear()
        self._era = object()
        self._annotated.clear()

    def on_scrape(self, sampler: Callable[[], None]) -> None:
        """Call *sampler* before each exposition, to set gauges that are not updated all the time."""
        self._samplers.append(sampler)

    def sample(self) -> None:
        """Update all gauges."""
        for sampler in self._samplers:
            sampler()

    def render(self, others: Collection[WorkerMetrics] = ()) -> bytes:
        """All families in Prometheus's text format; this process's and the *others'* series merged."""
        self.sample()
        for other in others:
            other.refresh()
        return render((family, _merged_series(family, others)) for family in self._families)

    def inherit(self, other: WorkerMetrics) -> None:
        """Add the counts of a process that has ended; its gauges end with it."""
        other.refresh()
        for family in self._families:
            if not isinstance(family, Gauge):
                for series in other.series(family):
                    family.add(series)

    def merged_values(
        self, family: Family, others: Collection[WorkerMetrics] = ()
    ) -> dict[tuple[str, ...], Sequence[float]]:
        """A family's values by label values; this process's and the (refreshed) *others'* merged."""
        return dict(_merged_series(family, others))

    def totals(self, family: Counter, others: Collection[WorkerMetrics] = ()) -> dict[tuple[str, ...], float]:
        """The same for a counter or gauge, in a tenth of the time."""
        totals = family.totals()
        for other in others:
            for labels, value in other.totals(family).items():
                mine = totals.get(labels)
                totals[labels] = value if mine is None else family.merge(mine, value)
        return totals

    def _find_series(self, decision: Decision) -> _HookSeries:
        ruling = decision.ruling
        key = (decision.app, decision.method, ruling.verdict, ruling.source, ruling.reason)
        series = self._hook_series.get(key)
        if series is None:
            series = self._hook_series[key] = self._new_series(decision)
        if decision.app_cache is not None:
            decision.app_cache.metrics_slot = series
        return series

    def _new_series(self, decision: Decision) -> _HookSeries:
        ruling = decision.ruling
        # A hook in flight while a reload removed its app must not create the app's series again.
        app = decision.app if decision.app in self.scope.apps else UNKNOWN_APP
        histogram_app = app if self.scope.app_label else ""
        return _HookSeries(
            decision=decision,
            era=self._era,
            hooks=self.hooks.with_labels(app, decision.method, ruling.verdict, ruling.source, ruling.reason),
            duration=self.duration.with_labels(histogram_app, decision.method),
            overhead=self.overhead.with_labels(histogram_app),
            budget_used=self.budget_used.with_labels(histogram_app),
        )

    def _count_annotations(self, decision: Decision) -> None:
        ruling = decision.ruling
        if ruling.source is Source.DUPLICATE:
            return  # it was counted when it was decided
        annotations = ruling.annotations or _NO_ANNOTATIONS
        fields = frozenset(name.rpartition(".")[2] for name in annotations.excluded) if annotations.excluded else None
        key = (
            decision.app,
            decision.method,
            ruling.verdict,
            decision.upstream if decision.split else None,
            annotations.rule,
            annotations.repaired,
            annotations.client_config,
            annotations.ineffective,
            annotations.failed_over_from,
            annotations.failover_cause,
            annotations.ignored_fields is not None,
            fields,
        )
        series = self._annotated.get(key)
        if series is None:
            series = self._annotated[key] = tuple(self._annotation_series(decision, annotations))
        for value in series:
            value.inc()

    def _annotation_series(self, decision: Decision, annotations: Annotations) -> Iterator[Value]:
        app = decision.app if decision.app in self.scope.apps else UNKNOWN_APP
        verdict, rules = decision.ruling.verdict, self.scope.rules
        if annotations.rule is not None and (rules is None or (app, annotations.rule) in rules):
            yield self.rule_hits.with_labels(app, annotations.rule, verdict)
        if annotations.repaired is not None:
            yield self.repaired_answers.with_labels(app, annotations.repaired)
        if annotations.client_config is not None:
            yield self.client_config_answers.with_labels(app, annotations.client_config)
        if annotations.ineffective:
            yield self.ineffective_rejects.with_labels(app, decision.method)
        if annotations.ignored_fields is not None:
            yield self.ineffective_changes.with_labels(app, decision.method)
        for field in {name.rpartition(".")[2] for name in annotations.excluded}:
            yield self.excluded_fields.with_labels(app, field)
        # As with apps, the series of a removed rule or upstream are not created again.
        if annotations.failed_over_from is not None and annotations.failed_over_from in self.scope.upstreams:
            yield self.failovers.with_labels(app, annotations.failed_over_from, annotations.failover_cause or "")
        if decision.split and decision.upstream is not None and decision.upstream in self.scope.upstreams:
            yield self.split_hooks.with_labels(app, decision.upstream, verdict)


def _merged_series(family: Family, others: Collection[WorkerMetrics]) -> Iterable[Series]:
    if not others:
        return family.read()
    merged = {series.labels: series.values for series in family.read()}
    for other in others:
        for labels, values in other.series(family):
            mine = merged.get(labels)
            merged[labels] = values if mine is None else family.merged(mine, values)
    return (Series(labels, values) for labels, values in merged.items())


def make_family(spec: Spec, cells: MetricCells) -> Counter | Gauge | Histogram:
    """The family that a row of the catalogue describes, with the series that it has from the start."""
    if spec.kind is Kind.HISTOGRAM:
        return Histogram(cells, spec.name, spec.help, spec.labels, spec.buckets)
    if spec.kind is Kind.GAUGE:
        return Gauge(cells, spec.name, spec.help, spec.labels, spec.merge)
    family = Counter(cells, spec.name, spec.help, spec.labels)
    for value in spec.presets:
        family.with_labels(value)
    return family
