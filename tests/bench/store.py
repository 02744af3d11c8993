"""The command behind ``make bench-store``: what the spool and the history cost, a table per figure.

Each figure is of a gateway as a user starts it, with one worker on one CPU, its store's process beside it on the same
one; load and backend share the other. CPU time is that of all its processes. Wants a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.bench.contenders import Workshop
from tests.bench.history import DECISIONS
from tests.bench.history import figures as history_figures
from tests.bench.hooks import APP_MARK, call_body, raw_request
from tests.bench.load import LoadError, RateRun, keep_rate
from tests.bench.machine import busy
from tests.bench.processes import (
    OWN_ENVIRONMENT,
    BenchError,
    Cpus,
    allow_descriptors,
    ask,
    await_that,
    closed_port,
    free_port,
    running,
)
from tests.bench.procstat import cpu_seconds, memory
from tests.support.postgres import postgres_server

SIZE: Final = 3600
"""Bytes of a hook."""
ROUNDS: Final = 7
SECONDS: Final = 5.0
ROWS: Final = {"recovery": 100_000, "million": 1_000_000, "history": DECISIONS}
ENGINES: Final = ("sqlite", "postgresql")
DELAY_MS: Final = 10
CONNECTIONS: Final = 32
"""Of the backend that events are redelivered to; a quarter of them carries redeliveries."""
_EVENT: Final = "CallStatusEvent"
_ON: Final = {"max_age": "30d", "max_size": "1024GiB"}
_POLL: Final = 0.1

Row = Sequence[object]


@dataclass(frozen=True)
class Bench:
    """What all figures have in common."""

    shop: Workshop
    well: int
    """The port of a backend that answers at once."""
    down: int
    """A port that refuses connections."""
    engine: str
    rounds: int
    seconds: float
    rows: int | None
    """Events; None: as many as each figure's own."""
    new_store: Callable[[], str]
    """The URL of an empty store."""

    def rows_of(self, figure: str) -> int:
        return self.rows or ROWS[figure]


@dataclass(frozen=True)
class Gateway:
    """One that runs."""

    pid: int
    port: int
    admin: int
    config: Path

    def spool(self) -> dict[str, Any]:
        """What ``GET /api/spool`` says."""
        found: dict[str, Any] = json.loads(ask(self.admin, "/api/spool").body)
        return found

    def waiting(self) -> int:
        """Events that wait for delivery."""
        return int(self.spool()["events"] or 0)


@contextlib.contextmanager
def gateway(
    bench: Bench, upstreams: Mapping[str, int], apps: Mapping[str, str], *, store: str | None, history: bool = False
) -> Iterator[Gateway]:
    """Start one with these upstreams (name: port) and apps (name: upstream), and wait until it is ready."""
    port, admin = free_port(), free_port()
    settings: dict[str, Any] = {
        "server": {"listen": f"127.0.0.1:{port}", "admin": f"127.0.0.1:{admin}"},
        "log": {"access": "off"},
        "defaults": {"timeout": "3s", "dedupe": "off"},
        "upstreams": {
            name: {"url": f"http://127.0.0.1:{to}/rest/my_api", "max_connections": CONNECTIONS}
            for name, to in upstreams.items()
        },
        "apps": {name: {"upstream": to} for name, to in apps.items()},
    }
    if store is not None:
        settings["store"] = {"url": store}
        settings["defaults"]["spool"] = _ON
    if history:
        settings["history"] = {"max_size": "1024GiB"}
    config, output = bench.shop.path("gateway.yaml"), bench.shop.path("gateway.log")
    config.write_text(json.dumps(settings))
    command = [bench.shop.gateway, "run", "-c", str(config)]
    with running(command, cpus=bench.shop.cpus.contender, output=output) as process:
        await_that(lambda: ask(admin, "/-/ready").status == 200, process, output)
        found = Gateway(process.pid, port, admin, config)
        if store is not None:
            await_that(lambda: found.spool()["store"]["up"] is True, process, output)
        yield found


@contextlib.contextmanager
def backend(shop: Workshop, port: int, delay: int = DELAY_MS) -> Iterator[None]:
    """A backend that answers each hook after so many milliseconds."""
    output = shop.path("backend.log")
    command = [sys.executable, "-m", "tests.bench.slow", str(port), str(delay)]
    with running(command, cpus=shop.cpus.load, output=output, environment=OWN_ENVIRONMENT) as process:
        await_that(lambda: ask(port, "/").status == 200, process, output, 0.005)
        yield


def request_file(bench: Bench, app: str, method: str) -> Path:
    """Hooks of one app, as ``rate`` sends them; *app* has the form of app-00000, of which the digits are put in."""
    raw = raw_request(call_body(SIZE), "127.0.0.1").replace(b"/OnCallEvent ", f"/{method} ".encode())
    file = bench.shop.path("hook")
    file.write_bytes(raw.replace(b"app-" + APP_MARK, app[:4].encode() + APP_MARK))
    return file


def fill(bench: Bench, url: str, count: int) -> None:
    """Put events of the app off-00000 into the store, whose gateway is stopped."""
    command = [sys.executable, "-m", "tests.bench.fill", url, str(count), "off-00000", "off", str(SIZE)]
    done = subprocess.run(command, env=OWN_ENVIRONMENT, capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchError(f"the store could not be filled: {done.stderr.strip()[-500:]}")


@contextlib.contextmanager
def filled_gateway(bench: Bench, count: int) -> Iterator[tuple[Gateway, int]]:
    """A gateway with so many events for an upstream that is down, and that upstream's port."""
    url, port = bench.new_store(), free_port()
    upstreams = {"well": bench.well, "off": port}
    apps = {"app-00000": "well", "off-00000": "off"}
    with gateway(bench, upstreams, apps, store=url):
        pass  # it makes the schema
    fill(bench, url, count)
    with gateway(bench, upstreams, apps, store=url) as started:
        if (waiting := started.waiting()) != count:
            raise BenchError(f"{count} events were put into the store, the gateway has {waiting}")
        yield started, port


def _await(is_so: Callable[[], bool], limit: float, what: str) -> float:
    """Seconds until it is so; raises BenchError after *limit* seconds."""
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > limit:
            raise BenchError(f"{what}: not within {limit:.0f} s")
        time.sleep(_POLL)
    return time.monotonic() - began


# --- the figures ---


def cpu_per_event(bench: Bench, say: Callable[[str], None]) -> list[Row]:
    """CPU time per event that is kept, beside one that is delivered; the more come, the more a commit has."""
    rows: list[Row] = [("CPU per event, µs", "delivered", "kept", "ratio")]
    kinds = {"delivered": ("well", bench.well), "kept": ("off", bench.down)}
    for rate in (500.0, 2000.0):
        figures: dict[str, list[float]] = {kind: [] for kind in kinds}
        for number in range(bench.rounds):
            for kind, (name, port) in kinds.items():
                file = request_file(bench, "app-00000", _EVENT)
                with gateway(bench, {name: port}, {"app-00000": name}, store=bench.new_store()) as one:
                    figures[kind].append(_cpu_per_hook(bench, one, file, rate, 2 * number))
            say(f"round {number + 1}: " + ", ".join(f"{kind} {values[-1]:.0f} µs" for kind, values in figures.items()))
        delivered, kept = (statistics.median(values) for values in figures.values())
        rows.append((f"{rate:.0f}/s", f"{delivered:.0f}", f"{kept:.0f}", f"{kept / delivered:.2f}"))
    return rows


def _cpu_per_hook(bench: Bench, one: Gateway, file: Path, rate: float, run: int) -> float:
    """Microseconds of all its processes, at this rate."""
    load = {"cpus": bench.shop.cpus.load, "rate": rate, "apps": 1}
    keep_rate(one.port, file, seconds=0.5, run=run, **load)  # type: ignore[arg-type]
    before = cpu_seconds(one.pid)
    answers = keep_rate(one.port, file, seconds=bench.seconds, run=run + 1, **load)  # type: ignore[arg-type]
    return (cpu_seconds(one.pid) - before) / len(answers.latencies) * 1e6


def hooks_beside(bench: Bench, say: Callable[[str], None]) -> list[Row]:
    """p99 of hooks beside events: none, delivered, kept, and redelivered while hooks come."""
    kinds = ("alone", "beside delivered", "beside kept", "beside redelivered")
    figures: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(bench.rounds):
        for kind in kinds:
            figures[kind].append(_p99_beside(bench, kind, number))
        say(f"round {number + 1}: " + ", ".join(f"{kind} {values[-1]:.2f} ms" for kind, values in figures.items()))
    medians = [statistics.median(values) for values in figures.values()]
    base = medians[1]
    return [("p99 of hooks, ms", *kinds), ("500/s beside 1,000/s", *(f"{value:.2f}" for value in medians)),
            ("× beside delivered", *(f"{value / base:.2f}" for value in medians))]  # fmt: skip


def _p99_beside(bench: Bench, kind: str, run: int) -> float:
    hooks = request_file(bench, "app-00000", "OnCallEvent")
    events = request_file(bench, "off-00000", _EVENT)
    load: dict[str, Any] = {"cpus": bench.shop.cpus.load, "apps": 1}
    with contextlib.ExitStack() as stack:
        if kind == "beside redelivered":
            one, port = stack.enter_context(filled_gateway(bench, max(1000, round(2000 * bench.seconds))))
            stack.enter_context(backend(bench.shop, port))
            _await(lambda: json.loads(ask(port, "/").body)["hooks"] > 1, 60, "redelivery")
        else:
            to = bench.well if kind == "beside delivered" else bench.down
            upstreams, apps = {"well": bench.well, "off": to}, {"app-00000": "well", "off-00000": "off"}
            one = stack.enter_context(gateway(bench, upstreams, apps, store=bench.new_store()))
        if kind in ("beside delivered", "beside kept"):
            other = RateRun(one.port, events, rate=1000.0, seconds=bench.seconds + 1, run=2 * run, **load)
            stack.enter_context(other)
            time.sleep(0.5)
        return (
            keep_rate(one.port, hooks, rate=500.0, seconds=bench.seconds, run=2 * run + 1, **load).percentile(99) * 1e3
        )


def cpu_of_history(bench: Bench, say: Callable[[str], None]) -> list[Row]:
    """CPU time per hook with the history on, beside off."""
    rate = 2000.0
    figures: dict[bool, list[float]] = {False: [], True: []}
    for number in range(bench.rounds):
        for on, values in figures.items():
            file = request_file(bench, "app-00000", "OnCallEvent")
            to = {"well": bench.well}
            store = bench.new_store() if on else None
            with gateway(bench, to, {"app-00000": "well"}, store=store, history=on) as one:
                values.append(_cpu_per_hook(bench, one, file, rate, 2 * number))
        say(f"round {number + 1}: off {figures[False][-1]:.0f} µs, on {figures[True][-1]:.0f} µs")
    off, on_ = (statistics.median(values) for values in figures.values())
    return [("CPU per hook, µs", "history off", "history on", "ratio"),
            (f"{rate:.0f}/s", f"{off:.0f}", f"{on_:.0f}", f"{on_ / off:.2f}")]  # fmt: skip


def recovery(bench: Bench, say: Callable[[str], None]) -> list[Row]:
    """How long a backlog takes on a backend that is back, beside what its connections allow."""
    count = bench.rows_of("recovery")
    ideal = count * DELAY_MS / 1000 / (CONNECTIONS // 4)
    with filled_gateway(bench, count) as (one, port), backend(bench.shop, port):
        taken = _await(lambda: one.waiting() == 0, 60 + 10 * ideal, "recovery")
        told = json.loads(ask(port, "/").body)
    say(f"the backend answered {told['hooks']} events")
    return [("recovery", "events", "ideal, s", "taken, s", "ratio"),
            ("", count, f"{ideal:.1f}", f"{taken:.1f}", f"{taken / ideal:.2f}")]  # fmt: skip


def million(bench: Bench, say: Callable[[str], None]) -> list[Row]:
    """Memory, status and first redelivery with a million events."""
    count = bench.rows_of("million")
    with filled_gateway(bench, count) as (one, port):
        sizes = []
        for _ in range(bench.rounds):
            time.sleep(bench.seconds / bench.rounds)
            sizes.append(memory(one.pid).rss)
            say(f"RSS of all processes: {sizes[-1] / 2**20:.0f} MiB")
        asked = [_timed(one.spool) for _ in range(bench.rounds)]
        status = [_timed(lambda: _status(bench, one)) for _ in range(bench.rounds)]
        with backend(bench.shop, port):
            _await(lambda: len(json.loads(ask(port, "/").body)["came"]) > 2, 120, "redelivery")
            first, second, _ = json.loads(ask(port, "/").body)["came"]
            time.sleep(min(10.0, bench.seconds))
            grown = memory(one.pid).rss
    head = ("events", "RSS first, MiB", "last", "in recovery", "/api/spool, ms", "spool status, ms", "probe to next, s")
    mib = (f"{size / 2**20:.0f}" for size in (sizes[0], sizes[-1], grown))
    ms = (f"{statistics.median(each) * 1e3:.0f}" for each in (asked, status))
    return [head, (count, *mib, *ms, f"{second - first:.3f}")]


def _timed(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def _status(bench: Bench, one: Gateway) -> None:
    command = [bench.shop.gateway, "spool", "status", "--admin", f"http://127.0.0.1:{one.admin}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise BenchError(f"gateway spool status: {(done.stdout + done.stderr).strip()[-300:]}")


def history_writer(bench: Bench, say: Callable[[str], None]) -> list[Row]:
    """Decisions per second of one core, and searches in all of them."""
    return history_figures(bench.new_store(), bench.rows_of("history"), say)


FIGURES: Final[Mapping[str, Callable[[Bench, Callable[[str], None]], list[Row]]]] = {
    "cpu": cpu_per_event,
    "beside": hooks_beside,
    "history-cpu": cpu_of_history,
    "recovery": recovery,
    "million": million,
    "history": history_writer,
}


# --- the command ---


def table(rows: Sequence[Row]) -> str:
    """In Markdown; the first row is the head."""
    head, *rest = [[str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] + ["--:"] * (len(head) - 1), *rest))


@contextlib.contextmanager
def stores(engine: str, directory: Path) -> Iterator[Callable[[], str]]:
    """Makes URLs of empty stores."""
    if engine == "sqlite":
        numbers = itertools.count()
        yield lambda: f"sqlite://{directory}/store-{next(numbers)}.db"
        return
    with postgres_server() as server:
        for command in ("ALTER SYSTEM SET fsync = on", "SELECT pg_reload_conf()"):
            server.query(command)
        yield server.new_database


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; the exit status."""
    parser = argparse.ArgumentParser(prog="bench-store", description=__doc__)
    parser.add_argument("--gateway", default=".venv/bin/gateway", metavar="COMMAND", help="the gateway to measure")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"whose median counts (default {ROUNDS})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of each run of load (default {SECONDS:g})")
    parser.add_argument(
        "--rows",
        type=int,
        help="of recovery, million and history (default 100,000, 1,000,000 and 10,000,000)",
    )
    parser.add_argument("--only", nargs="+", default=list(FIGURES), choices=list(FIGURES), help="these figures alone")
    parser.add_argument("--engine", nargs="+", default=["sqlite"], choices=ENGINES, help="(default sqlite)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, and so ends all that was started
    try:
        for engine in options.engine:
            _measure(engine, options)
    except (BenchError, LoadError) as exc:
        print(f"bench-store: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _measure(engine: str, options: argparse.Namespace) -> None:
    allow_descriptors()
    if (noise := busy()) > 0.05:
        print(f"Other programs use {noise:.0%} of the CPUs; the figures will suffer from that.", flush=True)
    with tempfile.TemporaryDirectory(prefix="wcs-bench-") as name, stores(engine, Path(name)) as new_store:
        shop = Workshop(Path(name), Cpus.of_this_machine(), str(Path(options.gateway).absolute()))
        port = free_port()
        with closed_port() as down, backend(shop, port, 0):
            bench = Bench(shop, port, down, engine, options.rounds, options.seconds, options.rows, new_store)
            for figure in options.only:
                print(f"{engine}, {figure}:", flush=True)
                rows = FIGURES[figure](bench, lambda line: print(f"  {line}", flush=True))
                print(f"\n{table(rows)}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
