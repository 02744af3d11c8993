"""What a run may not leave behind: processes, descriptors, memory, files, and words in the log."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.chaos import processes
from tests.chaos.facts import NUMBER, SDP_MARK, SECRET
from tests.chaos.stage import Stage, is_ours

SETTLE: Final = 15.0
"""Seconds in which everything is back where it was, once nothing is asked any more."""
MORE_FILES: Final = 6
MORE_MEMORY: Final = 40 * 2**20
_FORBIDDEN: Final = {
    "a traceback": re.compile(rb"Traceback \(most recent call last\)"),
    "a hook's body": re.compile(SDP_MARK.encode()),
    "a secret": re.compile(SECRET.encode()),
    "a number that is not masked": re.compile(re.escape(NUMBER.encode())),
    "a private key": re.compile(rb"PRIVATE KEY"),
}
LINES_PER_SECOND: Final = 20
LINES_ANYWAY: Final = 500


class Baseline(NamedTuple):
    """The gateway with nothing to do, after its first hooks."""

    supervisor: processes.Figures
    worker: processes.Figures
    """The most that any worker had."""


async def measure(stage: Stage) -> Baseline | None:
    """The least that the processes come down to while nothing is asked; None where the gateway is gone."""
    supervisors: list[processes.Figures] = []
    workers: list[processes.Figures] = []
    for _ in range(4):
        supervisor = processes.figures(stage.gateway.pid)
        found = [figures for pid in stage.workers() if (figures := processes.figures(pid)) is not None]
        if supervisor is None or not found:
            return None
        supervisors.append(supervisor)
        workers.append(_most(found))
        await asyncio.sleep(0.5)
    return Baseline(_least(supervisors), _least(workers))


def _most(found: list[processes.Figures]) -> processes.Figures:
    return processes.Figures(max(one.files for one in found), max(one.memory for one in found))


def _least(found: list[processes.Figures]) -> processes.Figures:
    return processes.Figures(min(one.files for one in found), min(one.memory for one in found))


async def compare(stage: Stage, before: Baseline) -> list[str]:
    """Wait until it is as it was; a row for each figure. What has grown is a violation."""
    deadline = time.monotonic() + SETTLE
    while True:
        after = await measure(stage)
        if after is None:
            stage.wrong("leftover", "the gateway is not there at the end")
            return []
        grown = _grown(before, after)
        if not grown or time.monotonic() > deadline:
            break
    for what in grown:
        stage.wrong("leftover", what)
    return [
        f"{name}: {old.files} → {new.files} files, {old.memory / 2**20:.0f} → {new.memory / 2**20:.0f} MiB"
        for name, old, new in (
            ("supervisor", before.supervisor, after.supervisor),
            ("worker", before.worker, after.worker),
        )
    ]


def _grown(before: Baseline, after: Baseline) -> list[str]:
    grown = []
    for name, old, new in zip(Baseline._fields, before, after, strict=True):
        if new.files > old.files + MORE_FILES:
            grown.append(f"the {name} has {new.files} files open, {old.files} at first")
        if new.memory > old.memory + MORE_MEMORY:
            grown.append(f"the {name} has {new.memory / 2**20:.0f} MiB, {old.memory / 2**20:.0f} at first")
    return grown


def after_the_end(stage: Stage, status: int | None) -> None:
    """The gateway was told to stop: its status, its processes, its files."""
    if status != 0:
        stage.wrong("leftover", f"the gateway ended with status {status}")
    deadline = time.monotonic() + 3.0
    while (alive := [pid for pid in stage.pids if is_ours(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    if alive:
        stage.wrong("leftover", f"processes that live on: {alive}")
    known = {
        "gateway.yaml",
        "server.pem",
        "server.key",
        "load.jsonl",
        "backend.jsonl",
        "record",
        "log",
        "ours",
        "theirs",
    }
    if strange := sorted(path.name for path in stage.directory.iterdir() if path.name not in known):
        stage.wrong("leftover", f"files beside the configuration: {strange}")
    strange = [path.name for path in (stage.directory / "record").iterdir() if not path.name.startswith("hooks.jsonl")]
    if strange:
        stage.wrong("leftover", f"files beside the recording: {strange}")


def read_log(stage: Stage, log: Path, seconds: float) -> dict[str, Any]:
    """Look through the whole log; how many lines there are."""
    lines = hooks = 0
    with log.open("rb") as file:
        for line in file:
            lines += 1
            hooks += b'"verdict"' in line
            for what, pattern in _FORBIDDEN.items():
                if pattern.search(line):
                    stage.wrong("log", f"{what} in the log: {line[:300]!r}")
    if lines - hooks > LINES_ANYWAY + LINES_PER_SECOND * seconds:
        stage.wrong("log", f"{lines - hooks} lines in {seconds:.0f} s, those of hooks not counted")
    return {"lines": lines, "of hooks": hooks}
