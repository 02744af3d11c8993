"""PHP is down for a third of the time, and every call is billed all the same.

``make rehearsal SPOOL=1``, or ``python -m tests.rehearsal.outage``: a gateway with a spool before a real PHP under
Apache, and calls whose events PHP bills into a file. An hour is played in three minutes; PHP is stopped after the first
third and started again after the second. Prints a Markdown table, and ends with 1 if an event is missing, billed twice,
or billed before one that came before it. It asserts nothing of times.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import pytest

from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.programs import apache_php, free_port

SEED: Final = 20261130
STATUSES: Final = ("TRYING", "RING", "ESTABLISHED", "HOLD", "ESTABLISHED", "FINISH")
"""What a call's events say, in this order."""
PARTS: Final = ("before", "during the outage", "after")
PHP_WORKERS: Final = 8
EMPTY_LIMIT: Final = 120.0
"""Seconds for the spool to become empty, however slow the machine."""
_HEADERS: Final = {"Content-Type": "application/json;charset=UTF-8", "User-Agent": "Java/1.8.0_111"}


class Event(NamedTuple):
    """An event of a call, as the media server sees it."""

    call: str
    number: int
    """Its place among the events of its call."""
    status: int
    """Of the answer to it; 0: there was none."""


class Billed(NamedTuple):
    """A line that PHP has written."""

    time: float
    method: str
    call: str
    status: str
    """What the event says, with its number."""
    key: str | None
    redelivery: str | None
    event_time: str | None
    repeat: bool
    """Whether PHP had billed it before, and so did not bill it again."""


class Part(NamedTuple):
    """What became of the hooks of one third, or of all so far."""

    hooks: int
    sources: Counter[str]


class Outcome(NamedTuple):
    """All of it."""

    parts: list[Part]
    events: list[Event]
    billed: list[Billed]
    emptied_after: float | None
    """Seconds from PHP's return until nothing waited; None: it never came to that."""


def configuration(url: str, directory: Path) -> str:
    """Questions pass while PHP is down, events wait for it."""
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "store": {"url": f"sqlite:///{directory}/store.db"},
            "defaults": {"timeout": "3s", "fallback": "allow", "spool": {"max_age": "24h"}},
            "upstreams": {"php": {"url": url, "max_connections": 4 * PHP_WORKERS}},
            "apps": {"defaultApp": {"upstream": "php"}},
        }
    )


@contextlib.contextmanager
def billing(directory: Path) -> Iterator[tuple[Path, Path]]:
    """The script, and the file that it writes, in which every user may write: Apache's is an ordinary one."""
    file = directory / "billing.jsonl"
    file.touch()
    file.chmod(0o666)
    directory.chmod(0o711)
    script = directory / "billing.php"
    script.write_text(Path(__file__).with_name("billing.php").read_text().replace("@BILLING@", str(file)))
    yield script, file


def play(calls: int, seconds: float) -> Outcome:
    """Play it with so many calls, in so many seconds and what redelivery takes."""
    with (
        tempfile.TemporaryDirectory(prefix="wcs-outage-") as name,
        billing(Path(name)) as (script, file),
        contextlib.ExitStack() as php,
    ):
        directory, port = Path(name), free_port()

        def start() -> str:
            backend = apache_php(workers=PHP_WORKERS, keep_alive=False, script=script, port=port)
            return php.enter_context(backend).url

        with running_gateway(configuration(start(), directory), directory) as gateway:
            assert wait_until(lambda: gateway.get("/api/spool").json()["store"]["up"]), gateway.log.read_text()
            with MediaServer(gateway.url, calls, seconds) as sender:
                marks = [_mark(gateway, sender)]
                sender.wait(seconds / 3)
                marks.append(_mark(gateway, sender))
                php.close()
                sender.wait(seconds / 3)
                start()
                back = time.monotonic()
                marks.append(_mark(gateway, sender))
                emptied = _wait_until_empty(gateway, back, EMPTY_LIMIT)
            _wait_until_empty(gateway, back, EMPTY_LIMIT)
            marks.append(_mark(gateway, sender))
            parts = [
                Part(after.hooks - before.hooks, after.sources - before.sources) for before, after in pairwise(marks)
            ]
        billed = [Billed(**json.loads(line)) for line in file.read_text().splitlines()]
        return Outcome(parts, sender.events, billed, emptied)


class MediaServer:
    """Calls, each at its own pace, sent in a thread of its own; the block ends with the last answer."""

    def __init__(self, url: str, calls: int, seconds: float) -> None:
        self.events: list[Event] = []
        """In the order of their answers."""
        self.hooks = 0
        self._url = url
        self._calls = calls
        self._seconds = seconds
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> MediaServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.wait(None)

    def wait(self, seconds: float | None) -> None:
        """Wait so many seconds, or for the last answer."""
        self._thread.join(seconds)

    async def _run(self) -> None:
        dice = random.Random(SEED)
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        calls = [
            (dice.uniform(0, 0.85 * self._seconds), dice.uniform(0.05, 0.15) * self._seconds)
            for _ in range(self._calls)
        ]
        async with httpx.AsyncClient(trust_env=False, timeout=15.0, limits=limits, headers=_HEADERS) as client:
            await asyncio.gather(*(self._call(client, number, *times) for number, times in enumerate(calls)))

    async def _call(self, client: httpx.AsyncClient, number: int, start: float, length: float) -> None:
        """The hooks of one call, each after the answer to the one before."""
        await asyncio.sleep(start)
        fields = {"appKey": "defaultApp", "sessionId": f"/198.51.100.7:{20000 + number}/192.0.2.10:8443"}
        await self._ask(client, "connect", fields)
        call = f"{number:04}@192.0.2.20"
        fields |= {"callId": call, "caller": "+447700900123", "callee": "1000"}
        await self._ask(client, "OnCallEvent", {**fields, "status": "PENDING"})
        for place, status in enumerate(STATUSES):
            await asyncio.sleep(length / len(STATUSES))
            body = {**fields, "status": f"{place} {status}"}
            self.events.append(Event(call, place, await self._ask(client, "CallStatusEvent", body)))

    async def _ask(self, client: httpx.AsyncClient, method: str, fields: dict[str, str]) -> int:
        self.hooks += 1
        try:
            return (await client.post(f"{self._url}/{method}", content=json.dumps(fields).encode())).status_code
        except httpx.HTTPError:
            return 0


def _mark(gateway: RunningGateway, sender: MediaServer) -> Part:
    """What there is so far."""
    return Part(sender.hooks, _sources(gateway))


def _sources(gateway: RunningGateway) -> Counter[str]:
    """Hooks so far by who decided them."""
    found = {
        source: gateway.metric("gateway_hooks_total", source=source) for source in ("backend", "fallback", "spool")
    }
    return Counter({source: round(count) for source, count in found.items()})


def _wait_until_empty(gateway: RunningGateway, since: float, limit: float) -> float | None:
    """Seconds from *since* until nothing waited, or None."""
    waited: bool = wait_until(lambda: gateway.get("/api/spool").json()["events"] == 0, limit)
    return time.monotonic() - since if waited else None


# --- the judge ---


def faults(events: Sequence[Event], billed: Sequence[Billed]) -> list[str]:
    """What is wrong with the bill; nothing, if each event is in it once, in the order of its call."""
    found = [f"event {event.number} of {event.call} got {event.status}" for event in events if event.status != 200]
    times: dict[tuple[str, int], int] = defaultdict(int)
    last: dict[str, int] = {}
    for line in billed:
        if line.repeat:
            continue
        number = int(line.status.partition(" ")[0])
        times[line.call, number] += 1
        if number < last.get(line.call, -1):
            found.append(f"event {number} of {line.call} was billed after event {last[line.call]}")
        last[line.call] = number
    sent = {(event.call, event.number) for event in events}
    found += [f"event {number} of {call} is missing" for call, number in sorted(sent - times.keys())]
    found += [f"event {number} of {call} was never sent" for call, number in sorted(times.keys() - sent)]
    found += [f"event {number} of {call} was billed {n} times" for (call, number), n in sorted(times.items()) if n > 1]
    return found


def table(outcome: Outcome) -> str:
    """What happened, in Markdown."""
    lines = ["| third | hooks | answered by PHP | by fallback | kept |", "|---|--:|--:|--:|--:|"]
    for name, part in zip(PARTS, outcome.parts, strict=True):
        counts = (part.sources[source] for source in ("backend", "fallback", "spool"))
        lines.append(f"| {name} | {part.hooks} | {' | '.join(map(str, counts))} |")
    bills = [line for line in outcome.billed if not line.repeat]
    later = sum(line.redelivery is not None for line in bills)
    emptied = "never" if outcome.emptied_after is None else f"{outcome.emptied_after:.1f} s"
    lines += [
        "",
        "| events | billed | of them redelivered | repeats that PHP ignored | empty after PHP's return |",
        "|--:|--:|--:|--:|--:|",
        f"| {len(outcome.events)} | {len(bills)} | {later} | {len(outcome.billed) - len(bills)} | {emptied} |",
    ]
    return "\n".join(lines)


def main() -> None:
    """Play it, print the tables, and end with 1 if the bill is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=300, help="(300)")
    parser.add_argument("--seconds", type=float, default=180.0, help="in which an hour is played (180)")
    arguments = parser.parse_args()
    try:
        outcome = play(arguments.calls, arguments.seconds)
    except pytest.skip.Exception as exc:  # a program is missing
        print(f"rehearsal: {exc}", file=sys.stderr)
        raise SystemExit(2) from exc
    print(table(outcome))
    found = faults(outcome.events, outcome.billed)
    print(f"\n{arguments.calls} calls: {len(found)} faults in the bill.")
    for fault in found[:20]:
        print(f"FAILED: {fault}")
    if found:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
