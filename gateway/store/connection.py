"""One end of a connection between the store's process and another one of the gateway: whole messages, in order."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final, cast

from gateway.store.messages import MAX_MESSAGE

_LENGTH: Final = struct.Struct("!I")
_CREDENTIALS: Final = struct.Struct("3i")
_WRITE_AT_ONCE: Final = 256 * 1024
"""Bytes of messages that are joined for one write, about; larger ones are not copied once more."""


class NotAMessage(Exception):
    """The other side sends something else."""


class Frames:
    """Cuts what arrives into messages."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are whole now. Raises NotAMessage for one that is too long."""
        self._data += data
        start, end = 0, len(self._data)
        try:
            while end - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._data, start)
                if length > MAX_MESSAGE:
                    raise NotAMessage(f"a message of {length} bytes; at most {MAX_MESSAGE} are allowed")
                if end - start - _LENGTH.size < length:
                    return
                start += _LENGTH.size + length
                yield bytes(memoryview(self._data)[start - length : start])
        finally:
            del self._data[:start]


def frame(message: bytes) -> bytes:
    """An encoded message as it travels."""
    return _LENGTH.pack(len(message)) + message


class Connection(asyncio.Protocol):
    """The connection. Callbacks may send; an exception in one closes the connection."""

    def __init__(
        self, on_message: Callable[[bytes], None], on_end: Callable[[Exception | None], None] = lambda reason: None
    ) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._frames = Frames()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reason: Exception | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()

    @property
    def buffered(self) -> int:
        """Bytes that are not sent yet."""
        sending = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._waiting_bytes + sending

    @property
    def is_open(self) -> bool:
        """Whether messages can still be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def peer(self) -> tuple[int, int]:
        """Process id and user id of the other side."""
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        return pid, uid

    def send(self, message: bytes) -> None:
        """Send an encoded message; all of a turn of the event loop go out together. Dropped where it has ended."""
        if not self.is_open:
            return
        if not self._waiting:
            self._loop.call_soon(self._write)
        self._waiting += (_LENGTH.pack(len(message)), message)
        self._waiting_bytes += _LENGTH.size + len(message)

    def close(self) -> None:
        """Send what is left, then end the connection; ``ended`` is done when that is complete."""
        if self._transport is not None:
            self._write()
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        try:
            for message in self._frames.feed(data):
                self._on_message(message)
                if not self.is_open:
                    return
        except Exception as exc:
            self._reason = exc
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._waiting.clear()
        self._waiting_bytes = 0
        if not self.ended.done():
            self.ended.set_result(None)
        self._on_end(self._reason or exc)

    def _write(self) -> None:
        """Write what has been sent in this turn."""
        if not self._waiting:
            return
        waiting, self._waiting, size, self._waiting_bytes = self._waiting, [], self._waiting_bytes, 0
        if self._transport is None or self._transport.is_closing():
            return
        if size <= _WRITE_AT_ONCE:
            self._transport.write(b"".join(waiting))
        else:
            self._transport.writelines(waiting)
