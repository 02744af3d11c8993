"""The callers, a process of their own: ``python -m tests.chaos.load FILE HOST:PORT RATE SEED [CA…]``.

They call as Java's HttpURLConnection does: keep-alive connections, one hook at a time on each, and a POST whose
connection closes before a byte of the answer is sent again, once and silently, on a new connection. Every hook has a
body of its own. Each that has ended is written to FILE. Obeys ``pause``, ``resume`` and ``stop`` on standard input, and
says ``ok`` when that is so; to ``stop`` also how many hooks each app was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import random
import re
import ssl
import sys
import time
from pathlib import Path
from typing import Any, Final, TextIO

from tests.chaos.facts import CALLER, NUMBER, PATIENCE, SDP_MARK, Attempt, Called

CONNECTIONS: Final = {"untouched": 10, "victim": 24}
METHODS: Final = ("OnCallEvent", "OnCallEvent", "OnCallEvent", "call", "connect", "CallStatusEvent", "CallStatusEvent")
IDLE: Final = 5.0
"""Seconds after which Java drops an idle connection."""
MOST_HOOKS: Final = 40
"""On one connection; then a new one is made, so that some are all the time."""
HEARTBEAT: Final = 0.02
_NAMES: Final = re.compile(rb'"answeredTo": ?"([^"]*)"')
_CALL_ID: Final = re.compile(rb'"callId": ?"([^"]*)"')


class Book:
    """What is written down."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.begun: dict[str, int] = {}
        self.lag = 0.0
        self._beats: list[tuple[float, float]] = []

    def write(self, line: dict[str, Any]) -> None:
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()

    async def watch_lag(self) -> None:
        """Note when this process itself was held up."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(HEARTBEAT)
            late = time.monotonic() - before - HEARTBEAT
            if late > 0.01:
                self._beats = [*self._beats[-200:], (before, late)]

    def lag_since(self, begun: float) -> float:
        return max((late for at, late in self._beats if at >= begun - HEARTBEAT), default=0.0)


class Wire(asyncio.Protocol):
    """A connection of a caller's: hands each answer to the waiting caller, and notes what comes unasked."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.transport: asyncio.Transport | None = None
        self.port = 0
        self.data = b""
        self._waiting: asyncio.Future[None] | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:
            self._book.write({"event": "surplus", "port": self.port, "at": time.monotonic(), "bytes": repr(data[:120])})
            return
        self.data += data
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def answer(self) -> tuple[int, dict[str, str], bytes] | None:
        """The next answer; None where the connection ended before it was whole. ValueError for what is no HTTP."""
        try:
            while True:
                self._waiting = asyncio.get_running_loop().create_future()
                if (answer := self._whole()) is not None:
                    return answer
                if self.lost:
                    return None
                await self._waiting
        finally:
            self._waiting = None

    def _whole(self) -> tuple[int, dict[str, str], bytes] | None:
        head, found, rest = self.data.partition(b"\r\n\r\n")
        if not found:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        if not first.startswith("HTTP/1.1 "):
            raise ValueError(first)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers["content-length"])
        if len(rest) < length:
            return None
        if len(rest) > length:
            self._book.write({"event": "surplus", "port": self.port, "at": time.monotonic(),
                              "bytes": repr(rest[length:][:120])})  # fmt: skip
        self.data = b""
        return int(first[9:12]), headers, rest[:length]


class Caller:
    """A thread of the media server's: one keep-alive connection, one hook at a time."""

    def __init__(self, app: str, host: str, port: int, tls: ssl.SSLContext | None, book: Book, dice: random.Random):
        self._app, self._host, self._port, self._tls, self._book, self._dice = app, host, port, tls, book, dice
        self._wire: Wire | None = None
        self._last = 0.0
        self._left = 0

    def close(self) -> None:
        if self._wire is not None and self._wire.transport is not None:
            self._wire.transport.close()
        self._wire = None

    async def call(self) -> None:
        """Send one hook and write down what became of it."""
        number = self._book.begun[self._app] = self._book.begun.get(self._app, 0) + 1
        hook = f"{self._app}-{number}"
        method = self._dice.choice(METHODS)
        body = self._body(hook)
        attempts: list[Attempt] = []
        answer = None
        for again in (False, True):  # Java's silent repeat: once
            answer, attempt = await self._attempt(method, body, fresh=again)
            attempts.append(attempt)
            if attempt.how != "closed":
                break
        called = Called(hook, self._app, method, hashlib.sha1(body).hexdigest(), tuple(attempts),
                        lag=self._book.lag_since(attempts[0].begun))  # fmt: skip
        if answer is not None:
            called = _with_answer(called, *answer)
        self._book.write(dataclasses.asdict(called) | {"attempts": [dataclasses.astuple(one) for one in attempts]})

    def _body(self, hook: str) -> bytes:
        fields = {
            "nodeId": "node",
            "appKey": self._app,
            "sessionId": f"/127.0.0.1:{self._dice.randrange(10**5)}/192.168.1.5:8443",
            "callId": hook,
            "caller": NUMBER + f"{self._dice.randrange(10**4):04}",
            "callee": "1001",
            "status": "RING",
            "sdp": f"{SDP_MARK} " + "a=candidate:1 1 UDP 2130706431 10.0.0.1 9 typ host\\r\\n" * 60,
        }
        return json.dumps(fields).encode()

    async def _attempt(
        self, method: str, body: bytes, *, fresh: bool
    ) -> tuple[tuple[int, dict[str, str], bytes] | None, Attempt]:
        begun, port, how, why, answer = time.monotonic(), 0, "refused", "", None
        try:
            async with asyncio.timeout(PATIENCE):
                wire = await self._connected(fresh=fresh)
                port, how = wire.port, "closed"
                assert wire.transport is not None
                wire.transport.write(
                    f"POST /rest/my_api/{method} HTTP/1.1\r\nAccept: application/json\r\n"
                    "Content-Type: application/json;charset=UTF-8\r\nUser-Agent: Java/1.8.0_111\r\n"
                    f"Host: {self._host}:{self._port}\r\nConnection: keep-alive\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                answer = await wire.answer()
                how = "answered" if answer is not None else "broken" if wire.data else "closed"
        except TimeoutError:
            how = "silent"
        except (ValueError, KeyError):
            how = "broken"
        except (OSError, ssl.SSLError, EOFError) as exc:
            why = repr(exc)[:120]
        if answer is None or answer[1].get("connection", "").lower() == "close":
            self.close()
        self._last = time.monotonic()
        return answer, Attempt(port, begun, self._last, how, why)

    async def _connected(self, *, fresh: bool) -> Wire:
        wire = self._wire
        worn = self._left <= 0 or time.monotonic() - self._last > IDLE
        # Java looks before it takes a kept connection up again, and sees one that was closed in the meantime.
        if wire is not None and (fresh or worn or wire.lost):
            self.close()
            wire = None
        if wire is None:
            _, wire = await asyncio.get_running_loop().create_connection(
                lambda: Wire(self._book), self._host, self._port, ssl=self._tls,
                server_hostname="localhost" if self._tls else None, local_addr=(CALLER, 0),
            )  # fmt: skip
            self._wire, self._left = wire, self._dice.randrange(1, MOST_HOOKS)
        self._left -= 1
        return wire

    async def run(self, pause: float, running: asyncio.Event, stop: asyncio.Event) -> None:
        """Hooks at an even pace."""
        while not stop.is_set():
            if not running.is_set():
                self.close()
                waits = [asyncio.create_task(running.wait()), asyncio.create_task(stop.wait())]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
                continue
            begun = time.monotonic()
            await self.call()
            with contextlib.suppress(TimeoutError):
                left = begun + pause * self._dice.uniform(0.5, 1.5) - time.monotonic()
                await asyncio.wait_for(stop.wait(), max(0.001, left))
        self.close()


def _with_answer(called: Called, status: int, headers: dict[str, str], body: bytes) -> Called:
    found = _NAMES.search(body) or _CALL_ID.search(body)
    return dataclasses.replace(
        called,
        status=status,
        proxy_status=headers.get("proxy-status", ""),
        problem="problem" in headers.get("content-type", ""),
        answer=hashlib.sha1(body).hexdigest(),
        empty=not body,
        names=found[1].decode("latin-1") if found else None,
    )


async def main(path: Path, address: str, rate: float, seed: int, authorities: list[str]) -> None:
    """Call until told to stop."""
    host, _, port = address.rpartition(":")
    tls = None
    if authorities:
        tls = ssl.create_default_context()
        for authority in authorities:
            tls.load_verify_locations(authority)
    loop = asyncio.get_running_loop()
    running, stop = asyncio.Event(), asyncio.Event()
    with path.open("w") as out:
        book = Book(out)
        watching = asyncio.create_task(book.watch_lag())
        callers = [
            (Caller(app, host, int(port), tls, book, random.Random(f"{seed}-{app}-{number}")), 2 * count / rate)
            for app, count in CONNECTIONS.items()
            for number in range(count)
        ]
        tasks = [asyncio.create_task(caller.run(pause, running, stop)) for caller, pause in callers]
        orders = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        while order := (await orders.readline()).decode().strip():
            if order == "resume":
                running.set()
            elif order == "pause":
                running.clear()
            elif order == "stop":
                break
            print("ok", flush=True)
        stop.set()
        await asyncio.gather(*tasks)
        watching.cancel()
        print(json.dumps(book.begun), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]))
