"""A media server that sends the events of many calls, and notes which were answered 200, and when."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Sequence
from typing import Final

from tests.support.gateways import wait_until
from tests.support.spool_oracle import Sent

ANSWER_LIMIT: Final = 15.0
"""Seconds for one answer: the media server's own limit."""
_RECONNECT: Final = 0.05


class EventLoad:
    """``with EventLoad([gateway.hooks], …) as load:`` sends in a thread of its own; ``load.wait()`` waits for the end.

    Each call's events are sent one after the other, each after the answer to the one before; with several *addresses*
    they go to each in turn. An event whose connection cannot be made waits until it can; one whose connection breaks is
    noted as unanswered, and not repeated.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        calls: int = 20,
        events: int = 10,
        connections: int = 8,
        pause: float = 0.0,
        app: str = "defaultApp",
        method: str = "CallStatusEvent",
        name: str = "call",
        size: int = 200,
    ) -> None:
        self._addresses = addresses
        self._events = events
        self._pause = pause
        self._app = app
        self._method = method
        self._size = size
        self._calls = [[f"{name}-{call}" for call in range(first, calls, connections)] for first in range(connections)]
        self.sent: list[Sent] = []
        """In the order of their ends."""
        self._stopped = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="event load", daemon=True)

    def __enter__(self) -> EventLoad:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, and wait for what is on its way."""
        self._stopped = True
        self._thread.join()

    def wait(self, seconds: float = 300.0) -> None:
        """Wait until all are sent and answered."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"only {len(self.sent)} events were answered in {seconds:g} s"

    def wait_for(self, count: int, seconds: float = 120.0) -> None:
        """Wait until so many have been answered, or were left without an answer."""
        assert wait_until(lambda: len(self.sent) >= count, seconds), f"only {len(self.sent)} events were answered"

    def statuses(self) -> dict[int, int]:
        """How many had which status; 0 is no answer."""
        found: dict[int, int] = {}
        for one in list(self.sent):
            found[one.status] = found.get(one.status, 0) + 1
        return found

    async def _run(self) -> None:
        await asyncio.gather(*(self._send_calls(calls) for calls in self._calls if calls))

    async def _send_calls(self, calls: Sequence[str]) -> None:
        lines = [_Line(address) for address in self._addresses]
        for number in range(self._events):
            for call in calls:
                if self._stopped:
                    break
                await self._send_event(lines[number % len(lines)], call, number)
                if self._pause:
                    await asyncio.sleep(self._pause)
        for line in lines:
            line.close()

    async def _send_event(self, line: _Line, call: str, number: int) -> None:
        event = f"{call}/{number}"
        body = json.dumps({"appKey": self._app, "callId": call, "id": event, "pad": "x" * self._size}).encode()
        while not await line.connect():
            if self._stopped:
                return
            await asyncio.sleep(_RECONNECT)
        begun = time.monotonic()
        try:
            status = await asyncio.wait_for(line.exchange(self._method, body), ANSWER_LIMIT)
        except (OSError, EOFError, TimeoutError):
            status = 0
            line.close()
        digest = hashlib.sha256(body).hexdigest()[:16]
        self.sent.append(Sent(event, call, digest, begun, time.monotonic(), status))


class _Line:
    """One connection that is made again when it has ended."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def connect(self) -> bool:
        """Whether there is a connection."""
        if self._streams is not None and self._streams[0].at_eof():
            self.close()
        if self._streams is None:
            try:
                self._streams = await asyncio.open_connection(self._host, self._port)
            except OSError:
                return False
        return True

    async def exchange(self, method: str, body: bytes) -> int:
        """The status of the answer. Raises OSError or EOFError where the connection ends before."""
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(
            f"POST /rest/my_api/{method} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json;charset=UTF-8\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = next(int(line.partition(":")[2]) for line in head.split("\r\n") if line.startswith("content-length:"))
        await reader.readexactly(length)
        return int(head[9:12])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None
