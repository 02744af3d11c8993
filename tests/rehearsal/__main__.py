"""The command: ``python -m tests.rehearsal``."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import pytest

from tests.rehearsal.play import Rehearsal, configuration
from tests.rehearsal.stage import Row, set_up

TITLE: Final = """\
| step | hooks | allow | reject | affected | lost | CPU per hook | × plain | seen |
|---|--:|--:|--:|--:|--:|--:|--:|---|"""


def main() -> None:
    """Play it, print the table, and end with 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hooks", type=int, default=5000, help="of each step's day (5000)")
    parser.add_argument("--rate", type=float, default=500.0, help="hooks a second (500)")
    parser.add_argument("--workers", type=int, default=1, help="the gateway's (1)")
    arguments = parser.parse_args()
    began = time.monotonic()
    try:
        rows, failures = rehearse(arguments.hooks, arguments.rate, arguments.workers)
    except pytest.skip.Exception as exc:  # a program is missing
        print(f"rehearsal: {exc}", file=sys.stderr)
        raise SystemExit(2) from exc
    print(table(rows))
    print(f"\n{sum(row.hooks for row in rows)} hooks, {sum(row.lost for row in rows)} lost, "
          f"in {time.monotonic() - began:.0f} s.")  # fmt: skip
    for failure in failures:
        print(f"FAILED: {failure}")
    if failures:
        raise SystemExit(1)


def rehearse(hooks: int, rate: float, workers: int = 1) -> tuple[list[Row], list[str]]:
    """Play it with so many hooks a step; the rows, and what failed."""
    with (
        tempfile.TemporaryDirectory(prefix="wcs-rehearsal-") as name,
        set_up(configuration, Path(name), workers) as (stage, stop_php),
    ):
        stage.rate = rate
        rehearsal = Rehearsal(stage, hooks, stop_php)
        rehearsal.play()
    return rehearsal.rows, stage.failures


def table(rows: list[Row]) -> str:
    """The steps in Markdown; CPU time beside the mean of the steps whose configuration had nothing special."""
    plain = [row.cpu_us for row in rows if row.plain and row.cpu_us]
    base = statistics.mean(plain) if plain else 1.0
    lines = [TITLE]
    for row in rows:
        cpu, ratio = ("–", "–") if row.cpu_us is None else (f"{row.cpu_us:.0f} µs", f"{row.cpu_us / base:.2f}")
        counts = (row.hooks, row.allow, row.reject, row.affected, row.lost) if row.hooks else ("–",) * 5
        lines.append(f"| {' | '.join(map(str, (row.step, *counts, cpu, ratio, row.seen)))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
