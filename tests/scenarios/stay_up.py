"""Measures how one gateway process stays up, and prints a Markdown table: ``python -m tests.scenarios.stay_up``.

A row is a scenario of a bad day on real sockets. It takes about two minutes and wants a quiet machine: the times are
the callers' own, and callers, backends and gateway share its processors.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.support.gateways import RunningGateway, wait_until
from tests.support.pacing import (
    EMPTY,
    Answered,
    Callers,
    Mode,
    PacedBackend,
    Volley,
    backends,
    configuration,
    hook_body,
    reloadable_gateway,
    serve,
    take,
    targets,
    volley,
)

QUIET: Final = {"access": "off"}
RELOADS: Final = 100
OVERLOAD_SECONDS: Final = 20.0
ROUNDS: Final = 3
ROUND_SECONDS: Final = 3.0


class Row(NamedTuple):
    """One line of the table."""

    scenario: str
    figures: str


def main() -> None:
    """Run every scenario once."""
    began = time.monotonic()
    print("| scenario | figures |\n|---|---|")
    with tempfile.TemporaryDirectory() as directory, reloadable_gateway(Path(directory)) as gateway:
        for scenario in SCENARIOS:
            take(gateway, EMPTY)
            for row in scenario(gateway):
                print(f"| {row.scenario} | {row.figures} |", flush=True)
    print(f"\n{time.monotonic() - began:.0f} s in all.")


def target_killed(gateway: RunningGateway) -> Iterator[Row]:
    """One of two targets dies and comes back, the callers going on."""
    with backends(2) as pair:
        serve(gateway, {"u": {"targets": targets(*pair)}}, {"a": {"upstream": "u"}}, log=QUIET)
        for backend in pair:
            backend.delay = 0.005
        with Callers(gateway.hooks, "a", 8) as load:
            time.sleep(1)
            pair[0].kill()
            time.sleep(2)
            pair[0].revive()
            back = pair[0].count
            assert wait_until(lambda: pair[0].count > back + 100)
            pair[1].kill()
            time.sleep(2)
            load.stop()
    yield Row(
        "one of two targets killed, back, then the other killed, 8 callers, default retry",
        f"{len(load.answers)} hooks, {lost(load.answers)} lost; {times(load.answers)}",
    )


def only_target_hung(gateway: RunningGateway) -> Iterator[Row]:
    """The only target accepts hooks and says nothing more."""
    with PacedBackend() as backend:
        serve(gateway, {"u": {"url": backend.url}}, {"a": {"upstream": "u", "timeout": "1s"}}, log=QUIET)
        with Callers(gateway.hooks, "a", 4) as well:
            time.sleep(1)
            well.stop()
        backend.mode = Mode.HOLD
        with Callers(gateway.hooks, "a", rate=50) as hung:
            opened = wait_until(lambda: gateway.metric("gateway_target_up", upstream="u") == 0)
            since, asked = time.perf_counter(), backend.count
            time.sleep(8)
            probes = backend.count - asked
            released = time.perf_counter()
            backend.release()
            recovered = wait_until(lambda: hung.answers[-1].status == 200)
            hung.stop()
    assert opened
    assert recovered
    refused = [answer for answer in hung.answers if answer.proxy_error == "destination_unavailable"]
    first = min(answer.began for answer in hung.answers if answer.status == 200)
    yield Row(
        "the only target hung, 50 hooks/s, budget 1 s",
        f"{sum(answer.proxy_error == 'http_response_timeout' for answer in hung.answers)} hooks waited their second; "
        f"once open: {len(refused)} verdicts, {times(refused)}; "
        f"{probes} probes in {released - since:.0f} s; first hook allowed {first - released:.1f} s after recovery",
    )


def answers_lost(gateway: RunningGateway) -> Iterator[Row]:
    """Three of ten hooks are acted on, and their answers lost."""
    upstreams: dict[str, dict[str, Any]] = {
        "default retry": {},
        "retry on reset, 2 attempts": {"retry": {"attempts": 2, "on": ["connect", "reset"]}},
        "retry on reset, 4 attempts": {"retry": {"attempts": 4, "on": ["connect", "reset"]}},
        "retry on reset, 4 attempts, breaker off": {
            "retry": {"attempts": 4, "on": ["connect", "reset"]},
            "breaker": "off",
        },
    }
    for name, settings in upstreams.items():
        take(gateway, EMPTY)
        dice = random.Random(1)
        with PacedBackend(delay=0.005) as backend:
            backend.lose = lambda number, dice=dice: dice.random() < 0.3  # type: ignore[misc]
            upstream = {"url": backend.url, "keepalive": "off", **settings}
            serve(gateway, {"u": upstream}, {"a": {"upstream": "u"}}, log=QUIET)
            with Callers(gateway.hooks, "a", 4) as load:
                time.sleep(3)
                load.stop()
            ejections = gateway.metric("gateway_target_ejections_total", upstream="u")
        failed = Counter(answer.proxy_error for answer in load.answers if answer.status != 200)
        yield Row(
            f"30 % of answers lost, {name}",
            f"{len(load.answers)} hooks, {100 - 100 * lost(load.answers) / len(load.answers):.1f} % allowed, "
            f"{failed['connection_terminated']} lost to a reset, "
            f"{failed['destination_unavailable']} refused by the open breaker ({ejections:.0f} ejections)",
        )


def tenant_hung(gateway: RunningGateway) -> Iterator[Row]:
    """App A's backend hangs at full traffic; what B's hooks notice, on a backend of its own and on a shared one."""
    for shared in (False, True):
        take(gateway, EMPTY)
        logged = len(gateway.lines())
        with PacedBackend(delay=0.005) as well, hung_traffic(gateway.hooks) as hung:
            apps = {"b": {"upstream": "u"}, "a": {"upstream": "u" if shared else "hung", "timeout": "1s"}}
            upstreams = {"u": {"url": well.url}, "hung": {"url": hung.url, "breaker": "off"}}
            well.apps["a"] = Mode.HOLD
            serve(gateway, upstreams, apps)
            alone: list[list[Answered]] = []
            beside: list[list[Answered]] = []
            for round_number in range(2 * ROUNDS):  # by turns, so that the machine's moods meet both
                during = bool(round_number % 2)
                if during:
                    hung.start()
                    time.sleep(1.5)
                with Callers(gateway.hooks, "b", rate=50) as load:
                    time.sleep(ROUND_SECONDS)
                    load.stop()
                (beside if during else alone).append(load.answers)
                if during:
                    hung.stop()
                    time.sleep(1.5)
        before, after = (statistics.median(quantile(answers, 0.99) for answers in some) for some in (alone, beside))
        every = [answer for answers in beside for answer in answers]
        time.sleep(0.5)  # the log's last lines
        own = [gateways_own(gateway.lines()[logged:], answers) for answers in (alone, beside)]
        where = "the same backend" if shared else "another backend"
        yield Row(
            f"app A hung at 200 hooks/s on {where}; B at 50 hooks/s",
            f"B: {len(every)} hooks, {lost(every)} lost; p99 {before * 1000:.1f} ms alone, "
            f"{after * 1000:.1f} ms beside A ({after / before:.2f} times); "
            f"of that spent in the gateway itself: p99 {own[0]:.2f} and {own[1]:.2f} ms",
        )


def limited_app(gateway: RunningGateway) -> Iterator[Row]:
    """200 hooks at once to an app that may have 50 inside."""
    with PacedBackend(Mode.HOLD) as backend:
        app = {"upstream": "u", "timeout": "10s", "max_in_flight": 50}
        serve(gateway, {"u": {"url": backend.url}}, {"a": app}, log=QUIET)
        storm = Volley(gateway, [hook_body("a") for _ in range(200)])
        wait_until(lambda: gateway.metric("gateway_hooks_total", reason="overload") == 150)
        backend.release()
        answers = storm.answers()
        refused = [answer for answer in answers if answer.proxy_error == "connection_limit_reached"]
        yield Row(
            "200 hooks at once to an app limited to 50",
            f"{sum(answer.status == 200 for answer in answers)} answered by the backend, which had "
            f"{backend.most_in_hand} at once; {len(refused)} refused, {times(refused)}",
        )


def duplicates(gateway: RunningGateway) -> Iterator[Row]:
    """The same hook four times at once and once later."""
    with PacedBackend(Mode.HOLD) as backend:
        serve(gateway, {"u": {"url": backend.url}}, {"a": {"upstream": "u", "timeout": "10s"}}, defaults={})
        body = hook_body("a")
        together = Volley(gateway, [body] * 4)
        wait_until(lambda: gateway.metric("gateway_hooks_in_flight", app="a") == 4)
        backend.release()
        answers = [*together.answers(), *volley(gateway, [body])]
        bodies = len({answer.body for answer in answers})
        yield Row(
            "the same hook 4 times at once and once later",
            f"backend saw {backend.count}; {len(answers)} answers, {bodies} distinct, {lost(answers)} lost",
        )


def refusals(gateway: RunningGateway) -> Iterator[Row]:
    """The backend says no, again and again."""
    with PacedBackend(Mode.DENY) as backend:
        serve(gateway, {"u": {"url": backend.url}}, {"a": {"upstream": "u"}}, log=QUIET)
        for _ in range(60):
            volley(gateway, [hook_body("a")])
        ejections = gateway.metric("gateway_target_ejections_total", upstream="u")
        yield Row("60 refusals in a row", f"{backend.count} asked, {ejections:.0f} ejections")


def reloads(gateway: RunningGateway) -> Iterator[Row]:
    """The configuration changes a hundred times under load."""
    with PacedBackend(delay=0.005) as backend:
        texts = [
            configuration(
                {"u": {"url": backend.url}}, {"a": {"upstream": "u"}, f"b{turn}": {"static": "allow"}}, log=QUIET
            )
            for turn in range(2)
        ]
        take(gateway, texts[1])
        with Callers(gateway.hooks, "a", 8) as load:
            for turn in range(RELOADS):
                take(gateway, texts[turn % 2])
            load.stop()
        yield Row(
            f"{RELOADS} reloads under load, 8 callers",
            f"{len(load.answers)} hooks, {lost(load.answers)} failed; {times(load.answers)}; "
            f"{backend.accepted} connections to the backend in all",
        )


def twice_the_capacity(gateway: RunningGateway) -> Iterator[Row]:
    """Hooks come at twice the rate that the backend can serve."""
    for jitter, seconds in ((False, OVERLOAD_SECONDS), (True, OVERLOAD_SECONDS / 2)):
        take(gateway, EMPTY)
        with PacedBackend(delay=0.04) as backend:
            if jitter:
                backend.spread = 0.8
            upstream = {"url": backend.url, "max_connections": 8}
            serve(gateway, {"u": upstream}, {"a": {"upstream": "u", "timeout": "1s"}}, log=QUIET)
            with Callers(gateway.hooks, "a", 8) as peak:
                time.sleep(5)
                peak.stop()
            capacity = len(peak.answers) / peak.seconds
            with Callers(gateway.hooks, "a", rate=2 * capacity) as storm:
                time.sleep(seconds)
                storm.stop()
            with Callers(gateway.hooks, "a", rate=0.8 * capacity) as calm:
                time.sleep(2)
                calm.stop()
            ejections = gateway.metric("gateway_target_ejections_total", upstream="u")
        goodput = sum(answer.status == 200 for answer in storm.answers) / seconds
        refused = [answer for answer in storm.answers if answer.proxy_error == "connection_limit_reached"]
        late = sum(answer.proxy_error == "http_response_timeout" for answer in storm.answers)
        yield Row(
            f"twice the capacity for {seconds:.0f} s, "
            f"backend of {'8 to 72' if jitter else '40'} ms on 8 connections, budget 1 s",
            f"peak {capacity:.0f}/s, goodput {goodput:.0f}/s ({100 * goodput / capacity:.0f} %); "
            f"{len(refused)} refused as overload, {times(refused)}; {late} timed out, {ejections:.0f} ejections; "
            f"afterwards {lost(calm.answers)} of {len(calm.answers)} lost",
        )


SCENARIOS: Final[tuple[Callable[[RunningGateway], Iterator[Row]], ...]] = (
    target_killed,
    only_target_hung,
    answers_lost,
    tenant_hung,
    limited_app,
    duplicates,
    refusals,
    reloads,
    twice_the_capacity,
)


# --- figures ---


def lost(answers: Sequence[Answered]) -> int:
    """Hooks that the backend did not allow."""
    return sum(answer.status != 200 or bool(answer.proxy_error) for answer in answers)


def quantile(answers: Sequence[Answered], part: float) -> float:
    """Seconds within which this part of them came."""
    ordered = sorted(answer.seconds for answer in answers)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def gateways_own(lines: Sequence[Mapping[str, Any]], rounds: Sequence[Sequence[Answered]]) -> float:
    """The rounds' median p99 of what the gateway took for itself, in milliseconds, by its log."""
    spent = {line["request_id"]: line["duration_ms"] - line["upstream_ms"] for line in lines if "verdict" in line}
    worst: list[float] = []
    for answers in rounds:
        ordered = sorted(spent[answer.headers["x-request-id"]] for answer in answers)
        worst.append(ordered[int(0.99 * len(ordered))])
    return statistics.median(worst)


def times(answers: Sequence[Answered]) -> str:
    if not answers:
        return "no times"
    p50, p99, most = (1000 * quantile(answers, part) for part in (0.5, 0.99, 1.0))
    return f"p50 {p50:.1f}, p99 {p99:.1f}, max {most:.1f} ms"


# --- a hung tenant, in a process of its own so that its callers do not slow the others' measurement ---


class HungTraffic(NamedTuple):
    """Calls of app A, and the backend of its own on which they would hang."""

    url: str
    pipe: multiprocessing.connection.Connection

    def start(self) -> None:
        self.pipe.send("start")

    def stop(self) -> None:
        self.pipe.send("stop")


@contextlib.contextmanager
def hung_traffic(address: str) -> Iterator[HungTraffic]:
    """A process that calls as app A, 200 times a second, between ``start`` and ``stop``."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hang, args=(address, theirs), daemon=True)
    process.start()
    try:
        yield HungTraffic(ours.recv(), ours)
    finally:
        ours.send("end")
        process.join(20)
        if process.is_alive():
            process.kill()


def _hang(address: str, pipe: multiprocessing.connection.Connection) -> None:
    with PacedBackend(Mode.HOLD) as backend:
        pipe.send(backend.url)
        while pipe.recv() == "start":
            with Callers(address, "a", rate=200) as load:
                pipe.recv()
                load.stop()


if __name__ == "__main__":
    main()
