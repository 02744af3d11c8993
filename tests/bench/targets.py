"""What the gateway must reach and what it aims for, and how a run of the bench compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tests.bench.figures import HalfCapacity, MemoryHeld, Stall, Start
from tests.bench.scenarios import Outcome


@dataclass
class Measured:
    """All that one run of the bench found out; a part that was left out is missing or None."""

    outcomes: list[Outcome] = field(default_factory=list)
    half_capacity: HalfCapacity | None = None
    memory: MemoryHeld | None = None
    start: Start | None = None
    reload: Stall | None = None
    scrape: Stall | None = None

    def outcome(self, name: str) -> Outcome | None:
        """The scenario of this name, if it took part."""
        return next((outcome for outcome in self.outcomes if outcome.name == name), None)


class Target(NamedTuple):
    """One line of the table of targets."""

    title: str
    unit: str
    target: float
    aim: float
    measure: Callable[[Measured], float | None]
    """None where the part was left out."""
    at_least: bool = False
    """More is better."""
    decimals: int = 2


class Judged(NamedTuple):
    """A target, measured."""

    title: str
    measured: str
    target: str
    aim: str
    verdict: str
    """aim reached, reached, or missed."""


def judged(measured: Measured) -> Iterator[Judged]:
    """Every target that this run can tell about."""
    for target in TARGETS:
        value = target.measure(measured)
        if value is None:
            continue
        sign = "≥" if target.at_least else "≤"
        # What is judged is what is shown: a value a hair off counts as what it is rounded to.
        shown = round(value, target.decimals)
        verdict = "missed"
        if _keeps(shown, target.aim, target.at_least):
            verdict = "aim reached"
        elif _keeps(shown, target.target, target.at_least):
            verdict = "reached"
        yield Judged(
            target.title,
            f"{shown:.{target.decimals}f} {target.unit}",
            f"{sign} {target.target:g} {target.unit}",
            f"{target.aim:g}",
            verdict,
        )


def _keeps(value: float, limit: float, at_least: bool) -> bool:
    return value >= limit if at_least else value <= limit


def workers_gain(measured: Measured) -> float | None:
    """Throughput of two workers to that of one, each with its CPUs to itself: 2 / CPU per hook, to 1 / CPU per hook."""
    outcome = measured.outcome("workers")
    return (
        2 / outcome.ratio("gateway, 2 workers, 64 connections", "gateway, 1 worker, 64 connections")
        if outcome
        else None
    )


def _ratio(scenario: str, one: str, other: str) -> Callable[[Measured], float | None]:
    def measure(measured: Measured) -> float | None:
        outcome = measured.outcome(scenario)
        return outcome.ratio(one, other) if outcome else None

    return measure


def _of(part: str, figure: str, unit: float = 1.0) -> Callable[[Measured], float | None]:
    def measure(measured: Measured) -> float | None:
        found: Any = getattr(measured, part)
        return None if found is None else getattr(found, figure) / unit

    return measure


_ratio_16 = _ratio("keepalive-16", "gateway", "haproxy")
_better_16 = _ratio("keepalive-16", "aiohttp", "gateway")
_ratio_close = _ratio("close-16", "gateway", "haproxy")
_logged = _ratio("log", "gateway, access log on", "gateway, access log off")
_many_apps = _ratio("apps", "gateway, 10,000 apps", "gateway, 10 apps")
_p99 = _of("half_capacity", "p99_ratio")

TARGETS: Final = (
    Target("CPU per hook, keep-alive, 16 connections, against HAProxy", "×", 4.0, 3.0, _ratio_16),
    Target("the same, how many times better than the aiohttp proxy", "×", 2.5, 4.0, _better_16, at_least=True),
    Target("CPU per hook, `Connection: close` backend, against HAProxy", "×", 5.0, 3.5, _ratio_close),
    Target("CPU per hook, access log on, beside off", "×", 1.15, 1.05, _logged),
    Target("CPU per hook, 10,000 apps beside 10", "×", 1.05, 1.0, _many_apps),
    Target("p99 at half of its capacity, against HAProxy's at the same rate", "×", 3.0, 2.0, _p99),
    Target("memory of a worker, idle (resident)", "MB", 60, 45, _of("memory", "idle_rss", 1e6), decimals=1),
    Target("memory per hook in flight", "kB", 20, 12, _of("memory", "per_hook", 1e3), decimals=1),
    Target("start until ready, 10,000 apps", "s", 3, 1, _of("start", "seconds")),
    Target("longest stall of a hook in a reload of 10,000 apps", "ms", 50, 10, _of("reload", "stall_ms"), decimals=1),
    Target("size of `/metrics`, 10,000 apps active", "MB", 10, 5, _of("scrape", "size", 1e6)),
    Target("time of a scrape of them", "s", 2, 1, _of("scrape", "seconds")),
    Target("longest stall of a hook during a scrape", "ms", 20, 5, _of("scrape", "stall_ms"), decimals=1),
    Target(
        "throughput of 2 workers beside 1, load and backend counted out", "×", 1.6, 1.9, workers_gain, at_least=True
    ),
)
