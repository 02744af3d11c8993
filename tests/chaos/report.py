"""The closing table."""

from __future__ import annotations

from collections.abc import Sequence

from tests.chaos.run import Result


def table(results: Sequence[Result]) -> str:
    """Hooks, faults, violations, times and leftovers of each run, as Markdown."""
    return "\n\n".join(_one(result) for result in results)


def _one(result: Result) -> str:
    lines = [
        "",
        f"| {'TLS' if result.tls else 'plain'}, seed {result.seed} | |",
        "|---|---|",
        f"| time | {result.seconds:.0f} s, {result.steps} steps |",
        f"| hooks | {result.calm_hooks} calm, {result.hooks} amid faults |",
        f"| in the hands of a killed worker | {result.killed_in_flight} |",
        f"| in the hands of a stopped worker | {result.stopped_in_flight} |",
        f"| of these without an answer: killed amid it, or its repeat, too | {result.killed_twice} |",
        f"| refused at once while no worker lived | {result.refused_by_nobody} |",
        f"| silent repeats | {result.repeats} |",
        f"| later than budget + 100 ms | {result.late_strict}; the latest by {max(0.0, result.worst_late):.2f} s |",
        *(
            f"| {who}: p50, p99 | {p50 * 1000:.1f}, {p99 * 1000:.1f} ms |"
            for who, (p50, p99) in result.quantiles.items()
        ),
        f"| untouched: p99 amid faults ÷ calm | {result.ratio:.2f} |",
        *(f"| {name} | {count} |" for name, count in sorted(result.faults.items())),
        *(f"| left at the end: {what.partition(': ')[0]} | {what.partition(': ')[2]} |" for what in result.leftovers),
        *(f"| note | {note} |" for note in result.notes),
        f"| **violations** | **{result.violations.total}** |",
        *(f"| violation: {kind} | {count} |" for kind, count in sorted(result.violations.counts.items())),
    ]
    for kind, examples in sorted(result.violations.examples.items()):
        lines += ["", f"{kind}:", *(f"  - {example}" for example in examples)]
    return "\n".join(lines)
