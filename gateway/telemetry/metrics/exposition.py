"""Our families as prometheus-client's, for its text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.telemetry.metrics.cells import Family, Histogram, Series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Collector(Collector):
    def __init__(self, families: Iterable[tuple[Family, Iterable[Series]]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family, series in self._families:
            yield as_metric(family, series)


def as_metric(family: Family, series: Iterable[Series]) -> Metric:
    """One family with the given series, as prometheus-client's own object."""
    if isinstance(family, Histogram):
        return _histogram(family, series)
    kind = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
    metric = kind(family.name, family.help_text)
    suffix = "_total" if family.kind == "counter" else ""
    for labels, values in series:
        metric.add_sample(metric.name + suffix, _label_values(family, labels), values[0])
    return metric


def _histogram(family: Histogram, series: Iterable[Series]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help_text)
    names = [*(repr(bound) for bound in family.bounds), "+Inf"]
    for label_values, values in series:
        labels = _label_values(family, label_values)
        for name, count in zip(names, accumulate(values[:-1]), strict=True):
            metric.add_sample(f"{family.name}_bucket", {**labels, "le": name}, count)
        metric.add_sample(f"{family.name}_count", labels, sum(values[:-1]))
        metric.add_sample(f"{family.name}_sum", labels, values[-1])
    return metric


def _label_values(family: Family, values: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in zip(family.labels, values, strict=True) if value}


def render(families: Iterable[tuple[Family, Iterable[Series]]]) -> bytes:
    """The families with their series, and this process's own figures, in Prometheus's text format 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(families))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return generate_latest(registry)
