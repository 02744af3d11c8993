"""What a scrape says of the metrics, sample by sample, and the decisions that tests have counted."""

from __future__ import annotations

import math
from collections import defaultdict

from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.config import parse_duration
from gateway.model.decision import Decision
from gateway.model.verdicts import Ruling, backend_reject
from gateway.telemetry.metrics.catalogue import DURATION_BUCKETS

LONGEST_HOOK = parse_duration("10m")
"""Seconds: the longest budget that the configuration allows."""
BOUNDS = (0.5, 1.0, 2.5)
label_values = st.text(min_size=1, max_size=5)
observations = st.floats(0, 100, allow_nan=False) | st.sampled_from(DURATION_BUCKETS)


class Clock:
    """A clock that a test sets; seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def decision(
    app: str = "a",
    method: str = "OnCallEvent",
    ruling: Ruling | None = None,
    duration: float = 0.02,
    upstream_duration: float = 0.015,
) -> Decision:
    """A hook's decision, to be counted; durations in seconds."""
    return Decision(
        ruling or backend_reject(), 1e9, "id", app, method, 3.0, duration, "u", "http://t/", 1, upstream_duration
    )


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
