"""The two load generators: wrk, which sends as fast as it is answered, and ``rate``, which keeps to a rate."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.bench.processes import OWN_ENVIRONMENT

_HERE: Final = Path(__file__).resolve().parent
_SCRIPT: Final = _HERE / "hook.lua"
_MARK: Final = "bench "


class LoadError(Exception):
    """A load generator failed, or hooks were not answered as they should be."""


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw."""

    hooks: int
    seconds: float
    p50_us: float
    p99_us: float
    p999_us: float
    refused: int
    """Answers with a status of 400 or more."""
    broken: int
    """Connections that failed, and answers that did not come in two seconds."""


@dataclass(frozen=True)
class Answers:
    """What became of hooks at a constant rate: two lists in the same order."""

    due: list[float]
    """Seconds of the monotonic clock at which each hook was due."""
    latencies: list[float]
    """Seconds from then to its answer."""
    statuses: dict[str, int]
    unanswered: int

    def percentile(self, percent: float) -> float:
        """The latency, in seconds, that so many percent of the hooks kept within."""
        return percentile(self.latencies, percent)

    def longest(self, begin: float, end: float) -> float:
        """The longest latency, in seconds, of the hooks that were due, or still waiting, in this span of time."""
        pairs = zip(self.due, self.latencies, strict=True)
        return max((late for due, late in pairs if due <= end and due + late >= begin), default=0.0)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of them do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def parse_wrk(output: str) -> Load:
    """Read what ``hook.lua`` prints at the end of wrk's own output; raises LoadError if it is not there."""
    for line in output.splitlines():
        if line.startswith(_MARK):
            return Load(**json.loads(line.removeprefix(_MARK)))
    raise LoadError(f"wrk gave no figures: {output.strip()[-500:]}")


def saturate(
    port: int, file: Path, *, tls: bool, cpus: str, connections: int, seconds: float, run: int, apps: int
) -> Load:
    """Let wrk send the hooks of *file* as fast as it can, from these CPUs; *run* makes their call ids new."""
    scheme = "https" if tls else "http"
    command = [
        *("taskset", "-c", cpus, "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "2s"),
        *("-s", str(_SCRIPT), f"{scheme}://127.0.0.1:{port}/", "--", str(file), str(run), str(apps)),
    ]
    return parse_wrk(_output(command, seconds + 30))


def keep_rate(port: int, file: Path, *, cpus: str, rate: float, seconds: float, run: int, apps: int) -> Answers:
    """Send hooks at a constant rate and wait for the end."""
    with RateRun(port, file, cpus=cpus, rate=rate, seconds=seconds, run=run, apps=apps) as running:
        return running.answers()


class RateRun:
    """Hooks at a constant rate in the background; ``answers()`` waits for the end."""

    def __init__(self, port: int, file: Path, *, cpus: str, rate: float, seconds: float, run: int, apps: int) -> None:
        command = [
            *("taskset", "-c", cpus, sys.executable, "-m", "tests.bench.rate", str(port), str(file)),
            *("--rate", str(rate), "--seconds", str(seconds), "--run", str(run), "--apps", str(apps)),
        ]
        self._limit = seconds + 60
        self._process = subprocess.Popen(
            command,
            env=OWN_ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> RateRun:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def answers(self) -> Answers:
        """Wait for the end; raises LoadError if a hook went without an answer."""
        output, errors = self._process.communicate(timeout=self._limit)
        if self._process.returncode != 0:
            raise LoadError(f"the load at a constant rate failed: {errors.strip()[-500:]}")
        fields: dict[str, Any] = json.loads(output)
        answers = Answers(**fields)
        if answers.unanswered or set(answers.statuses) != {"200"}:
            raise LoadError(f"hooks at a constant rate: {answers.statuses}, {answers.unanswered} without an answer")
        return answers


def _output(command: Sequence[str], limit: float) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    if done.returncode != 0:
        raise LoadError(f"{command[3]} failed: {(done.stdout + done.stderr).strip()[-500:]}")
    return done.stdout
