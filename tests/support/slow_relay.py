"""A TCP relay in a thread of the test: it can be slow, hold everything back, or be gone."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class SlowRelay:
    """``with SlowRelay(port) as relay:`` forwards connections to *relay.port* to this port of 127.0.0.1."""

    def __init__(self, target: int) -> None:
        self.target = target
        """May be changed: new connections go there."""
        self.delay = 0.0
        """Seconds that bytes take longer, either way."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)

    def __enter__(self) -> SlowRelay:
        self._thread.start()
        self._loop.call_soon_threadsafe(self._passing.set)
        self.restore()
        return self

    def __exit__(self, *exc: object) -> None:
        self.cut()
        self._run(self._cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def hold(self) -> None:
        """Pass nothing on, as a network that is gone: nobody is told."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def cut(self) -> None:
        """Reset all connections and refuse new ones."""
        self._run(self._cut())

    def restore(self) -> None:
        """Listen and pass on again."""
        self._run(self._restore())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()

    async def _restore(self) -> None:
        self._passing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _cancel(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await self._passing.wait()
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            self._end(writer)
            return
        self._open.add(other_writer)
        try:
            await asyncio.gather(self._pass_on(reader, other_writer), self._pass_on(other_reader, writer))
        finally:
            self._end(writer)
            self._end(other_writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):  # at the end of the test
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
        self._end(writer)

    def _end(self, writer: asyncio.StreamWriter) -> None:
        self._open.discard(writer)
        writer.close()
