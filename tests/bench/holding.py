"""A backend that keeps every hook waiting: takes them, counts them (``GET /``), and never answers."""

from __future__ import annotations

import asyncio
import sys
from typing import Final, cast

import uvloop

_LIFE: Final = 180.0
"""Seconds after which it ends by itself."""


class Holding(asyncio.Protocol):
    """One connection."""

    held = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        if b"\r\n\r\n" not in self._received:
            return
        if self._received.startswith(b"GET"):
            count = b"%d" % Holding.held
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(count) + count
            )
            self._transport.close()
            return
        head, _, body = self._received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            Holding.held += 1
            self._received = b""


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Holding, "127.0.0.1", port, backlog=4096)
    async with server:
        await asyncio.sleep(_LIFE)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
