"""A backend that takes its time: answers each hook with ``{}`` after so many milliseconds.

``GET /`` gives, as JSON, how many hooks it has answered, and when the first, the second and the last of them came, in
seconds of the monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast

import uvloop

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Slow(asyncio.Protocol):
    """One connection."""

    delay = 0.0
    """Seconds."""
    hooks = 0
    came: list[float]
    """When the first, the second and the last hook came."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        if head.startswith(b"GET"):
            self._tell()
            return
        length = int(head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._received = b""
            Slow.came = [*Slow.came[:2], time.monotonic()]
            asyncio.get_running_loop().call_later(Slow.delay, self._answer)

    def _answer(self) -> None:
        Slow.hooks += 1
        self._transport.write(_ANSWER)

    def _tell(self) -> None:
        told = json.dumps({"hooks": Slow.hooks, "came": Slow.came}).encode()
        self._transport.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(told) + told)
        self._transport.close()


async def serve(port: int, delay: float) -> None:
    """Serve until the process is ended."""
    Slow.delay, Slow.came = delay, []
    server = await asyncio.get_running_loop().create_server(Slow, "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
