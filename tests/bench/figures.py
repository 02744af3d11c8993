"""The figures beside the scenarios: latency at half of the capacity, memory, start, stalls."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench.contenders import Certificate, Contender, Kind, Setting, Workshop, apps_section, backend, gateway
from tests.bench.hooks import call_body, raw_request
from tests.bench.load import Answers, RateRun, keep_rate, percentile, saturate
from tests.bench.processes import (
    OWN_ENVIRONMENT,
    BenchError,
    accepts,
    allow_descriptors,
    ask,
    await_that,
    free_port,
    running,
)
from tests.bench.procstat import memory
from tests.bench.scenarios import HOOK_SIZE, WARM_UP, Entrant, loaded, next_run, request_file, started

_MANY: Final = 10_000
"""Apps, and hooks in flight."""
_SPARE_DESCRIPTORS: Final = 300
_STALL_RATE: Final = 500.0
"""Hooks a second: one every 2 ms."""
_SETTLE: Final = 1.0
_REPEATS: Final = 3
_START_POLL: Final = 0.005
_HOLD_LIMIT: Final = 60.0


@dataclass(frozen=True)
class HalfCapacity:
    """Latency at half of the gateway's capacity, HAProxy beside it at the same rate."""

    capacity: float
    """Hooks a second that the gateway answers with its CPU fully used."""
    rate: float
    p50_ms: dict[str, float]
    """By contender; each figure is the median over the rounds."""
    p99_ms: dict[str, float]
    p999_ms: dict[str, float]
    p99_ratio: float
    """The median over the rounds of the gateway's p99 to HAProxy's."""


@dataclass(frozen=True)
class MemoryHeld:
    """Bytes."""

    idle_rss: int
    idle_pss: int
    two_workers_pss: int
    """A supervisor and two workers, all together."""
    in_flight: int
    """Hooks that were waiting on the backend at once."""
    per_hook: float
    """Resident memory beyond the idle one for each of them: its connections and its body included."""


@dataclass(frozen=True)
class Start:
    """With many apps."""

    apps: int
    seconds: float
    """From the start of the process until it is ready; the median of several."""
    rss: int


@dataclass(frozen=True)
class Stall:
    """What the hooks notice of something that the gateway does besides."""

    apps: int
    seconds: float
    """How long it takes; the median of several."""
    stall_ms: float
    """The longest latency of a hook meanwhile, less the usual p99; the median of several."""
    worst_ms: float
    """The worst of these."""
    usual_p99_ms: float
    size: int = 0
    """Bytes of the answer."""


Say = Callable[[str], None]


def half_capacity(shop: Workshop, rounds: int, seconds: float, certificate: Certificate, say: Say) -> HalfCapacity:
    """Both contenders in turn at half of the gateway's capacity."""
    entrants = (Entrant(Kind.GATEWAY), Entrant(Kind.HAPROXY))
    latencies: dict[str, list[Answers]] = {entrant.name: [] for entrant in entrants}
    with started(shop, entrants, HOOK_SIZE, certificate) as contenders:
        files = [request_file(shop, one, HOOK_SIZE) for one in contenders]
        for one, file in zip(contenders, files, strict=True):
            loaded(shop, one, file, 16, WARM_UP)
        capacity = median(loaded(shop, contenders[0], files[0], 16, seconds).hooks_per_second for _ in range(3))
        for _ in range(rounds):
            for one, file in zip(contenders, files, strict=True):
                latencies[one.kind].append(
                    keep_rate(
                        one.port, file, cpus=shop.cpus.load, rate=capacity / 2, seconds=seconds, run=next_run(), apps=10
                    )
                )

    def medians(percent: float) -> dict[str, float]:
        return {name: median(one.percentile(percent) for one in taken) * 1000 for name, taken in latencies.items()}

    pairs = zip(latencies[Kind.GATEWAY], latencies[Kind.HAPROXY], strict=True)
    ratio = median(one.percentile(99) / other.percentile(99) for one, other in pairs)
    result = HalfCapacity(capacity, capacity / 2, medians(50), medians(99), medians(99.9), ratio)
    for name in latencies:
        say(
            f"  {name:22} p50 {result.p50_ms[name]:6.2f} ms  p99 {result.p99_ms[name]:6.2f} ms"
            f"  at {result.rate:.0f} hooks/s"
        )
    return result


def memory_held(shop: Workshop, say: Say) -> MemoryHeld:
    """Idle, and with as many hooks in flight as the limit on open files lets through."""
    with gateway(shop, Setting(), 1) as one:
        idle = memory(one.pid)
    with gateway(shop, Setting(workers=2), 1) as one:
        two = memory(one.pid)
    descriptors = allow_descriptors()
    count = min(_MANY, (descriptors - _SPARE_DESCRIPTORS) // 2)  # each hook takes two of the gateway's
    if count < _MANY:
        say(f"  only {count} hooks in flight: the limit on open files is {descriptors}, and may not be raised")
    port = free_port()
    output = shop.path("holding.log")
    command = [sys.executable, "-m", "tests.bench.holding", str(port)]
    with (
        running(command, cpus=shop.cpus.load, output=output, environment=OWN_ENVIRONMENT) as process,
        gateway(
            shop,
            Setting(apps=1),  # where several share an upstream, none gets all of its connections
            port,
            server=f"  max_in_flight: {count + 100}\n  max_connections: {count + 100}",
            more="media_server: {request_timeout: 5m}\ndefaults: {timeout: 2m}",
            upstream=f"    max_connections: {count + 100}",
            app_timeout="2m",
        ) as one,
    ):
        await_that(lambda: accepts(port), process, output)
        before = memory(one.pid)
        with ExitStack() as stack:
            for number in range(count):
                stack.enter_context(_waiting_hook(one, number))
            _await_held(port, count)
            grown = memory(one.pid).rss - before.rss
    held = MemoryHeld(idle.rss, idle.pss, two.pss, count, grown / count)
    say(f"  idle {idle.rss / 1e6:.1f} MB; {held.per_hook / 1000:.1f} kB for each of {count} hooks in flight")
    return held


def start_many(shop: Workshop, say: Say) -> Start:
    """Start with many apps, several times."""
    times, sizes = [], []
    for _ in range(_REPEATS):
        begin = time.monotonic()
        with gateway(shop, Setting(apps=_MANY), 1, poll=_START_POLL) as one:
            times.append(time.monotonic() - begin)
            sizes.append(memory(one.pid).rss)
    say(f"  {_MANY} apps: ready in {median(times):.2f} s, {median(sizes) / 1e6:.0f} MB")
    return Start(_MANY, median(times), round(median(sizes)))


def reload_stall(shop: Workshop, say: Say) -> Stall:
    """Reload many apps, each changed, while hooks come in."""

    def reload(one: Contender, number: int) -> int:
        assert one.config is not None
        text = one.config.read_text().partition("apps:\n")[0] + apps_section(_MANY, f"{2000 + number}ms")
        new = one.config.with_suffix(".new")
        new.write_text(text)
        new.rename(one.config)
        answer = ask(one.admin, "/-/reload", method="POST")
        if answer.status != 200:
            raise BenchError(f"the reload failed: {answer.body[:300]!r}")
        return len(answer.body)

    return _stall(shop, reload, say)


def scrape_stall(shop: Workshop, say: Say) -> Stall:
    """Ask for the metrics of many apps, each of which has had a hook, while hooks come in."""

    def scrape(one: Contender, _: int) -> int:
        answer = ask(one.admin, "/metrics")
        if answer.status != 200:
            raise BenchError(f"the metrics came with {answer.status}")
        return len(answer.body)

    return _stall(shop, scrape, say)


def _stall(shop: Workshop, act: Callable[[Contender, int], int], say: Say) -> Stall:
    """Do it several times while a client sends a hook every 2 ms."""
    spans: list[tuple[float, float]] = []
    size = 0
    with backend(shop, HOOK_SIZE) as ports, gateway(shop, Setting(apps=_MANY), ports.keepalive) as one:
        file = request_file(shop, one, HOOK_SIZE)
        _touch_every_app(shop, one, file)
        run = RateRun(
            one.port, file, cpus=shop.cpus.load, rate=_STALL_RATE, seconds=4 * _REPEATS + 4, run=next_run(), apps=_MANY
        )
        with run:
            time.sleep(2 * _SETTLE)
            for number in range(_REPEATS):
                begin = time.monotonic()
                size = act(one, number)
                spans.append((begin, time.monotonic()))
                time.sleep(_SETTLE)
            answers = run.answers()
    if spans[-1][1] > answers.due[-1]:
        raise BenchError(f"it took so long that the hooks had ended: {spans[-1][1] - spans[-1][0]:.1f} s")

    def is_usual(due: float) -> bool:
        return all(not begin - _SETTLE / 4 <= due <= end + _SETTLE / 2 for begin, end in spans)

    usual = percentile([late for due, late in zip(answers.due, answers.latencies, strict=True) if is_usual(due)], 99)
    stalls = [max(0.0, answers.longest(begin, end + _SETTLE / 4) - usual) * 1000 for begin, end in spans]
    took = median(end - begin for begin, end in spans)
    say(
        f"  {took * 1000:.0f} ms, {size} bytes;"
        f" longest stall of a hook {median(stalls):.1f} ms (worst {max(stalls):.1f})"
    )
    return Stall(_MANY, took, median(stalls), max(stalls), usual * 1000, size)


def _touch_every_app(shop: Workshop, one: Contender, file: Path) -> None:
    """Send at least one hook for each app."""
    for seconds in (3, 6, 12, 24):
        load = saturate(
            one.port,
            file,
            tls=False,
            cpus=shop.cpus.load,
            connections=16,
            seconds=seconds,
            run=next_run(),
            apps=_MANY,
        )
        if load.hooks >= _MANY and not load.refused and not load.broken:
            return
    raise BenchError(f"not every app could be sent a hook: {load}")


def _waiting_hook(one: Contender, number: int) -> socket.socket:
    """A client's connection with a hook on it that waits for its answer."""
    body = call_body(HOOK_SIZE).replace(b"{APP}", b"00000").replace(b"{-----CALL-----}", b"held%012d" % number)
    client = socket.create_connection(("127.0.0.1", one.port), timeout=10)
    client.sendall(raw_request(body, f"127.0.0.1:{one.port}"))
    return client


def _await_held(port: int, count: int) -> None:
    deadline = time.monotonic() + _HOLD_LIMIT
    while (held := int(ask(port, "/").body or 0)) < count:
        if time.monotonic() > deadline:
            raise BenchError(f"only {held} of {count} hooks reached the backend")
        time.sleep(0.2)
