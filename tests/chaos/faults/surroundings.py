"""Backends that misbehave, disks without room."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator

from tests.chaos.faults.registry import fault
from tests.chaos.modes import MIX, MODES, REFUSE
from tests.chaos.stage import Stage

# --- the backend ---


@contextlib.contextmanager
def _sick(stage: Stage, mode: str) -> Iterator[None]:
    window = stage.windows.open("sick", time.monotonic())
    stage.counts[f"backend: {mode}"] += 1
    stage.backend.tell(mode)
    try:
        yield
    finally:
        stage.backend.tell("ok")
        window[1] = time.monotonic() + 1.0


@fault("backend")
async def misbehaves(stage: Stage, dice: random.Random) -> None:
    """One way of going wrong, for every hook."""
    with _sick(stage, dice.choice(sorted(set(MODES) - {"ok"}))):
        await asyncio.sleep(dice.uniform(1.0, 4.0))


@fault("backend")
async def misbehaves_in_every_way(stage: Stage, dice: random.Random) -> None:
    """All ways at once, each hook another."""
    with _sick(stage, MIX):
        await asyncio.sleep(dice.uniform(2.0, 5.0))


@fault("backend")
async def refuses(stage: Stage, dice: random.Random) -> None:
    """Nobody listens."""
    with _sick(stage, REFUSE):
        await asyncio.sleep(dice.uniform(0.5, 3.0))


@fault("backend")
async def flaps(stage: Stage, dice: random.Random) -> None:
    """There and away by turns."""
    for _ in range(4):
        with _sick(stage, REFUSE):
            await asyncio.sleep(dice.uniform(0.05, 0.5))
        await asyncio.sleep(dice.uniform(0.05, 0.5))


# --- disks ---


async def _full(stage: Stage, dice: random.Random, name: str) -> None:
    disk = stage.disks.get(name)
    if disk is None:
        return
    await asyncio.to_thread(disk.fill)
    try:
        await asyncio.sleep(dice.uniform(1.0, 3.0))
    finally:
        disk.free()


@fault("disks")
async def recording_has_no_room(stage: Stage, dice: random.Random) -> None:
    """The disk of the recording is full."""
    await _full(stage, dice, "record")


@fault("disks")
async def log_has_no_room(stage: Stage, dice: random.Random) -> None:
    """The disk of the log is full."""
    await _full(stage, dice, "log")


@fault("disks")
async def recording_is_deleted(stage: Stage, dice: random.Random) -> None:
    """Somebody deletes the recording under the gateway."""
    for path in (stage.directory / "record").glob("hooks.jsonl*"):
        path.unlink(missing_ok=True)
    await asyncio.sleep(dice.uniform(0.0, 0.5))
