"""A channel between the main process and a child: pickled messages, over a socket pair that only the two have."""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from typing import Any, Final, NamedTuple

_LENGTH: Final = struct.Struct("!I")
_LARGE: Final = 16 * 1024
"""Bytes of a message from which on it is unpickled in a thread."""
_PIECE: Final = 15 * 1024
"""Bytes of a reply in one message."""


class Ping(NamedTuple):
    """To a child: send ``Pong``."""


class Stop(NamedTuple):
    """To a child: end; *at_once*: without waiting for hooks in flight."""

    at_once: bool
    others_accept: bool = False
    """Whether other workers go on: this one need not accept until a new process does."""


class Ready(NamedTuple):
    """From a child: it does its work from now on."""


class Pong(NamedTuple):
    """From a child: it is alive."""


class ReplyPart(NamedTuple):
    """From a worker: a piece of the reply to the request with this number; None = there is none."""

    number: int
    piece: bytes | None
    last: bool


class Channel:
    """One end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Channel:
        """A channel over one socket of the pair."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    async def send_reply(self, number: int, data: bytes | None) -> None:
        """Send the reply to a request, in pieces that delay neither side's event loop."""
        pieces = [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)] if data else [data]
        for piece in pieces[:-1]:
            self.send(ReplyPart(number, piece, last=False))
            await self._writer.drain()
            await asyncio.sleep(0)
        self.send(ReplyPart(number, pieces[-1], last=True))

    def send(self, message: Any) -> None:
        """Queue a message; one that can no longer be delivered is dropped."""
        if not self._writer.is_closing():
            data = pickle.dumps(message)
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> Any | None:
        """The next message; None when the other side has ended."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            data = await self._reader.readexactly(length)
            # A thousand apps take a thread some milliseconds, and hooks go on meanwhile.
            return await asyncio.to_thread(pickle.loads, data) if length > _LARGE else pickle.loads(data)  # noqa: S301
        except (asyncio.IncompleteReadError, OSError):
            return None

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
