"""The messages between supervisor and worker: pickled, over a socket pair that only parent and child have."""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from typing import Any, Final, NamedTuple

from gateway.admin.rpc import RpcRequest
from gateway.config import Config
from gateway.http.tls.pem_files import NO_COPIES, Copies

_LENGTH: Final = struct.Struct("!I")
_LARGE: Final = 16 * 1024
"""Bytes of a message from which on it is unpickled in a thread."""
_PIECE: Final = 15 * 1024
"""Bytes of a reply in one message."""


class Build(NamedTuple):
    """To a worker, first and once: build what decides hooks by this configuration, and send ``Built``."""

    serial: int
    config: Config
    actions: tuple[RpcRequest[Any], ...] = ()
    """The operator's actions in force when the worker started."""
    copies: Copies = NO_COPIES
    """Of PEM files, where those on the disk are unusable."""


class Serve(NamedTuple):
    """To a worker, once: serve, by the last configuration that it committed, and send ``Ready``."""


class Prepare(NamedTuple):
    """To a worker: prepare this configuration, and send ``Prepared``."""

    serial: int
    config: bytes
    """Pickled: once for all workers, and unpickled where a failure is one of the reload, not of the channel."""


class Commit(NamedTuple):
    """To a worker: put the prepared configuration with this serial in force, and send ``Committed``."""

    serial: int


class Discard(NamedTuple):
    """To a worker: the configuration with this serial, prepared or not, will not be in force."""

    serial: int


class Ping(NamedTuple):
    """To a worker: send ``Pong``."""


class Stop(NamedTuple):
    """To a worker: end; *at_once*: without waiting for hooks in flight."""

    at_once: bool


class Ask(NamedTuple):
    """To a worker: answer the request in ``ReplyPart``s with this number."""

    number: int
    request: RpcRequest[Any]


class ReplyPart(NamedTuple):
    """From a worker: a piece of the reply to the request with this number; None = there is none."""

    number: int
    piece: bytes | None
    last: bool


class Built(NamedTuple):
    """From a worker: it can serve, and takes part in reloads from now on."""


class Ready(NamedTuple):
    """From a worker: hooks are accepted."""


class Prepared(NamedTuple):
    """From a worker: the configuration with this serial is prepared, or the reason why it cannot be."""

    serial: int
    error: str | None = None


class Committed(NamedTuple):
    """From a worker: the configuration with this serial is in force, or the reason why the previous one still is."""

    serial: int
    error: str | None = None


class Pong(NamedTuple):
    """From a worker: it is alive."""


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
