"""A backend of events in the test's own loop, which can be absent and answer as a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
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
        self._listening: socket.socket | None = None
        self._writers: dict[asyncio.StreamWriter, tuple[int, float]] = {}
        """With the last number that was answered on each connection, and when."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        self._listening = listening = socket.create_server(("127.0.0.1", self.port), backlog=100)
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    async def end(self) -> None:
        loop = asyncio.get_running_loop()
        if self._listening is not None:
            loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None
        now = loop.time()
        for writer, (number, answered) in self._writers.items():
            if now - answered < _JUST:
                self.unread.add(number)
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, listening: socket.socket) -> None:
        """Not by ``asyncio.Server``: closed before an accepted connection has its transport, it leaves it open."""
        with contextlib.suppress(BlockingIOError):
            accepted, _ = listening.accept()
            task = asyncio.create_task(self._serve(accepted, listening))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, accepted: socket.socket, listening: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=accepted)
        self._writers[writer] = (-1, -math.inf)
        try:
            if listening is self._listening:  # else it was closed meanwhile
                await self._talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            del self._writers[writer]
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
