"""One open connection to the server: commands become bytes, bytes become answers, in order. No timers, no retries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

Argument: TypeAlias = bytes | str | int | float
"""One word of a command."""
MAX_UNSENT: Final = 4 * 2**20
"""Bytes that may wait for the network; past it, nothing more is written."""


class Refused(Exception):
    """The server's answer to a command is an error; its text begins with a code such as ``READONLY``."""

    @property
    def code(self) -> str:
        """The first word of the text."""
        return str(self).partition(" ")[0]


class Reader(Protocol):
    """hiredis' parser, which makes ``Refused`` of errors."""

    def feed(self, data: bytes, /) -> object:
        """Take bytes."""

    def gets(self) -> Any:
        """The next answer; False where there is no whole one. No answer of RESP2 is False."""


class Wire(asyncio.Protocol):
    """A connection that is logged in; ``dial`` makes it. Everything happens in the loop's thread."""

    def __init__(
        self,
        transport: asyncio.Transport,
        reader: Reader,
        pack: Callable[[Any], bytes],
        keep: object = None,
    ) -> None:
        """*keep* is an object that must live as long as the transport."""
        self.transport = transport
        self._reader = reader
        self._pack = pack
        self._keep = keep
        self._loop = asyncio.get_running_loop()
        self._unsent: list[bytes] = []
        self.on_answer: Callable[[Any], None] = _ignore
        """Gets every answer, in the order of the commands; a ``Refused`` where it is an error."""
        self.on_end: Callable[[str], None] = _ignore
        """Gets the reason when the connection has ended, unless ``close`` ended it."""
        self._ended = False

    @property
    def has_ended(self) -> bool:
        """Whether no answer will come any more."""
        return self._ended

    @property
    def local_host(self) -> str:
        """The address of this end, by which the server's network knows this machine."""
        name = self.transport.get_extra_info("sockname")
        return str(name[0]) if isinstance(name, tuple) else ""

    @property
    def is_full(self) -> bool:
        """Whether so much waits for the network that nothing more should be written."""
        return self.transport.get_write_buffer_size() > MAX_UNSENT

    def write(self, command: Sequence[Argument]) -> None:
        """Send a command; those of one turn of the loop go out together. Raises TypeError for other arguments."""
        packed = self._pack(tuple(command))
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(packed)

    def _flush(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if not self._ended:
            self.transport.write(data)

    def close(self) -> None:
        """End it now; ``on_end`` is not called."""
        self._ended = True
        self.transport.abort()

    # --- asyncio.Protocol ---

    def data_received(self, data: bytes) -> None:
        """Hand on every whole answer."""
        try:
            self._reader.feed(data)
            while not self._ended and (answer := self._reader.gets()) is not False:
                self.on_answer(answer)
        except ValueError as exc:  # hiredis' ProtocolError: this is no Redis
            self.close()
            self.on_end(f"it does not speak Redis' protocol ({exc})")

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand on the end."""
        if not self._ended:
            self._ended = True
            self.on_end("it closed the connection" if exc is None else "the connection broke")


def _ignore(_what: Any) -> None:
    pass
