"""The callers: keep-alive connections with one hook at a time on each, or one for each hook."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.support.gateways import RunningGateway

_PATIENCE: Final = 20.0
"""Seconds after which a caller gives up."""

_numbers = itertools.count(1)


def hook_body(app: str, **fields: Any) -> bytes:
    """A hook that no other equals."""
    return json.dumps({"appKey": app, "callId": f"call-{next(_numbers)}", **fields}).encode()


@dataclass(frozen=True, slots=True)
class Answered:
    """A hook's answer, as its caller saw it."""

    status: int
    """0 where there was none."""
    headers: Mapping[str, str]
    """Names in small letters."""
    body: bytes
    seconds: float
    began: float
    """Seconds on the clock of time.perf_counter()."""

    @property
    def proxy_error(self) -> str:
        """The RFC 9209 token of a verdict of the gateway's own; empty for the backend's."""
        return self.headers.get("proxy-status", "").partition("error=")[2].partition(";")[0]


class Line:
    """A caller's keep-alive connection."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, body: bytes, method: str) -> Answered:
        """Send one hook; its answer. Never raises for a gateway that gives none."""
        began = time.perf_counter()
        status, headers, answer = 0, dict[str, str](), b""
        try:
            async with asyncio.timeout(_PATIENCE):
                if self._streams is None:
                    self._streams = await asyncio.open_connection(self._host, self._port)
                reader, writer = self._streams
                head = f"POST /rest/my_api/{method} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n"
                writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                answer = await reader.readexactly(int(headers["content-length"]))
                status = int(first.split(" ")[1])
        except (OSError, EOFError, TimeoutError):
            self.close()
        if headers.get("connection") == "close":
            self.close()
        return Answered(status, headers, answer, time.perf_counter() - began, began)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


def volley(gateway: RunningGateway, bodies: Sequence[bytes], method: str = "OnCallEvent") -> list[Answered]:
    """Send all of them at once, each on a connection of its own; their answers in the same order."""

    async def one(body: bytes) -> Answered:
        line = Line(gateway.hooks)
        try:
            return await line.call(body, method)
        finally:
            line.close()

    async def every() -> list[Answered]:
        return await asyncio.gather(*(one(body) for body in bodies))

    return asyncio.run(every())


class Volley:
    """A volley in the background: ``answers()`` waits for its end."""

    def __init__(self, gateway: RunningGateway, bodies: Sequence[bytes], method: str = "OnCallEvent") -> None:
        self._answers: list[Answered] = []
        self._thread = threading.Thread(target=self._run, args=(gateway, bodies, method), daemon=True)
        self._thread.start()

    def _run(self, gateway: RunningGateway, bodies: Sequence[bytes], method: str) -> None:
        self._answers = volley(gateway, bodies, method)

    @property
    def is_over(self) -> bool:
        """Whether all of them are answered."""
        return not self._thread.is_alive()

    def answers(self) -> list[Answered]:
        self._thread.join(2 * _PATIENCE)
        return self._answers


@contextlib.contextmanager
def leaving(gateway: RunningGateway, body: bytes) -> Iterator[None]:
    """A caller that sends a hook and leaves at the end of the block, without its answer."""
    host, _, port = gateway.hooks.rpartition(":")
    with socket.create_connection((host, int(port))) as client:
        head = f"POST /rest/my_api/OnCallEvent HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        yield


class Callers:
    """Callers of one app, in a thread of their own while the block lasts.

    Without a *rate* each calls again as soon as it has its answer; with one, so many hooks set out each second, all
    together, whether earlier ones have been answered or not.
    """

    def __init__(self, address: str, app: str, callers: int = 8, rate: float | None = None) -> None:
        self._address = address
        self._app = app
        self._callers = callers
        self._rate = rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.answers: list[Answered] = []
        self.seconds = 0.0

    def __enter__(self) -> Callers:
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, and wait for the answers still to come."""
        if not self._stop.is_set():
            self._stop.set()
            self.seconds = time.perf_counter() - self._began
        self._thread.join(2 * _PATIENCE)

    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answer in list(self.answers))

    async def _run(self) -> None:
        if self._rate is None:
            await asyncio.gather(*(self._again_and_again() for _ in range(self._callers)))
        else:
            await self._at_rate(self._rate)

    async def _again_and_again(self) -> None:
        line = Line(self._address)
        while not self._stop.is_set():
            self.answers.append(await line.call(hook_body(self._app), "OnCallEvent"))
        line.close()

    async def _at_rate(self, rate: float) -> None:
        free: list[Line] = []
        tasks: set[asyncio.Task[None]] = set()

        async def one() -> None:
            line = free.pop() if free else Line(self._address)
            self.answers.append(await line.call(hook_body(self._app), "OnCallEvent"))
            free.append(line)

        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in itertools.count():
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
            if self._stop.is_set():
                break
            task = loop.create_task(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        for line in free:
            line.close()
