"""Workers that are killed, stopped and starved; signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import time

from tests.chaos import processes
from tests.chaos.facts import Held
from tests.chaos.faults.registry import fault
from tests.chaos.stage import BACK_WITHIN, Stage

# --- workers ---


def _hold(stage: Stage, pid: int, kind: str) -> Held:
    """Stop a worker, and note which connections it has: none can come to it meanwhile."""
    begun = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    while not processes.is_stopped(pid) and time.monotonic() < begun + 0.2:
        time.sleep(0.0005)
    held = Held(kind, pid, processes.peers(pid, stage.hooks), begun, begun)
    stage.held.append(held)
    return held


def _kill(stage: Stage, pid: int) -> None:
    held = _hold(stage, pid, "killed")
    stage.expected_deaths.add(pid)
    os.kill(pid, signal.SIGKILL)
    while processes.is_alive(pid) and time.monotonic() < held.begun + 2:
        time.sleep(0.001)  # its connections end a moment later than kill() does
    stage.held[stage.held.index(held)] = held.until(time.monotonic())


@fault("workers")
async def kill(stage: Stage, dice: random.Random) -> None:
    """kill -9 of one worker."""
    if workers := stage.workers():
        _kill(stage, dice.choice(workers))
    await stage.both_serve()


@fault("workers")
async def kill_all(stage: Stage, dice: random.Random) -> None:
    """Every worker at once: until one is there again, connections are refused, and none hangs."""
    window = stage.windows.open("nobody", time.monotonic())
    for pid in stage.workers():
        _kill(stage, pid)
    deadline = time.monotonic() + BACK_WITHIN
    while await stage.call() is None and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    window[1] = time.monotonic()
    await stage.both_serve()


@fault("workers")
async def kill_again(stage: Stage, dice: random.Random) -> None:
    """A worker and its successors, each as soon as it is there."""
    workers = stage.workers()
    if not workers:
        return
    survivor = dice.choice(workers)
    for _ in range(dice.randrange(2, 4)):
        victims = [pid for pid in stage.workers() if pid != survivor]
        if victims:
            _kill(stage, victims[0])
        await stage.until(lambda: [pid for pid in stage.workers() if pid != survivor], 3.0)
        await asyncio.sleep(dice.uniform(0.0, 0.8))
    await stage.both_serve()


async def _stop(stage: Stage, pid: int, seconds: float) -> None:
    held = _hold(stage, pid, "stopped")
    index = stage.held.index(held)
    stage.held[index] = held = held.until(held.begun + seconds)
    if seconds > 1.5:
        stage.expected_deaths.add(pid)
    deadline = held.begun + seconds
    while time.monotonic() < deadline and processes.is_alive(pid):
        await asyncio.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    # What it held may be read only now, and a configuration that it has missed.
    stage.held[index] = held.until(time.monotonic() + 0.5)


@fault("workers")
async def stop_shortly(stage: Stage, dice: random.Random) -> None:
    """SIGSTOP, and SIGCONT before anybody gives the worker up."""
    if workers := stage.workers():
        await _stop(stage, dice.choice(workers), dice.uniform(0.2, 1.2))


@fault("workers")
async def stop_long(stage: Stage, dice: random.Random) -> None:
    """SIGSTOP for longer than a silent worker is left alone."""
    if workers := stage.workers():
        await _stop(stage, dice.choice(workers), dice.uniform(3.0, 6.0))
    await stage.both_serve()


@fault("workers")
async def few_descriptors(stage: Stage, dice: random.Random) -> None:
    """The soft limit of open files of a running worker, lowered to what it has open.

    Not while a reload comes by: that shares out what the limit has room for, and rightly refuses the rest.
    """
    async with stage.files:
        workers = stage.workers()
        if not workers:
            return
        pid = dice.choice(workers)
        with contextlib.suppress(OSError, ValueError):
            soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            have = processes.figures(pid)
            if have is None:
                return
            window = stage.windows.open("descriptors", time.monotonic())
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (have.files + dice.randrange(0, 6), hard))
            await asyncio.sleep(dice.uniform(1.0, 3.0))
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
            await asyncio.sleep(1.5)  # a listener is looked at again after a second
            window[1] = time.monotonic()


# --- signals ---


@fault("signals")
async def to_the_supervisor(stage: Stage, dice: random.Random) -> None:
    """Signals that mean nothing to a gateway, and that end a process which does not say so."""
    for _ in range(3):
        number = dice.choice((signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGWINCH))
        with contextlib.suppress(ProcessLookupError):
            os.kill(stage.gateway.pid, number)
        await asyncio.sleep(dice.uniform(0.05, 0.5))
    await stage.ask("/-/undrain", "POST")


@fault("signals")
async def to_a_worker(stage: Stage, dice: random.Random) -> None:
    """What a service manager or a terminal sends to the whole group."""
    for _ in range(3):
        number = dice.choice((signal.SIGHUP, signal.SIGPIPE, signal.SIGWINCH, signal.SIGUSR1))
        if workers := stage.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(workers), number)
        await asyncio.sleep(dice.uniform(0.05, 0.5))


@fault("signals")
async def drain(stage: Stage, dice: random.Random) -> None:
    """Drained, so that every answer ends its connection, and undrained."""
    await stage.ask("/-/drain", "POST")
    await asyncio.sleep(dice.uniform(0.3, 1.5))
    await stage.ask("/-/undrain", "POST")
