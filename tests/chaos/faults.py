"""The faults, by class. Each begins, lasts a while, and is over when its function returns: it leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from chaos import processes
from chaos.configs import BROKEN, Rules, half_of, other_rules, text_of
from chaos.facts import STRANGER_NET, Held
from chaos.modes import MIX, MODES, REFUSE
from chaos.stage import BACK_WITHIN, Stage, connections

Fault = Callable[[Stage, random.Random], Awaitable[None]]
FAULTS: Final[dict[str, dict[str, Fault]]] = {}
"""Faults by class, then by name."""
PROBE_WITHIN: Final = 3.0
"""Seconds in which a probe is answered, whatever goes on."""
WATCHED: Final = 3.0
"""Seconds in which the gateway would have taken a file by itself."""


def fault(of: str) -> Callable[[Fault], Fault]:
    """Enter a fault in its class."""

    def enter(function: Fault) -> Fault:
        FAULTS.setdefault(of, {})[function.__name__] = function
        return function

    return enter


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


# --- the configuration ---


async def _trigger(stage: Stage, dice: random.Random, how: str | None = None) -> int:
    """Have the file read: by a signal, by a request, or by nobody; the status of a request's answer, else 0."""
    how = how or dice.choice(("signal", "request", "watch"))
    if how == "signal":
        with contextlib.suppress(ProcessLookupError):
            stage.gateway.send_signal(signal.SIGHUP)
    elif how == "request":
        answer = await stage.ask("/-/reload", "POST", timeout=15.0)
        if answer is None or answer.status_code in (403, 503):
            word = stage.last_refusal if answer is None else answer.status_code
            stage.wrong("operator", f"POST /-/reload got {word}")
        return 0 if answer is None else answer.status_code
    return 0


def _next(stage: Stage, dice: random.Random) -> Rules:
    stage.counts["configurations"] += 1
    return other_rules(stage.counts["configurations"], dice)


@fault("configuration")
async def good_by_rename(stage: Stage, dice: random.Random) -> None:
    """A good file, as editors and Kubernetes put it."""
    async with stage.files:
        rules = _next(stage, dice)
        stage.history.may_come(rules, time.monotonic())
        stage.write(text_of(rules, stage.place), rename=True)
        await _trigger(stage, dice)
        await stage.in_force(rules)


@fault("configuration")
async def good_in_place(stage: Stage, dice: random.Random) -> None:
    """A good file written over the old one."""
    async with stage.files:
        rules = _next(stage, dice)
        stage.history.may_come(rules, time.monotonic())
        stage.write(text_of(rules, stage.place), rename=False)
        await _trigger(stage, dice)
        await stage.in_force(rules)


@fault("configuration")
async def good_in_halves(stage: Stage, dice: random.Random) -> None:
    """A good file written in two parts, valid at the cut: half of it must never be taken by itself."""
    async with stage.files:
        rules = _next(stage, dice)
        text = text_of(rules, stage.place)
        half = half_of(text)
        stage.write(half, rename=False)
        await asyncio.sleep(dice.uniform(0.4, 1.3))
        stage.history.may_come(rules, time.monotonic())
        with stage.config.open("a") as file:
            file.write(text[len(half) :])
        await _trigger(stage, dice)
        await stage.in_force(rules)


@fault("configuration")
async def several_at_once(stage: Stage, dice: random.Random) -> None:
    """Good files faster than they can be taken."""
    async with stage.files:
        for _ in range(dice.randrange(3, 8)):
            rules = _next(stage, dice)
            stage.history.may_come(rules, time.monotonic())
            stage.write(text_of(rules, stage.place), rename=True)
            await _trigger(stage, dice, "signal")
            await asyncio.sleep(dice.uniform(0.0, 0.3))
        await stage.in_force(rules)


@fault("configuration")
async def broken(stage: Stage, dice: random.Random) -> None:
    """A broken file, asked for in every way; the one in force stays, and the mended file is taken."""
    kind = dice.choice(sorted(BROKEN))
    stage.counts[f"broken: {kind}"] += 1
    async with stage.files:
        good = stage.history.newest
        stage.write(BROKEN[kind](text_of(good, stage.place)), rename=dice.random() < 0.5)
        status = await _trigger(stage, dice, "request")
        if status == 200:
            stage.wrong("broken_taken", f"a configuration that is broken ({kind}) was taken")
        if dice.random() < 0.5:
            await _trigger(stage, dice, "signal")
            await asyncio.sleep(dice.uniform(0.5, WATCHED))
        await _restore(stage, dice, good)


@fault("configuration")
async def away(stage: Stage, dice: random.Random) -> None:
    """No file at all, or a directory in its place."""
    async with stage.files:
        good = stage.history.newest
        stage.config.unlink()
        directory = dice.random() < 0.5
        if directory:
            stage.config.mkdir()
        if await _trigger(stage, dice) == 200:
            stage.wrong("broken_taken", "a configuration that is not there was taken")
        await asyncio.sleep(dice.uniform(0.3, 1.5))
        if directory:
            stage.config.rmdir()
        await _restore(stage, dice, good)


async def _restore(stage: Stage, dice: random.Random, good: Rules) -> None:
    """Put a good file there, another one than before, and see it taken."""
    rules = Rules(f"{good.revision}x", good.apps, good.recording)
    stage.history.may_come(rules, time.monotonic())
    stage.write(text_of(rules, stage.place), rename=True)
    await _trigger(stage, dice)
    await stage.in_force(rules)


@fault("reloads")
async def in_a_burst(stage: Stage, dice: random.Random) -> None:
    """Reloads of the same file, by signals and requests together."""
    async with stage.files:
        for _ in range(dice.randrange(5, 15)):
            await _trigger(stage, dice, dice.choice(("signal", "request")))
            await asyncio.sleep(dice.uniform(0.0, 0.1))


# --- certificates ---


@fault("certificates")
async def spoilt(stage: Stage, dice: random.Random) -> None:
    """Certificate or key spoilt for a moment, while a reload comes by."""
    if stage.certificates is None:
        return
    async with stage.files:
        path = dice.choice((stage.certificate, stage.key))
        good = path.read_bytes()
        bad = dice.choice((b"", good[: len(good) // 2], b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"\x00" * 64))
        path.write_bytes(bad)
        await _trigger(stage, dice)
        await asyncio.sleep(dice.uniform(0.0, 0.5))
        path.write_bytes(good)
        await _trigger(stage, dice, "request")


@fault("certificates")
async def renewed(stage: Stage, dice: random.Random) -> None:
    """A new pair, one file after the other, while a reload comes by."""
    if stage.certificates is None:
        return
    async with stage.files:
        pair = dice.choice(stage.certificates).valid
        for path, new in zip((stage.certificate, stage.key), pair, strict=True):
            fresh = path.with_suffix(".fresh")
            fresh.write_bytes(new.read_bytes())
            os.replace(fresh, path)
            await _trigger(stage, dice, dice.choice(("signal", "watch")))
            await asyncio.sleep(dice.uniform(0.0, 0.3))
        await _trigger(stage, dice, "request")
        if not await stage.shows(pair[0]):
            stage.wrong("certificate", "the renewed certificate is not the one that is shown")


@fault("certificates")
async def mismatched(stage: Stage, dice: random.Random) -> None:
    """The certificate of one pair beside the key of another; then whole again, in place."""
    if stage.certificates is None:
        return
    async with stage.files:
        ours, theirs = stage.certificates
        stage.certificate.write_bytes(ours.valid[0].read_bytes())
        stage.key.write_bytes(theirs.valid[1].read_bytes())
        await _trigger(stage, dice, "request")
        await asyncio.sleep(dice.uniform(0.0, 0.5))
        stage.key.write_bytes(ours.valid[1].read_bytes())
        await _trigger(stage, dice, "request")


# --- strangers ---

_HEAD: Final = b"POST /rest/my_api/OnCallEvent HTTP/1.1\r\nHost: gw\r\n"
_HOOK: Final = b'{"appKey":"untouched","callId":"stranger-1"}'
_STRANGE: Final = {
    "idle": b"",
    "half a head": _HEAD,
    "half a body": _HEAD + b"Content-Length: 3600\r\n\r\n{" + b" " * 1000,
    "a hook": _HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(_HOOK), _HOOK),
    "half a TLS hello": bytes.fromhex("16030100c8010000c40303") + bytes(40),
    "TLS garbage": bytes.fromhex("1603010020") + bytes(range(32)),
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "noise": bytes(number * 7 % 256 for number in range(300)),
}


@fault("strangers")
async def a_few(stage: Stage, dice: random.Random) -> None:
    """Some connections from addresses that may not send hooks, each with something else."""
    await _strangers(stage, dice, dice.randrange(10, 60), 4)


@fault("strangers")
async def a_crowd(stage: Stage, dice: random.Random) -> None:
    """More connections than clients are granted altogether, from many addresses."""
    await _strangers(stage, dice, dice.randrange(200, 300), 40)


@fault("strangers")
async def one_insists(stage: Stage, dice: random.Random) -> None:
    """One address with as many connections as it can get, each closed at once and made again."""
    source = f"{STRANGER_NET}{dice.randrange(2, 250)}"
    for _ in range(4):
        async with _connected(stage.hooks, 60, source) as socks:
            for sock in socks:
                _say(sock, _STRANGE[dice.choice(list(_STRANGE))])
        await asyncio.sleep(0.1)


async def _strangers(stage: Stage, dice: random.Random, count: int, addresses: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for number in range(addresses):
            source = f"{STRANGER_NET}{2 + number}"
            socks = await stack.enter_async_context(_connected(stage.hooks, count // addresses, source))
            for sock in socks:
                _say(sock, _STRANGE[dice.choice(list(_STRANGE))])
        await asyncio.sleep(dice.uniform(1.0, 3.0))


@contextlib.asynccontextmanager
async def _connected(port: int, count: int, source: str):  # type: ignore[no-untyped-def]
    opened = connections("127.0.0.1", port, count, source)
    socks = await asyncio.to_thread(opened.__enter__)
    try:
        yield socks
    finally:
        opened.__exit__(None, None, None)


def _say(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        sock.send(data)


# --- the admin port ---


async def _crowd(stage: Stage, dice: random.Random, count: int, said: bytes) -> None:
    """Hold the admin port's connections, and see that probes and operators get through."""
    async with _connected(stage.admin, count, "127.0.0.1") as socks:
        for sock in socks:
            _say(sock, said)
        until = time.monotonic() + dice.uniform(1.0, 3.0)
        while time.monotonic() < until:
            for path in ("/-/healthy", "/-/ready", "/metrics"):
                answer = await stage.ask(path, timeout=PROBE_WITHIN)
                if answer is None or answer.status_code not in (200, 503):
                    word = stage.last_refusal if answer is None else answer.status_code
                    stage.wrong("probe", f"{path} got {word} beside {len(socks)} other connections")
            await asyncio.sleep(0.2)


@fault("admin")
async def idle_crowd(stage: Stage, dice: random.Random) -> None:
    """More connections than the admin port has places, saying nothing."""
    await _crowd(stage, dice, dice.randrange(64, 160), b"")


@fault("admin")
async def half_requests(stage: Stage, dice: random.Random) -> None:
    """The same, each with half a request."""
    await _crowd(stage, dice, dice.randrange(64, 100), b"GET /metrics HTTP/1.1\r\nHost: loc")


@fault("admin")
async def consoles(stage: Stage, dice: random.Random) -> None:
    """The same, each a console that watches."""
    await _crowd(stage, dice, dice.randrange(64, 80), b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")


@fault("admin")
async def posts_without_body(stage: Stage, dice: random.Random) -> None:
    """Requests whose body does not come."""
    await _crowd(stage, dice, 30, b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")


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
