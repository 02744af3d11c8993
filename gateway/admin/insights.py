"""Insights: ineffective rejections, repaired answers, candidates, actual splits, rules, limits, the recording.

Computed from what the metrics counted since the start and within the last seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from heapq import nsmallest
from typing import Any, Final

from gateway.policy.comparison import Finding
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.metrics.shared import WorkerMetrics

Counts = Mapping[tuple[str, ...], float]
"""A counter's series by label values; the first label is the app, except for the recording."""
Special = Mapping[str, Counts]
"""The counters of this module by name."""
_DIFFERING: Final = (Finding.VERDICT_DIFFERS, Finding.BODY_DIFFERS)
_OK: Final = "ok"
_SUMS: Final = ("ineffective", "ineffective_changes", "repaired", "failovers", "rate_limited")
_LEAST_URGENT: Final = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def read(metrics: Metrics, others: Collection[WorkerMetrics] = ()) -> dict[str, dict[tuple[str, ...], float]]:
    """The current counters, including those of the (refreshed) *others*."""
    families = {
        "ineffective": metrics.ineffective_rejects,
        "ineffective_changes": metrics.ineffective_changes,
        "excluded": metrics.excluded_fields,
        "client_config": metrics.client_config_answers,
        "repaired": metrics.repaired_answers,
        "shadow": metrics.shadow_hooks,
        "split": metrics.split_hooks,
        "failovers": metrics.failovers,
        "rate_limited": metrics.rate_limited,
        "rules": metrics.rule_hits,
        "recorded": metrics.recorded_hooks,
    }
    return {name: metrics.totals(family, others) for name, family in families.items()}


def difference(earlier: Special, later: Special) -> dict[str, dict[tuple[str, ...], float]]:
    """The counts in between, without series that did not change; all of a series counts if it was reset."""
    steps: dict[str, dict[tuple[str, ...], float]] = {}
    for name, counts in later.items():
        known = earlier.get(name, {})
        changed = {}
        for labels, total in counts.items():
            before = known.get(labels, 0.0)
            if total != before:
                changed[labels] = total - before if total > before else total
        if changed:
            steps[name] = changed
    return steps


class Insights:
    """Counts since the start (*totals*), and within the last *seconds* (*steps*)."""

    def __init__(self, totals: Special, steps: Iterable[Special] = (), seconds: float = 0.0) -> None:
        self._totals = totals
        self._steps = tuple(steps)
        self._seconds = seconds

    @cached_property
    def _recent(self) -> Special:
        recent: defaultdict[str, defaultdict[tuple[str, ...], float]] = defaultdict(lambda: defaultdict(float))
        for step in self._steps:
            for name, counts in step.items():
                for labels, count in counts.items():
                    recent[name][labels] += count
        return recent

    def as_json(self, most: int) -> dict[str, Any]:
        """Sums of all apps, and at most *most* apps: the most urgent first."""
        by_app: defaultdict[str, _App] = defaultdict(_App)
        for totals, recent in ((self._totals, False), (self._recent, True)):
            for name, counts in totals.items():
                if name != "recorded":
                    for labels, count in counts.items():
                        if count:
                            by_app[labels[0]].count(name, labels[1:], count, recent=recent)
        # With ten thousand apps, only the few in the answer are computed.
        first = nsmallest(most, by_app.items(), key=lambda item: (item[1].urgency(), item[0]))
        return {
            "window_seconds": round(self._seconds, 3),
            "total": {name: self._total(name) for name in _SUMS}
            | {"differing": self._differing(), "rules": self._total("rules")},
            "apps": [{"app": name, **app.as_json(self._seconds)} for name, app in first],
            "app_count": len(by_app),
            "recorded": {
                "written": self._figure("recorded", lambda labels: labels[0] == "written"),
                "dropped": self._figure("recorded", lambda labels: labels[0] == "dropped"),
            },
        }

    def _total(self, name: str) -> dict[str, Any]:
        return self._figure(name, lambda labels: True)

    def _differing(self) -> dict[str, Any]:
        return self._figure("shadow", lambda labels: labels[2] in _DIFFERING)

    def _figure(self, name: str, counts: Callable[[tuple[str, ...]], bool]) -> dict[str, Any]:
        total = sum(count for labels, count in self._totals.get(name, {}).items() if counts(labels))
        recent = sum(count for labels, count in self._recent.get(name, {}).items() if counts(labels))
        return _figure(total, recent, self._seconds)


class _App:
    """The counters of one app."""

    __slots__ = ("_recent", "_totals")

    def __init__(self) -> None:
        self._totals: defaultdict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
        self._recent: defaultdict[str, dict[tuple[str, ...], float]] = defaultdict(dict)

    def count(self, name: str, labels: tuple[str, ...], count: float, *, recent: bool) -> None:
        (self._recent if recent else self._totals)[name][labels] = count

    def as_json(self, seconds: float) -> dict[str, Any]:
        def figure(name: str, *labels: str) -> dict[str, Any]:
            return _figure(_sum(self._totals[name], *labels), _sum(self._recent[name], *labels), seconds)

        return {
            "ineffective": {**figure("ineffective"), "methods": self._by_label("ineffective")},
            "ineffective_changes": {
                **figure("ineffective_changes"),
                "methods": self._by_label("ineffective_changes"),
            },
            "client_config": {"outcomes": self._by_label("client_config")},
            "excluded": {"fields": self._by_label("excluded")},
            "repaired": {**figure("repaired"), "kinds": self._by_label("repaired")},
            "rate_limited": figure("rate_limited"),
            "failovers": [
                {"upstream": name, **figure("failovers", name), "causes": self._by_label("failovers", name)}
                for name in self._label_values("failovers")
            ],
            "split": [self._share(name, figure("split", name)) for name in self._label_values("split")],
            "shadow": [self._shadow(name, figure("shadow", name)) for name in self._label_values("shadow")],
            "rules": [
                {"rule": name, **figure("rules", name), "verdicts": self._by_label("rules", name)}
                for name in self._label_values("rules")
            ],
        }

    def urgency(self) -> tuple[float, ...]:
        """A sort key: the most urgent first."""
        totals, recent = self._totals, self._recent
        if totals.keys() <= {"client_config"} and all(labels == (_OK,) for labels in totals["client_config"]):
            return _LEAST_URGENT
        differing = (count for labels, count in totals["shadow"].items() if labels[1] in _DIFFERING)
        return (
            -_sum(recent["ineffective"]),
            -_sum(totals["ineffective"]),
            -_sum(recent["ineffective_changes"]) - _sum(totals["excluded"]),
            -_sum(recent["failovers"]),
            -_sum(recent["rate_limited"]),
            -_sum(totals["repaired"]),
            -sum(differing),
            -_sum(totals["rate_limited"]),
            0.0,
        )

    def _label_values(self, name: str) -> list[str]:
        """The values of the label after the app, by count."""
        firsts = {labels[0] for labels in self._totals[name]}
        return sorted(firsts, key=lambda first: (-_sum(self._totals[name], first), first))

    def _by_label(self, name: str, *first: str) -> dict[str, int]:
        counts = self._totals[name]
        return {labels[-1]: round(count) for labels, count in sorted(counts.items()) if labels[: len(first)] == first}

    def _share(self, upstream: str, figure: dict[str, Any]) -> dict[str, Any]:
        verdicts = self._by_label("split", upstream)
        return {
            "upstream": upstream,
            **figure,
            "share": _ratio(_sum(self._recent["split"], upstream), _sum(self._recent["split"])),
            "share_of_total": _ratio(_sum(self._totals["split"], upstream), _sum(self._totals["split"])),
            "verdicts": verdicts,
        }

    def _shadow(self, upstream: str, figure: dict[str, Any]) -> dict[str, Any]:
        outcomes = self._by_label("shadow", upstream)
        matches = outcomes.get(Finding.MATCH, 0)
        compared = matches + sum(outcomes.get(outcome, 0) for outcome in _DIFFERING)
        return {
            "upstream": upstream,
            **figure,
            "outcomes": outcomes,
            "compared": compared,
            "agreement": _ratio(matches, compared),
        }


def is_noteworthy(app: Mapping[str, Any]) -> bool:
    """Whether an app of ``as_json`` has anything besides correct connect answers."""
    return bool(
        app["ineffective"]["total"]
        or app["ineffective_changes"]["total"]
        or app["excluded"]["fields"]
        or app["repaired"]["total"]
        or app["rate_limited"]["total"]
        or app["failovers"]
        or app["split"]
        or app["shadow"]
        or app["rules"]
        or app["client_config"]["outcomes"].keys() - {_OK}
    )


def _sum(counts: Counts, *first: str) -> float:
    return sum(count for labels, count in counts.items() if labels[: len(first)] == first)


def _ratio(some: float, whole: float) -> float | None:
    return round(some / whole, 4) if whole else None


def _figure(total: float, recent: float, seconds: float) -> dict[str, Any]:
    return {"total": round(total), "per_second": round(recent / seconds, 3) if seconds else None}
