"""A backend of events in the test's own loop, which can be absent and answer as a test wants."""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections.abc import Callable
from typing import Any

_JUST = 0.1
"""Seconds within which the other side may not have read an answer."""
OK = 200
HANG = 0

Headers = dict[str, str]


class Sink:
    """The backend. It answers with what ``status`` says of an event's body."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, Any], Headers]] = []
        """Every event, when it came."""
        self.recorded: list[int] = []
        """The numbers of those that were answered with 200, in order."""
        self.unread: set[int] = set()
        """Numbers of those whose answer may not have been read, because their connection ended right after it."""
        self.under_way = self.most_under_way = 0
        self.seconds = 0.0
        self.status: Callable[[dict[str, Any]], int] = lambda body: OK
        self.is_well = True
        """What it answers to health checks."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: dict[asyncio.StreamWriter, tuple[int, float]] = {}
        """With the last number that was answered on each connection, and when."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def end(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            for _ in range(5):
                await asyncio.sleep(0)  # its socket closes, and what it has just accepted gets its connection
        now = asyncio.get_running_loop().time()
        for writer, (number, answered) in self._writers.items():
            if now - answered < _JUST:
                self.unread.add(number)
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """At once, not in the task: one that is cancelled before it runs would leave the connection open."""
        self._writers[writer] = (-1, -math.inf)
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._forget, writer))

    def _forget(self, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._writers.pop(writer, None)
        writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
                headers = {name.lower(): value for name, _, value in lines}
                if head.startswith("GET"):  # a health check
                    writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % (200 if self.is_well else 500))
                    continue
                assert len(headers) == len(lines), f"a header stands twice: {head}"
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                await self._answer(body, headers, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    async def _answer(
        self, body: dict[str, Any], headers: Headers, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.got.append((body, headers))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.seconds:
                await asyncio.sleep(self.seconds)
            status = self.status(body)
            if status == HANG:
                await reader.read()  # until the gateway gives up
                return
        finally:
            self.under_way -= 1
        if status == OK:
            self.recorded.append(body["number"])
            self._writers[writer] = (body["number"], asyncio.get_running_loop().time())
            if writer.is_closing():
                self.unread.add(body["number"])
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\n{}" % status)
        await writer.drain()
