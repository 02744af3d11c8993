"""The command: ``python -m tests.chaos``; half of the time with TLS on the hook port, half without."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections import Counter

import pytest

from tests.chaos.report import table
from tests.chaos.run import Result, run


def main() -> None:
    """Run it, print the table, and end with 1 if something was violated."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long, altogether (10)")
    parser.add_argument("--seed", type=int, default=None, help="repeats the schedule of a run (random)")
    parser.add_argument("--rate", type=float, default=120.0, help="hooks a second (120)")
    parser.add_argument("--only", choices=("plain", "tls"), help="all of the time without TLS, or with it")
    parser.add_argument("--without", action="append", default=[], metavar="CLASS[/FAULT]", help="leave these out")
    parser.add_argument("--quiet-machine", action="store_true",
                        help="the machine does nothing else: judge by budget + 100 ms and by p99, too")  # fmt: skip
    arguments = parser.parse_args()
    seed = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
    legs = (False, True) if arguments.only is None else (arguments.only == "tls",)
    results: list[Result] = []
    try:
        for tls in legs:
            print(f"chaos, seed {seed}, {'TLS' if tls else 'plain'}:", flush=True)
            seconds = arguments.minutes * 60 / len(legs)
            results.append(run(seconds, seed, tls=tls, rate=arguments.rate, quiet_machine=arguments.quiet_machine,
                               without=frozenset(arguments.without)))  # fmt: skip
    except pytest.skip.Exception as exc:  # a program is missing
        print(f"chaos: {exc}", file=sys.stderr)
        raise SystemExit(2) from exc
    print(table(results))
    if found := sum((one.violations.counts for one in results), Counter()):
        again = f'make chaos CHAOS="--minutes {arguments.minutes:g} --seed {seed}"'
        print(f"\n{found.total()} violations; the same schedule again: {again}")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
