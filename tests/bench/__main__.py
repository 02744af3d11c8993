"""The command behind ``make bench``: runs what is asked for, prints the tables, writes the results."""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from tests.bench import figures, readme, report
from tests.bench.contenders import Workshop, make_certificate
from tests.bench.load import LoadError
from tests.bench.machine import busy, machine, versions
from tests.bench.processes import BenchError, Cpus, allow_descriptors
from tests.bench.scenarios import SCENARIOS, measure
from tests.bench.targets import Measured

RESULTS: Final = Path(__file__).resolve().parent / "results"
ROOT: Final = RESULTS.parents[2]
FIGURES: Final = ("half-capacity", "memory", "start", "reload", "scrape")
ROUNDS: Final = 7
SECONDS: Final = 1.0
Figure = TypeVar("Figure")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    known = [*(scenario.name for scenario in SCENARIOS), *FIGURES]
    if options.list:
        print("\n".join(known))
        return 0
    unknown = [name for name in options.only if name not in known]
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(known)}")
    if options.rounds < 1 or options.seconds < 1:
        parser.error("at least one round of one second")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, and so ends all that was started
    try:
        return _bench(options, set(options.only or known))
    except (BenchError, LoadError) as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description="Measures the gateway beside HAProxy and other proxies.")
    parser.add_argument("--gateway", default=".venv/bin/gateway", metavar="COMMAND", help="the gateway to measure")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of each scenario (default {ROUNDS})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of each run of load (default {SECONDS:g})")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these scenarios and figures alone")
    parser.add_argument("--list", action="store_true", help="print the names of all scenarios and figures")
    return parser


def _bench(options: argparse.Namespace, wanted: set[str]) -> int:
    allow_descriptors()
    begin = time.monotonic()
    measured = Measured()
    with tempfile.TemporaryDirectory(prefix="wcs-bench-") as name:
        shop = Workshop(Path(name), Cpus.of_this_machine(), str(Path(options.gateway).absolute()))
        shop.directory.chmod(0o711)  # nginx drops to another user, who needs its folder
        conditions = report.Conditions(
            datetime.datetime.now(datetime.UTC).date().isoformat(),
            options.rounds,
            options.seconds,
            busy(),
            machine(),
            versions(shop.gateway),
        )
        if conditions.is_noisy:
            _say(f"Other programs use {conditions.busy_before:.0%} of the CPUs; the figures will suffer from that.")
        certificate = make_certificate(shop.directory)
        for scenario in SCENARIOS:
            if scenario.name in wanted:
                _say(f"{scenario.name}: {scenario.title}")
                measured.outcomes.append(measure(shop, scenario, options.rounds, options.seconds, certificate, _say))
        if "half-capacity" in wanted:
            _say("half-capacity: latency at half of the gateway's capacity")
            measured.half_capacity = figures.half_capacity(shop, options.rounds, options.seconds, certificate, _say)
        measured.memory = _if("memory", wanted, lambda: figures.memory_held(shop, _say))
        measured.start = _if("start", wanted, lambda: figures.start_many(shop, _say))
        measured.reload = _if("reload", wanted, lambda: figures.reload_stall(shop, _say))
        measured.scrape = _if("scrape", wanted, lambda: figures.scrape_stall(shop, _say))
    is_standard = not options.only and options.rounds >= ROUNDS and options.seconds >= SECONDS
    paths = report.write(conditions, measured, RESULTS, "latest" if is_standard else "partial")
    if is_standard:
        data = json.loads(report.as_json(conditions, measured))
        readme.insert(ROOT / "README.md", readme.summary(data))
        readme.insert(ROOT / "docs/performance.md", readme.section(data))
    print(f"\n{report.as_markdown(conditions, measured)}")
    print(
        f"In {(time.monotonic() - begin) / 60:.0f} minutes; written:", *(path.name for path in paths), f"in {RESULTS}"
    )
    return 0


def _if(name: str, wanted: set[str], take: Callable[[], Figure]) -> Figure | None:
    if name not in wanted:
        return None
    _say(f"{name}:")
    return take()


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
