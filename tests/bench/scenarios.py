"""The scenarios: who takes part in each, how they are set up, and one round after another of measuring them in turn."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench.contenders import Behind, Certificate, Contender, Kind, Setting, Workshop, backend, contender
from tests.bench.hooks import app_name, call_body, raw_request
from tests.bench.load import Load, LoadError, saturate
from tests.bench.processes import BenchError, ask
from tests.bench.procstat import cpu_seconds, memory

HOOK_SIZE: Final = 3614
"""Bytes of an incoming call's hook with its SDP, as on the wire."""
WARM_UP: Final = 1.0
"""Seconds of load before the first round."""
_PROBES: Final = 30
_STRAY: Final = 0.01
_USUAL: Final = Setting()
_run_numbers: Final = itertools.count(1)


@dataclass(frozen=True)
class Entrant:
    """A contender in one set-up."""

    kind: Kind
    setting: Setting = _USUAL
    variant: str = ""
    """What tells it from another of its kind in the same scenario."""

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.variant}" if self.variant else self.kind.value


@dataclass(frozen=True)
class Scenario:
    """One comparison."""

    name: str
    title: str
    entrants: tuple[Entrant, ...]
    connections: int = 16
    hook_size: int = HOOK_SIZE
    times: int = 1
    """How many rounds there are for each that is asked for: more where a few percent decide, which are less than one
    round differs from the next."""


@dataclass(frozen=True)
class Measurement:
    """One contender in one round."""

    cpu_us: float
    """User and system time of all its processes per hook, in microseconds."""
    hooks_per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float


@dataclass(frozen=True)
class Result:
    """One contender of one scenario."""

    name: str
    kind: Kind
    variant: str
    rounds: list[Measurement]
    idle_rss: int
    """Bytes, before the first hook."""
    rss: int
    """Bytes, after the last."""
    pss: int

    def median(self, figure: str) -> float:
        """The median of one figure over the rounds."""
        figures: list[float] = [getattr(one, figure) for one in self.rounds]
        return median(figures)


@dataclass(frozen=True)
class Outcome:
    """One scenario, measured."""

    name: str
    title: str
    connections: int
    hook_size: int
    results: list[Result]

    def result(self, name: str) -> Result:
        """The contender of this name."""
        return next(result for result in self.results if result.name == name)

    def ratio(self, one: str, other: str) -> float:
        """CPU per hook of one to that of the other: the median over the rounds, each taken for itself."""
        pairs = zip(self.result(one).rounds, self.result(other).rounds, strict=True)
        return median(first.cpu_us / second.cpu_us for first, second in pairs)


def next_run() -> int:
    """A number that makes the call ids of one run of load differ from all others'."""
    return next(_run_numbers)


def _both(setting: Setting = _USUAL) -> tuple[Entrant, ...]:
    return (Entrant(Kind.GATEWAY, setting), Entrant(Kind.HAPROXY, setting))


def _two_ways(first: Setting, first_name: str, second: Setting, second_name: str) -> tuple[Entrant, ...]:
    return tuple(
        Entrant(kind, setting, variant)
        for kind in (Kind.GATEWAY, Kind.HAPROXY)
        for setting, variant in ((first, first_name), (second, second_name))
    )


SCENARIOS: Final = (
    Scenario("keepalive-16", "keep-alive backend, 16 connections", tuple(Entrant(kind) for kind in Kind), times=2),
    Scenario("keepalive-1", "keep-alive backend, 1 connection", _both(), connections=1),
    Scenario("keepalive-256", "keep-alive backend, 256 connections", _both(), connections=256),
    Scenario("close-16", "`Connection: close` backend, 16 connections", _both(Setting(behind=Behind.CLOSE))),
    Scenario("hook-32k", "hook and answer of 32 kB", _both(), hook_size=32_000),
    Scenario("refuse", "the backend refuses", _both(Setting(behind=Behind.REFUSE))),
    Scenario("breaker-open", "the backend is down, the breaker open", _both(Setting(behind=Behind.DOWN))),
    Scenario(
        "log",
        "access log",
        _two_ways(_USUAL, "access log off", Setting(access_log=True), "access log on"),
        times=3,
    ),
    Scenario("tls", "TLS in front", _both(Setting(tls=True))),
    Scenario("apps", "apps", _two_ways(Setting(apps=10), "10 apps", Setting(apps=10_000), "10,000 apps"), times=3),
    Scenario(
        "workers",
        "workers, on both CPUs",
        _two_ways(Setting(workers=1), "1 worker, 64 connections", Setting(workers=2), "2 workers, 64 connections"),
        connections=64,
    ),
)


@contextlib.contextmanager
def started(
    shop: Workshop, entrants: tuple[Entrant, ...], hook_size: int, certificate: Certificate
) -> Iterator[list[Contender]]:
    """The backend and all these contenders, each checked to answer as it should."""
    with contextlib.ExitStack() as stack:
        ports = stack.enter_context(backend(shop, hook_size))
        contenders = [
            stack.enter_context(contender(shop, entrant.kind, entrant.setting, ports, certificate))
            for entrant in entrants
        ]
        for one in contenders:
            probe(one, hook_size)
        yield contenders


def probe(one: Contender, hook_size: int) -> None:
    """Send a few hooks, each alone; raises BenchError unless every answer is the expected one, body and all."""
    body = call_body(hook_size).replace(b"{APP}", b"00000")
    for number in range(_PROBES):
        hook = body.replace(b"{-----CALL-----}", b"probe%011d" % number)
        answer = ask(one.port, "/rest/my_api/OnCallEvent", method="POST", body=hook, tls=one.setting.tls)
        if answer.status != one.expected_status:
            raise BenchError(f"{one.kind} answers {answer.status}, not {one.expected_status}: {answer.body[:200]!r}")
        if answer.status == 200 and len(answer.body) != hook_size:
            raise BenchError(f"{one.kind} answers {len(answer.body)} bytes, not {hook_size}")
    unknown = body.replace(app_name("00000").encode(), b"nobody-00")
    if one.setting.behind is Behind.KEEPALIVE and one.kind in (Kind.GATEWAY, Kind.HAPROXY):
        status = ask(one.port, "/rest/my_api/OnCallEvent", method="POST", body=unknown, tls=one.setting.tls).status
        if status != 403:
            raise BenchError(f"{one.kind} answers {status} to an app that nobody configured")


def request_file(shop: Workshop, one: Contender, hook_size: int) -> Path:
    """The hooks for this contender, as a file with marks."""
    file = shop.path("hook")
    file.write_bytes(raw_request(call_body(hook_size), f"127.0.0.1:{one.port}"))
    return file


def measure(
    shop: Workshop,
    scenario: Scenario,
    rounds: int,
    seconds: float,
    certificate: Certificate,
    say: Callable[[str], None],
) -> Outcome:
    """All rounds of one scenario; raises LoadError for hooks that were not answered as they should be."""
    with started(shop, scenario.entrants, scenario.hook_size, certificate) as contenders:
        files = [request_file(shop, one, scenario.hook_size) for one in contenders]
        idle = [memory(one.pid).rss for one in contenders]
        for one, file in zip(contenders, files, strict=True):
            loaded(shop, one, file, scenario.connections, WARM_UP)
        measured: list[list[Measurement]] = [[] for _ in contenders]
        for _ in range(rounds * scenario.times):
            for one, file, figures in zip(contenders, files, measured, strict=True):
                figures.append(loaded(shop, one, file, scenario.connections, seconds))
        results = []
        for entrant, one, resting, figures in zip(scenario.entrants, contenders, idle, measured, strict=True):
            _check_decisions(one, say)
            held = memory(one.pid)
            results.append(Result(entrant.name, entrant.kind, entrant.variant, figures, resting, held.rss, held.pss))
    outcome = Outcome(scenario.name, scenario.title, scenario.connections, scenario.hook_size, results)
    for result in outcome.results:
        say(
            f"  {result.name:34} {result.median('cpu_us'):8.1f} µs CPU"
            f"  {result.median('hooks_per_second'):8.0f} hooks/s  p99 {result.median('p99_ms'):7.2f} ms"
        )
    return outcome


def loaded(shop: Workshop, one: Contender, file: Path, connections: int, seconds: float) -> Measurement:
    """One run of load, and what it cost."""
    before = cpu_seconds(one.pid)
    load = saturate(
        one.port,
        file,
        tls=one.setting.tls,
        cpus=shop.cpus.both if one.setting.workers > 1 else shop.cpus.load,
        connections=connections,
        seconds=seconds,
        run=next_run(),
        apps=one.setting.apps,
    )
    used = cpu_seconds(one.pid) - before
    check_statuses(one, load)
    return Measurement(
        cpu_us=used / load.hooks * 1e6,
        hooks_per_second=load.hooks / load.seconds,
        p50_ms=load.p50_us / 1000,
        p99_ms=load.p99_us / 1000,
        p999_ms=load.p999_us / 1000,
    )


def check_statuses(one: Contender, load: Load) -> None:
    """Raise LoadError for a run with wrong answers in it."""
    wrong = load.refused if one.expected_status == 200 else load.hooks - load.refused
    if wrong or load.broken or not load.hooks:
        raise LoadError(f"{one.kind}: of {load.hooks} hooks {wrong} had a wrong status, {load.broken} no answer")


def _check_decisions(one: Contender, say: Callable[[str], None]) -> None:
    """Raise BenchError unless the gateway asked the backend about every hook, or, with none there, fell back.

    What wrk was answered has been checked; but where a run ends it leaves some hooks behind, which are let pass.
    """
    if one.kind is not Kind.GATEWAY:
        return
    source = "fallback" if one.setting.behind is Behind.DOWN else "backend"
    counts = hooks_total(ask(one.admin, "/metrics").body.decode())
    others = {labels: count for labels, count in counts.items() if f'source="{source}"' not in labels}
    unexpected, total = sum(others.values()), sum(counts.values())
    if unexpected > _STRAY * total:
        first = ", ".join(f"{{{labels}}} {count:.0f}" for labels, count in itertools.islice(others.items(), 3))
        raise BenchError(f"the gateway was to decide by {source} alone, but: {first}")
    if unexpected > 1:  # one is the probe's, of an app that nobody configured
        say(f"  {unexpected:.0f} of {total:.0f} hooks, left behind by wrk, were decided otherwise")


def hooks_total(exposition: str) -> dict[str, float]:
    """The samples of ``gateway_hooks_total`` by their labels as they are written."""
    found = re.findall(r"^gateway_hooks_total\{([^}]*)\} (\S+)", exposition, re.MULTILINE)
    return {labels: float(count) for labels, count in found}
