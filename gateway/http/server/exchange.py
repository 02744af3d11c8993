"""One request on its way through the app, and its answer: as ASGI messages, or in one call."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from starlette.types import Message

from gateway.http.server.head import Head
from gateway.http.server.response import ResponseWriter

EXCHANGE: Final = "gateway.exchange"
"""Key of an Exchange among the extensions of its scope (ASGI, "Extensions")."""


class ClientConnection(Protocol):
    """The connection, as far as an exchange needs it."""

    writable: asyncio.Future[None] | None

    def write_whole(self, exchange: Exchange, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Write the answer."""

    def write_part(self, exchange: Exchange, message: Message) -> None:
        """Write a part of the answer."""

    async def wait_closed(self) -> None:
        """Return when the connection has ended."""


class Exchange:
    """One request with the app, and its answer.

    The app may take it out of its scope's extensions to get the body without waiting and to answer in one call: as ASGI
    messages, the two cost a sixteenth of a hook's CPU time.
    """

    __slots__ = ("_connection", "_head", "_taken", "_writer", "body", "keep_alive")

    def __init__(self, connection: ClientConnection, head: Head, body: bytes, *, keep_alive: bool) -> None:
        self._connection = connection
        self._head = head
        self._taken = False
        self._writer: ResponseWriter | None = None
        self.body = body
        self.keep_alive = keep_alive
        """Whether the connection goes on after the answer."""

    @property
    def writer(self) -> ResponseWriter:
        """Encodes ASGI messages."""
        if self._writer is None:
            head = self._head
            self._writer = ResponseWriter(
                head_only=head.method == "HEAD", keep_alive=self.keep_alive, chunks_allowed=head.keep_alive
            )
        return self._writer

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Write the whole answer at once. Returns False if that is impossible: use ``send``.

        *headers* include Content-Length. It is impossible while the client does not read, or once an answer has begun.
        """
        if self._connection.writable is not None or self._writer is not None or self._head.method == "HEAD":
            return False
        self._connection.write_whole(self, status, headers, body)
        return True

    async def receive(self) -> Message:
        """The whole body at once; asked again, the end of the connection."""
        if self._taken:
            await self._connection.wait_closed()
            return {"type": "http.disconnect"}
        self._taken = True
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def send(self, message: Message) -> None:
        """Write a part of the answer; waits while the client does not read."""
        connection = self._connection
        if (writable := connection.writable) is not None:
            await writable
        connection.write_part(self, message)
