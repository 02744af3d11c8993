"""What the history's writer does on one core, and how long a search takes: ``python -m tests.bench.history``.

Decisions are written as the store's process writes them, in transactions of BATCH with upkeep after each second's
worth, and made beforehand, so that only the writer is measured. Wants a machine that does nothing else, and about
200 bytes of disk for each decision.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa
from pydantic import SecretStr

from gateway.model.decision import Decision
from gateway.model.hooks import Hook, parse_hook
from gateway.model.verdicts import backend_allow, backend_reject
from gateway.policy.history import Bodies, HistorySettings
from gateway.store.decisions import encode_sent
from gateway.store.engine import Database, open_databases
from gateway.store.history import History
from gateway.store.migrate import migrate
from gateway.store.requests import HistoryFilter
from tests.support.postgres import postgres_server

DECISIONS: Final = 10_000_000
BATCH: Final = 512
RATE: Final = 4096
"""Decisions after which upkeep has its turn, as it has once a second."""
HOOKS_OF_A_CALL: Final = 8
SEARCHES: Final = 21
_BEGAN: Final = 1_700_000_000.0
_STEP: Final = 2e-4
_MASK: Final = ("caller", "callee")
_KEY: Final = "a key of the bench"

Row = Sequence[object]


class Calls:
    """Decisions of calls, HOOKS_OF_A_CALL of each; the same ones each time."""

    def __init__(self) -> None:
        self._chance = random.Random(1)
        self._hook, self._template = self._make(0)
        allowed, rejected = backend_allow(b"{}"), backend_reject()
        self._rulings = [rejected if number % 33 == 0 else allowed for number in range(33 * 7)]

    @staticmethod
    def call_id(call: int) -> str:
        """The id of a call."""
        return f"{random.Random(call).getrandbits(128):032x}"

    @staticmethod
    def caller(call: int) -> str:
        """A call's caller."""
        return f"+4930{call % 1_000_003:07}"

    def _make(self, call: int) -> tuple[Hook, Decision]:
        session = f"/192.0.2.{call % 250}:{call % 60_000}/192.168.1.101:8443-{call * 2654435761 % 2**32:08x}"
        body = msgspec.json.encode(
            {"appKey": "defaultApp", "nodeId": "Hw47CFMBEchVOpBMDr29IxudnJ1sjOY@192.168.1.101", "sessionId": session,
             "callId": self.call_id(call), "caller": self.caller(call), "callee": f"0049301{call % 977:06}"}
        )  # fmt: skip
        hook = parse_hook(body)
        return hook, Decision(
            ruling=backend_allow(body), time=_BEGAN, request_id="", app="defaultApp", method="CallStatusEvent",
            budget=3.0, duration=0.0123, upstream="php", target="127.0.0.1:8080", attempts=1, upstream_duration=0.0112,
            hook=hook, asked_after=0.0002, size=len(body), method_name="CallStatusEvent",
        )  # fmt: skip

    def decisions(self, first: int, count: int) -> list[Decision]:
        """*count* of them, from number *first* on."""
        made = []
        for number in range(first, first + count):
            if number % HOOKS_OF_A_CALL == 0:
                self._hook, self._template = self._make(number // HOOKS_OF_A_CALL)
            made.append(
                msgspec.structs.replace(
                    self._template,
                    ruling=self._rulings[number % len(self._rulings)],
                    time=_BEGAN + number * _STEP,
                    request_id=f"{self._chance.getrandbits(128):032x}",
                    duration=self._chance.random() / 50,
                    upstream_duration=self._chance.random() / 60,
                )
            )
        return made


@dataclass
class Spent:
    """Time that was spent on a number of decisions."""

    decisions: int = 0
    encoding: float = 0.0
    """Seconds of CPU time, of what decides hooks."""
    cpu: float = 0.0
    """Seconds of CPU time of the writer."""
    wall: float = 0.0
    pauses: list[float] = field(default_factory=list)
    """Seconds of each transaction of upkeep."""

    def per_decision(self, seconds: float) -> str:
        return f"{seconds / self.decisions * 1e6:.1f}"


def write(database: Database, history: History, calls: Calls, first: int, count: int) -> Spent:
    """Write decisions, with upkeep."""
    spent = Spent()
    with database.connect() as connection:
        for begin in range(first, first + count, BATCH):
            decisions = calls.decisions(begin, BATCH)
            cpu = time.process_time()
            batch = [encode_sent(each, Bodies.OFF, 1, "0123456789ab") for each in decisions]
            spent.encoding += time.process_time() - cpu
            cpu, wall = time.process_time(), time.perf_counter()
            with connection.begin():
                history.add(connection, [batch])
            if begin // BATCH % (RATE // BATCH) == 0:
                spent.pauses += _maintain(connection, history, _BEGAN + begin * _STEP)
            spent.cpu += time.process_time() - cpu
            spent.wall += time.perf_counter() - wall
            spent.decisions += BATCH
    return spent


def _maintain(connection: sa.Connection, history: History, now: float) -> Iterator[float]:
    more = True
    while more:
        began = time.perf_counter()
        with connection.begin():
            more = history.maintain(connection, now)
        yield time.perf_counter() - began


def _search(database: Database, history: History, wanted: Sequence[HistoryFilter]) -> tuple[float, float, int]:
    """Median and maximum in milliseconds, and what was found in all."""
    took, found = [], 0
    for each in wanted:
        began = time.perf_counter()
        with database.read() as connection:
            found += len(history.search(connection, each).decisions)
        took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took), max(took), found


def figures(url: str, decisions: int, say: Callable[[str], None]) -> list[Row]:
    """Fill an empty store with this many decisions; the rows of a table, the first one its head."""
    database = open_databases(url).history
    migrate(database)
    settings = HistorySettings(keep=1e9, keep_allowed=1e9, max_size=2**50, key=SecretStr(_KEY))
    history, calls = History(settings, _MASK), Calls()
    total = Spent()
    portion = max(RATE, decisions // 10 // RATE * RATE)
    for first in range(0, decisions, portion):
        total = write(database, history, calls, first, portion)
        say(
            f"{first + portion:,} decisions; of the last {portion:,}: writer {total.per_decision(total.cpu)} µs of "
            f"CPU, {total.decisions / total.wall:,.0f}/s"
        )
    held = first + portion
    rows: list[Row] = [
        ("history", "figure"),
        ("decisions", f"{held:,}"),
        ("of what decides hooks: encoding, µs of CPU per decision", total.per_decision(total.encoding)),
        ("writer, µs of CPU per decision", total.per_decision(total.cpu)),
        ("writer, decisions/s for one core", f"{total.decisions / total.cpu:,.0f}"),
        ("writer, decisions/s sustained, with its waits for the disk", f"{total.decisions / total.wall:,.0f}"),
        ("longest transaction of upkeep, ms", f"{max(total.pauses) * 1e3:.0f}"),
        ("bytes on disk per decision", f"{database.size() / held:.0f}"),
    ]
    some = [random.Random(9).randrange(held // HOOKS_OF_A_CALL) for _ in range(SEARCHES)]
    searches = {
        "call id": [HistoryFilter(call_id=calls.call_id(call)) for call in some],
        "whole number": [HistoryFilter(caller=calls.caller(call)) for call in some],
        "call id that is not there": [HistoryFilter(call_id=f"none-{call}") for call in some],
        "rejections, the newest 100": [HistoryFilter(verdict="reject")] * SEARCHES,
        "all, the newest 100": [HistoryFilter()] * SEARCHES,
    }
    for name, wanted in searches.items():
        median, longest, found = _search(database, history, wanted)
        rows.append((f"search: {name}, ms (median, maximum; found)", f"{median:.1f}, {longest:.1f}; {found}"))
    keep = held * _STEP * 0.9
    history.configure(settings._replace(keep=keep, keep_allowed=keep), _MASK)
    with database.connect() as connection:
        for _ in _maintain(connection, history, _BEGAN + held * _STEP):
            pass
    total = write(database, history, calls, held, portion)
    rows.append(("writer while as much is removed, µs of CPU per decision", total.per_decision(total.cpu)))
    rows.append(("the same, decisions/s sustained", f"{total.decisions / total.wall:,.0f}"))
    rows.append(("the same, longest transaction of upkeep, ms", f"{max(total.pauses) * 1e3:.0f}"))
    database.close()
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; the exit status."""
    parser = argparse.ArgumentParser(prog="tests.bench.history", description=__doc__)
    parser.add_argument("--decisions", type=int, default=DECISIONS, help=f"(default {DECISIONS:,})")
    parser.add_argument("--engine", default="sqlite", choices=("sqlite", "postgresql"), help="(default sqlite)")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        if options.engine == "sqlite":
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wcs-bench-")))
            url = f"sqlite://{directory}/store.db"
        else:
            url = stack.enter_context(postgres_server()).new_database()
        for name, figure in figures(url, options.decisions, lambda line: print(line, flush=True)):
            print(f"| {name} | {figure} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
