"""One run: calm, then faults step by step with the oracle after each, then calm again and the look at what is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.chaos.configs import first_rules, text_of
from tests.chaos.faults import FAULTS
from tests.chaos.leftovers import after_the_end, compare, measure, read_log
from tests.chaos.oracle import Violations
from tests.chaos.schedule import Planned, steps
from tests.chaos.stage import Stage
from tests.support.faulty import make_certificates

STEP_LIMIT: Final = 120.0
"""Seconds after which a step that does not end is a violation."""
P99_RATIO: Final = 1.2
END: Final = 12.0
"""Seconds kept for the end."""


@dataclass
class Result:
    """What a run has come to."""

    seed: int
    tls: bool
    seconds: float = 0.0
    steps: int = 0
    hooks: int = 0
    calm_hooks: int = 0
    killed_in_flight: int = 0
    stopped_in_flight: int = 0
    killed_twice: int = 0
    refused_by_nobody: int = 0
    repeats: int = 0
    late_strict: int = 0
    worst_late: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    violations: Violations = field(default_factory=Violations)
    quantiles: dict[str, tuple[float, float]] = field(default_factory=dict)
    """p50 and p99 by tenant and time, in seconds."""
    leftovers: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The untouched tenant's p99 amid faults, in terms of its calm one."""
        calm, amid = self.quantiles.get("untouched, calm"), self.quantiles.get("untouched, amid faults")
        return amid[1] / calm[1] if calm and amid and calm[1] else 0.0


def run(
    seconds: float,
    seed: int,
    *,
    tls: bool,
    rate: float,
    quiet_machine: bool = False,
    without: frozenset[str] = frozenset(),
    tell: bool = True,
) -> Result:
    """Run for so long; *quiet_machine*: judge by the strict figures, too; *without*: classes of faults, or faults."""
    with tempfile.TemporaryDirectory(prefix="wcs-chaos-") as name:
        directory = Path(name)
        certificates = None
        if tls:
            for one in ("ours", "theirs"):
                (directory / one).mkdir()
            certificates = (make_certificates(directory / "ours"), make_certificates(directory / "theirs"))
        stage = Stage(directory, seed, rate, certificates)
        result = Result(seed, tls)
        try:
            stage.mount()
            asyncio.run(_Run(stage, result, seconds, quiet_machine, without, tell).play())
        finally:
            stage.end()
            for disk in stage.disks.values():
                if trouble := disk.unmount():
                    stage.wrong("leftover", f"a disk is still in use: {trouble}")
    return result


class _Run:
    def __init__(
        self,
        stage: Stage,
        result: Result,
        seconds: float,
        quiet_machine: bool,
        without: frozenset[str],
        tell: bool,
    ) -> None:
        self._stage, self._result, self._without = stage, result, without
        self._seconds, self._quiet, self._tell = seconds, quiet_machine, tell

    async def play(self) -> None:
        stage, result = self._stage, self._result
        began = time.monotonic()
        if stage.disk_trouble:
            result.notes.append(f"no disks that fill up: {stage.disk_trouble}")
            if os.environ.get("CI") == "true":
                stage.wrong("leftover", f"tmpfs cannot be mounted: {stage.disk_trouble}")
        stage.begin(first_rules())
        stage.order_load("resume")
        await asyncio.sleep(min(30.0, max(4.0, self._seconds / 10)))
        await stage.judge()
        result.calm_hooks = stage.oracle.hooks
        self._quantiles("calm")
        stage.order_load("pause")
        await asyncio.sleep(3.5)  # kept connections to backends are dropped
        before = await measure(stage)
        stage.order_load("resume")
        await self._faults(began + self._seconds - END)
        if stage.gateway.poll() is None:
            await self._last_calm()
        result.hooks = stage.oracle.hooks - result.calm_hooks
        self._quantiles("amid faults")
        stage.order_load("pause")
        await asyncio.sleep(3.5)
        if before is not None:
            result.leftovers = await compare(stage, before)
        stage.load.tell("stop")
        begun = await asyncio.to_thread(stage.load.read)
        await stage.judge()
        stage.oracle.close(_counts(begun))
        status = await asyncio.to_thread(self._stop)
        after_the_end(stage, status)
        result.seconds = time.monotonic() - began
        lines = read_log(stage, stage.log, result.seconds)
        result.leftovers.append(f"log: {lines['lines']} lines, {lines['of hooks']} of them hooks'")
        self._deaths()
        self._close()

    async def _faults(self, until: float) -> None:
        stage = self._stage
        without = self._without | frozenset(
            [*(() if stage.certificates else ("certificates",)), *(("disks",) if stage.disk_trouble else ())]
        )
        for planned in steps(self._result.seed, without):
            if time.monotonic() > until or stage.gateway.poll() is not None:
                break
            stage.step += 1
            stage.log_lines()
            await self._step(planned)
            await stage.judge()
            self._say(planned)
        if stage.gateway.poll() is not None:
            stage.wrong("gateway_ended", f"with status {stage.gateway.returncode}, amid the faults")

    async def _step(self, planned: Sequence[Planned]) -> None:
        stage = self._stage

        async def play(one: Planned) -> None:
            await asyncio.sleep(one.after)
            stage.counts[f"{one.of}: {one.name}"] += 1
            await FAULTS[one.of][one.name](stage, random.Random(one.seed))

        try:
            async with asyncio.timeout(STEP_LIMIT):
                await asyncio.gather(*(play(one) for one in planned))
                if stage.gateway.poll() is None:
                    await stage.both_serve()
        except TimeoutError:
            stage.wrong("step", f"did not end: {', '.join(one.name for one in planned)}")

    async def _last_calm(self) -> None:
        """The first configuration again, and a while of hooks with no fault: all must be well by itself."""
        stage = self._stage
        rules = first_rules()
        rules = type(rules)("last", rules.apps, rules.recording)
        stage.history.may_come(rules, time.monotonic())
        stage.write(text_of(rules, stage.place), rename=True)
        await stage.ask("/-/reload", "POST")
        await stage.in_force(rules)
        await asyncio.sleep(2.0)
        await stage.judge()

    def _stop(self) -> int | None:
        gateway = self._stage.gateway
        if gateway.poll() is None:
            gateway.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return gateway.wait(15)
        return None

    def _deaths(self) -> None:
        """Workers that ended though nobody had killed them, nor stopped them for long."""
        for line in self._stage.log_lines():
            if line.get("event") == "worker_died" and line.get("pid") not in self._stage.expected_deaths:
                self._stage.wrong("worker_died", str(line.get("message", line))[:300])

    def _quantiles(self, when: str) -> None:
        for app, times in sorted(self._stage.oracle.times.items()):
            if times:
                ordered = sorted(times)
                self._result.quantiles[f"{app}, {when}"] = (
                    ordered[len(ordered) // 2],
                    ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
                )
        self._stage.oracle.times.clear()

    def _say(self, planned: Sequence[Planned]) -> None:
        if self._tell:
            names = ", ".join(f"{one.of}/{one.name}" for one in planned)
            found = dict(self._stage.violations.counts)
            print(f"step {self._stage.step:3}  {self._stage.oracle.hooks:6} hooks  {names}  {found or ''}", flush=True)

    def _close(self) -> None:
        stage, result, oracle = self._stage, self._result, self._stage.oracle
        result.steps, result.faults, result.violations = stage.step, stage.counts, stage.violations
        result.killed_in_flight, result.stopped_in_flight = oracle.killed_in_flight, oracle.stopped_in_flight
        result.killed_twice, result.refused_by_nobody = oracle.killed_twice, oracle.refused_by_nobody
        if stage.gave_way:
            result.notes.append(f"{stage.gave_way} connections to the admin port gave way before their request came")
        result.repeats, result.late_strict, result.worst_late = oracle.repeats, oracle.late_strict, oracle.worst_late
        if self._quiet:
            if result.late_strict:
                stage.wrong("late", f"{result.late_strict} answers later than budget plus 100 ms")
            if result.ratio > P99_RATIO:
                stage.wrong("p99", f"the untouched tenant's p99 is {result.ratio:.2f} times its calm one")


def _counts(line: str) -> dict[str, int]:
    return {str(app): int(count) for app, count in json.loads(line).items()}
