"""What a run of the bench leaves: tables in Markdown, everything as JSON, and a plot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.contenders import Kind
from tests.bench.figures import HalfCapacity
from tests.bench.plot import Bar, Panel, drawing
from tests.bench.scenarios import Outcome, Result
from tests.bench.targets import Measured, judged, workers_gain

_READING = """\
How to read it: each contender has a CPU to itself, wrk and a static nginx backend share another, all on loopback. The
figure that carries over to other machines is CPU time per hook, user and system, of all the contender's processes (from
`/proc`), and best of all its ratio to HAProxy, which did the same in the same minute: contenders take turns in every
round, a figure is the median of its rounds, a ratio the median of the rounds' own ratios (with twice as many rounds for
the proxies side by side, and three times as many for access log and apps, where a few percent decide). Hooks/s is what
one CPU gave while wrk asked for more; latencies are wrk's at that full load, where every contender has a queue. Every
hook differs from every other, every answer was checked, and an unexpected one fails the run. The gateway does all that
it does by default (routing, deadline, breaker, duplicates, metrics, request ids), with the access log off unless said
otherwise; HAProxy finds the app in the body with `json_query`, looks it up in a map, and limits connections likewise.
"""

_NOISE = 0.05


@dataclass(frozen=True)
class Conditions:
    """What the figures were taken on, and how."""

    date: str
    """YYYY-MM-DD."""
    rounds: int
    seconds: float
    """Of each run of load."""
    busy_before: float
    """How much of all CPUs other programs used just before, from 0 to 1."""
    machine: dict[str, str]
    versions: dict[str, str]

    @property
    def is_noisy(self) -> bool:
        """Whether other programs had enough of the CPUs to spoil the figures."""
        return self.busy_before > _NOISE


def write(conditions: Conditions, measured: Measured, directory: Path, name: str) -> list[Path]:
    """Write all three files, and say which."""
    directory.mkdir(exist_ok=True)
    contents = {
        "json": as_json(conditions, measured),
        "md": as_markdown(conditions, measured),
        "svg": as_svg(conditions, measured),
    }
    paths = []
    for ending, text in contents.items():
        path = directory / f"{name}.{ending}"
        path.write_text(text)
        paths.append(path)
    return paths


def as_json(conditions: Conditions, measured: Measured) -> str:
    """All figures, every round's among them."""
    targets = [one._asdict() for one in judged(measured)]
    return (
        json.dumps({**asdict(conditions), **asdict(measured), "targets": targets}, indent=1, ensure_ascii=False) + "\n"
    )


def as_markdown(conditions: Conditions, measured: Measured) -> str:
    """The tables, and how to read them."""
    parts = [_conditions_line(conditions), _READING]
    pairs = [row for outcome in measured.outcomes for row in _pairs(outcome)]
    if pairs:
        parts.append(_table(_PAIRS_HEAD, pairs))
    others = [row for outcome in measured.outcomes for row in _others(outcome)]
    if others:
        parts += ["The other proxies, with a keep-alive backend and 16 connections:\n", _table(_OTHERS_HEAD, others)]
    targets = list(judged(measured))
    if targets:
        parts.append(_table(("target", "measured", "must", "aim", ""), targets))
    parts += _remarks(measured)
    return "\n".join(parts)


def as_svg(conditions: Conditions, measured: Measured) -> str:
    """CPU per hook: everyone in the base scenario, and the gateway beside HAProxy in all of them."""
    panels = []
    base = measured.outcome("keepalive-16")
    if base:
        bars = [Bar(_TITLES[one.kind], one.median("cpu_us"), one.kind) for one in base.results]
        panels.append(Panel(f"{base.title}, {base.hook_size / 1000:.1f} kB hooks", bars))
    compared = [
        Bar(f"{one.variant or outcome.title.replace('`', '')}: {_TITLES[one.kind]}", one.median("cpu_us"), one.kind)
        for outcome in measured.outcomes
        if outcome is not base
        for one in sorted(outcome.results, key=lambda one: one.variant != outcome.results[0].variant)
    ]
    if compared:
        panels.append(Panel("the gateway and HAProxy in the other scenarios", compared))
    return drawing(
        "CPU time per hook, µs (shorter is better)",
        f"{conditions.date}, {conditions.machine['processor']}, median of {conditions.rounds} rounds",
        panels,
    )


_TITLES = {
    Kind.GATEWAY: "gateway",
    Kind.HAPROXY: "HAProxy",
    Kind.AIOHTTP: "aiohttp",
    Kind.AIOHTTP_UVLOOP: "aiohttp on uvloop",
    Kind.TUTORIAL: "Starlette + httpx, as tutorials show it",
}


def _conditions_line(conditions: Conditions) -> str:
    machine = conditions.machine
    busy = f" Before the run {conditions.busy_before:.0%} of the CPUs were in use." if conditions.is_noisy else ""
    versions = ", ".join(f"{name} {number}" for name, number in conditions.versions.items())
    return (
        f"{conditions.date}, {machine['cpus']} CPUs ({machine['processor']}), {machine['memory']}, "
        f"{machine['kernel']}; {conditions.rounds} rounds of {conditions.seconds:g} s. {versions}.{busy}\n"
    )


_PAIRS_HEAD = (
    *("scenario", "CPU µs/hook: gateway", "HAProxy", "ratio", "hooks/s: gateway", "HAProxy"),
    *("p50, p99, p99.9 ms: gateway", "HAProxy", "memory MB: gateway", "HAProxy"),
)


def _pairs(outcome: Outcome) -> Iterator[Sequence[str]]:
    """A row for the gateway and HAProxy in each set-up of the scenario."""
    for ours in outcome.results:
        if ours.kind == Kind.GATEWAY:
            theirs = next(one for one in outcome.results if (one.kind, one.variant) == (Kind.HAPROXY, ours.variant))
            yield (
                ours.variant or outcome.title,
                *(f"{one.median('cpu_us'):.1f}" for one in (ours, theirs)),
                f"{outcome.ratio(ours.name, theirs.name):.2f}",
                *(f"{one.median('hooks_per_second'):,.0f}" for one in (ours, theirs)),
                *(_wrk_latencies(one) for one in (ours, theirs)),
                *(f"{one.rss / 1e6:.0f}" for one in (ours, theirs)),
            )


_OTHERS_HEAD = ("proxy", "CPU µs/hook", "to HAProxy", "to the gateway", "hooks/s", "p50, p99, p99.9 ms", "memory MB")


def _others(outcome: Outcome) -> Iterator[Sequence[str]]:
    """A row for each contender that is neither."""
    for one in outcome.results:
        if one.kind not in (Kind.GATEWAY, Kind.HAPROXY):
            yield (
                _TITLES[one.kind],
                f"{one.median('cpu_us'):.0f}",
                *(f"{outcome.ratio(one.name, other):.1f}" for other in ("haproxy", "gateway")),
                f"{one.median('hooks_per_second'):,.0f}",
                _wrk_latencies(one),
                f"{one.rss / 1e6:.0f}",
            )


def _wrk_latencies(one: Result) -> str:
    return ", ".join(f"{one.median(figure):.2f}" for figure in ("p50_ms", "p99_ms", "p999_ms"))


def _remarks(measured: Measured) -> Iterator[str]:
    if half := measured.half_capacity:
        yield (
            f"At a constant {half.rate:,.0f} hooks/s, half of the gateway's {half.capacity:,.0f}, latencies counted "
            f"from when each hook was due: {_latencies(half, 'gateway')}; HAProxy {_latencies(half, 'haproxy')}.\n"
        )
    if held := measured.memory:
        yield (
            f"Memory: an idle worker has {held.idle_rss / 1e6:.1f} MB resident ({held.idle_pss / 1e6:.1f} MB with "
            f"shared pages shared out), a supervisor and two workers together {held.two_workers_pss / 1e6:.1f} MB. "
            f"In flight were {held.in_flight:,} hooks of 3.6 kB at once, each with its two connections.\n"
        )
    if start := measured.start:
        yield f"With {start.apps:,} apps it has {start.rss / 1e6:.0f} MB when it is ready.\n"
    for what, stall in (("A reload", measured.reload), ("A scrape", measured.scrape)):
        if stall:
            yield (
                f"{what} with {stall.apps:,} apps takes {stall.seconds * 1000:.0f} ms; at 500 hooks/s the longest "
                f"latency meanwhile was {stall.stall_ms:.1f} ms above the usual p99 of {stall.usual_p99_ms:.2f} ms "
                f"(median of three; the worst {stall.worst_ms:.1f} ms).\n"
            )
    outcome = measured.outcome("workers")
    gain = workers_gain(measured)
    if outcome and gain:
        one, two = (
            outcome.result(f"gateway, {name}, 64 connections").median("hooks_per_second")
            for name in ("1 worker", "2 workers")
        )
        yield (
            f"Two workers: CPU per hook says {gain:.2f} times the throughput of one where both have a CPU to "
            f"themselves. Here, where two workers share both CPUs with wrk and nginx and one has a CPU alone, "
            f"{two:,.0f} hooks/s beside {one:,.0f} were measured.\n"
        )


def _latencies(half: HalfCapacity, name: str) -> str:
    return f"p50 {half.p50_ms[name]:.2f} ms, p99 {half.p99_ms[name]:.2f} ms, p99.9 {half.p999_ms[name]:.2f} ms"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
