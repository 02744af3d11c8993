"""The report of a replay, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.cli import render
from gateway.cli.render import milliseconds, plain
from gateway.model.text import plural
from gateway.policy.comparison import Difference
from gateway.recording.replay import (
    BODIES_DIFFER,
    Example,
    Report,
)

_MOST: Final = 8
"""The most names in a row, and the most differences of one hook."""


def is_delivered(report: Report) -> bool:
    """Whether the backend answered all of the hooks that no backend had decided."""
    return report.finished and report.played > 0 and not report.failures


def print_report(report: Report, *, delivers: bool = False) -> None:
    """Print the report: counts, examples, latencies, hints, the result. *delivers*: the hooks had failed before."""
    console = render.console()
    console.print(
        Text(f"played {report.played} of {report.hooks} hooks to {plain(report.to)} in {report.seconds:.1f} s")
    )
    if report.behind_seconds > 1.0:
        console.print(Text(f"could not keep the pace: hooks were sent up to {report.behind_seconds:.1f} s late"))
    console.print()
    console.print(_counts(report))
    kinds: dict[str, list[Example]] = {}
    for example in report.examples:
        kinds.setdefault(example.kind, []).append(example)
    counts = {**report.disagreements, **report.failures}
    for kind, examples in kinds.items():
        console.print()
        console.print(Text(f"{kind}: {plural(counts[kind], 'hook')}{_paths(report, kind)}", style="bold"))
        for example in examples:
            _print_example(console, example)
    if report.candidate_ms is not None:
        console.print()
        console.print(_latencies(report))
    console.print()
    for hint in _hints(report):
        console.print(Text(hint))
    console.print(_conclusion(report, delivers=delivers))


def _counts(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    rows = [
        ("agreed", report.agreements, f"of {report.compared} compared by {report.compare}"),
        ("disagreed", sum(report.disagreements.values()), _list(report.disagreements)),
        ("failed", sum(report.failures.values()), _list(report.failures)),
        ("not compared", sum(report.not_compared.values()), f"no backend had decided: {_list(report.not_compared)}"),
        ("left out", sum(report.left_out.values()),
         f"may have side effects, use --all-methods to play them: {_list(report.left_out)}"),
        ("not wanted", report.not_wanted, "by --only"),
        ("beyond limit", report.beyond_limit, "by --limit"),
        ("broken lines", report.broken_lines, "skipped"),
        ("overwritten", report.fields_not_compared,
         "answers: both set a field that the recording has as a pseudonym, so it cannot be compared"),
    ]  # fmt: skip
    for number, (name, count, why) in enumerate(rows):
        if count or number < 3:
            table.add_row(name, str(count), Text(why if count or not number else ""))
    return table


def top_counts(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The first counts by name, and the sum of the others."""
    few = [(plain(name), count) for name, count in list(counts.items())[:_MOST]]
    rest = sum(counts.values()) - sum(count for _, count in few)
    return [*few, ("others", rest)] if rest else few


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in top_counts(counts))


def _paths(report: Report, kind: str) -> str:
    return f", in {_list(report.paths)}" if kind == BODIES_DIFFER else ""


def _print_example(console: Console, example: Example) -> None:
    where = f"  {plain(example.where)}  {plain(example.app)} {plain(example.method)}  {plain(example.request_id)}"
    console.print(Text(f"{where}  {plain(example.error)}".rstrip()))
    for difference in example.differences[:_MOST]:
        if difference.path != "verdict":
            console.print(Text(f"      {plain(difference.path)}: {_values(difference)}"))
    if (more := len(example.differences) - _MOST) > 0:
        console.print(Text(f"      and {more} more"))


def _values(difference: Difference) -> str:
    then, now = ("missing" if value is None else plain(value) for value in (difference.ours, difference.theirs))
    return f"{then} became {now}"


def _hints(report: Report) -> Iterable[str]:
    """Hints: what may explain the latencies and disagreements."""
    if report.candidate_ms is not None and not report.paced:
        yield (
            "Latencies were measured at full speed and include waiting in this program: "
            "use --as-recorded or --rate 50/s to see realistic ones."
        )
    if report.paths:
        yield "Use --ignore FIELD for fields that may differ, such as times."
    if report.masked and set(report.disagreements) - {BODIES_DIFFER}:
        names = ", ".join(map(plain, report.masked[:_MOST]))
        yield (
            f"The recording has pseudonyms for {names}: a backend that decides by their values decides differently. "
            "A recording with mask: [] has the original values."
        )
    if report.starred and set(report.disagreements) - {BODIES_DIFFER}:
        yield (
            f"The recording has stars for secrets, such as tokens, in {plural(report.starred, 'hook')}: secrets are "
            "never recorded, and a backend that checks them rejects these hooks."
        )


def _latencies(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("latency of compared hooks", style="dim", no_wrap=True)
    for name in ("p50", "p95", "p99", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, latency in (("this backend", report.candidate_ms), ("as recorded", report.recorded_ms)):
        if latency is not None:
            table.add_row(name, *map(milliseconds, (latency.p50, latency.p95, latency.p99, latency.max)))
    return table


def _conclusion(report: Report, *, delivers: bool) -> Text:
    if delivers and is_delivered(report):
        return Text("Result: the backend has taken every hook.", style="bold green")
    if delivers and report.finished:
        return Text("Result: the backend has not taken every hook.", style="bold red")
    if report.agreed:
        return Text("Result: the backend decides as recorded.", style="bold green")
    if not report.finished:
        return Text("Interrupted: the report covers the hooks answered so far.", style="bold yellow")
    if not report.disagreements and not report.failures:
        return Text("Nothing to compare: no backend had decided any of these hooks.", style="bold yellow")
    return Text("Result: the backend's decisions differ from the recording.", style="bold red")
