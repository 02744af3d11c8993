"""A gateway under a steady load with faults in it, for minutes: ``make soak``, or ``soak.py --minutes 6``.

Prints a line a minute and fails if a hook was not answered as it should be, or if memory, file descriptors or threads
have grown from the first third of the time to the last. Everything runs on loopback and in processes of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.gateways import RunningGateway, running_gateway

FAULTS: Final = ("error", "html", "half", "reset", "hang", "refused", "not-json", "client-leaves", "unknown")
FAULTS_IN_HUNDRED: Final = 5
CALLERS: Final = 24
SAMPLE_EVERY: Final = 5.0
"""Seconds."""
BACKEND_DELAY: Final = 0.004
HANG: Final = 1.0
SLACK_MEMORY: Final = 6 * 2**20
"""Bytes that a process may be larger in the last third than it ever was in the first."""
SLACK_FILES: Final = 12
EXPECTED: Final = {"ok": 200, "not-json": 400}
"""Every other hook is a 403."""


# --- the backend ---


async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection of a backend whose path names what goes wrong."""
    # Cancelled is what still runs at the end: asyncio would log that.
    with contextlib.suppress(ConnectionError, EOFError, TimeoutError, asyncio.CancelledError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length[15:]))
            if not await answer(head.split(b" ", 2)[1].split(b"/")[1].decode(), writer):
                break
    writer.transport.abort()


async def answer(kind: str, writer: asyncio.StreamWriter) -> bool:
    """Play one fault, or none; whether the connection goes on."""
    body, status, length = b'{"ok":true}', b"200 OK", 11
    await asyncio.sleep(BACKEND_DELAY)
    if kind == "hang":
        await asyncio.sleep(HANG)
        return False
    if kind == "reset":
        return False
    if kind == "error":
        status = b"500 Internal Server Error"
    elif kind == "html":
        body, length = b"<b>Fatal error</b>", 18
    elif kind == "half":
        length = 100
    writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, length, body))
    await writer.drain()
    return kind != "half"


# --- the callers ---


@dataclass
class Tally:
    """What the hooks since the last line have met."""

    seconds: list[float] = field(default_factory=list)
    """Of the hooks without a fault."""
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Caller:
    """A keep-alive connection of a media server's."""

    def __init__(self, address: str, tally: Tally) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self.tally = tally
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, kind: str, number: int) -> None:
        """Send one hook of this kind and look at its answer."""
        began = time.perf_counter()
        self.tally.kinds[kind] += 1
        try:
            async with asyncio.timeout(10):
                status = await self._ask(kind, number)
        except (OSError, EOFError, TimeoutError) as exc:
            self.close()
            self.tally.wrong.append(f"{kind}: no answer ({exc!r})")
            return
        if status is None:
            return
        if status != EXPECTED.get(kind, 403):
            self.tally.wrong.append(f"{kind}: {status}")
        if kind == "ok":
            self.tally.seconds.append(time.perf_counter() - began)

    async def _ask(self, kind: str, number: int) -> int | None:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        padding = "x" * random.randrange(100, 6000)
        body = json.dumps({"appKey": kind, "callId": f"c{number}", "padding": padding}).encode()
        if kind == "not-json":
            body = body[:-1]
        head = b"POST /rest/my_api/OnCallEvent HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % len(body)
        if kind == "client-leaves":
            writer.write(head + body[: number % len(body)])
            await writer.drain()
            self.close()
            return None
        writer.write(head + body)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
        await reader.readexactly(int(headers[b"content-length"]))
        if headers.get(b"connection") == b"close":
            self.close()
        return int(first.split(b" ")[1])

    def close(self) -> None:
        """End the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def calls(caller: Caller, numbers: itertools.count[int], pause: float, stop: asyncio.Event) -> None:
    """Hooks at an even pace, a few of them with a fault, until told to stop."""
    faults = itertools.cycle(random.sample(FAULTS, len(FAULTS)))
    while not stop.is_set():
        began = time.monotonic()
        faulty = random.randrange(100) < FAULTS_IN_HUNDRED
        await caller.call(next(faults) if faulty else "ok", next(numbers))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), max(0.001, began + pause * random.uniform(0.5, 1.5) - time.monotonic()))
    caller.close()


# --- the samples ---


@dataclass(frozen=True)
class Sample:
    """The gateway's processes at one moment, added up."""

    memory: int
    """Bytes of resident memory."""
    files: int
    threads: int


def sample(pids: Sequence[int]) -> Sample:
    """Look at the processes."""
    memory = files = threads = 0
    for pid in pids:
        process = Path(f"/proc/{pid}")
        memory += int((process / "statm").read_text().split()[1]) * resource.getpagesize()
        files += len(os.listdir(process / "fd"))
        threads += len(os.listdir(process / "task"))
    return Sample(memory, files, threads)


def processes(gateway: RunningGateway) -> list[int]:
    """The supervisor and its workers."""
    children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
    return [gateway.pid, *map(int, children)]


def growth(samples: Sequence[Sample], processes: int) -> list[str]:
    """What has grown from the first third to the last."""
    third = len(samples) // 3
    if third == 0:
        return ["too few samples were taken"]
    first, last = samples[:third], samples[-third:]
    found = []
    for name, slack in (("memory", SLACK_MEMORY * processes), ("files", SLACK_FILES), ("threads", 4)):
        before = max(getattr(one, name) for one in first)
        after = statistics.median(getattr(one, name) for one in last)
        if after > before + slack:
            found.append(f"{name} grew from {before:,} to {after:,.0f}")
    return found


def line(minute: int, tally: Tally, now: Sample) -> str:
    """A minute as a row of the table."""
    times = sorted(tally.seconds) or [0.0]
    p50, p99 = (times[min(len(times) - 1, int(len(times) * share))] * 1000 for share in (0.5, 0.99))
    hooks, faulty = sum(tally.kinds.values()), sum(tally.kinds.values()) - tally.kinds["ok"]
    return (
        f"| {minute:6} | {hooks:6} | {faulty:6} | {len(tally.wrong):5} | {p50:6.1f} | {p99:6.1f} "
        f"| {now.memory / 2**20:7.1f} | {now.files:5} | {now.threads:7} |"
    )


TITLE: Final = """\
| minute |  hooks | faulty | wrong | p50 ms | p99 ms | RSS MiB | files | threads |
|-------:|-------:|-------:|------:|-------:|-------:|--------:|------:|--------:|"""


# --- the run ---


@contextlib.asynccontextmanager
async def backend() -> AsyncIterator[int]:
    """The backend's port."""
    server = await asyncio.start_server(play, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def configuration(port: int, workers: int) -> str:
    """An upstream for each fault, so that none has another's breaker."""
    kinds = ("ok", *(fault for fault in FAULTS if fault != "unknown"))
    ports = {"refused": 1}
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": workers},
            "defaults": {"timeout": "500ms"},
            "upstreams": {kind: {"url": f"http://127.0.0.1:{ports.get(kind, port)}/{kind}"} for kind in kinds},
            "apps": {kind: {"upstream": kind} for kind in kinds} | {"ok": {"upstream": "ok", "timeout": "5s"}},
        }
    )


async def soak(minutes: float, rate: float, workers: int, directory: Path) -> list[str]:
    """Run it, print the table; what is wrong."""
    async with backend() as port:
        with running_gateway(configuration(port, workers), directory) as gateway:
            pids = processes(gateway)
            stop, tally = asyncio.Event(), Tally()
            callers = [Caller(gateway.hooks, tally) for _ in range(CALLERS)]
            numbers = itertools.count()
            tasks = [asyncio.create_task(calls(caller, numbers, CALLERS / rate, stop)) for caller in callers]
            samples: list[Sample] = []
            wrong: list[str] = []
            print(TITLE, flush=True)
            began = time.monotonic()
            for minute in itertools.count(1):
                until = min(began + minute * 60, began + minutes * 60)
                while time.monotonic() < until:
                    await asyncio.sleep(min(SAMPLE_EVERY, max(0.1, until - time.monotonic())))
                    if time.monotonic() > began + 20:  # once every path has been taken
                        samples.append(sample(pids))
                print(line(minute, tally, sample(pids)), flush=True)
                wrong += tally.wrong
                tally = Tally()
                for caller in callers:
                    caller.tally = tally
                if until >= began + minutes * 60:
                    break
            stop.set()
            await asyncio.gather(*tasks)
            if processes(gateway) != pids:
                wrong.append("a worker has died")
            gateway.log.write_bytes(b"")  # it is large
    return wrong + growth(samples, len(pids))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (20)")
    parser.add_argument("--rate", type=float, default=200.0, help="hooks a second (200)")
    parser.add_argument("--workers", type=int, default=2, help="the gateway's (2)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        wrong = asyncio.run(soak(arguments.minutes, arguments.rate, arguments.workers, Path(directory)))
    for what, times in Counter(wrong).most_common(20):
        print(f"WRONG ({times} times): {what}")
    if wrong:
        raise SystemExit(1)
    print("Nothing has grown, and every hook was answered as it should be.")


if __name__ == "__main__":
    main()
