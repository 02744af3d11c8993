"""The listening sockets that all workers share: open while one of them lives, closed to all while none does.

A connection must never wait at a socket that nobody accepts on. The sockets stay bound meanwhile, so that no other
program takes the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence
from typing import Final

from gateway.http.server.acceptor import BACKLOG
from gateway.server.listener import close, close_to_new, display_address

_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER for no time at all: the connection is reset when it is closed (socket(7))."""


class SharedSockets:
    """The supervisor's side of them."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = list(sockets)
        self._loop = asyncio.get_running_loop()
        self._are_open = True
        self.addresses = [display_address(sock) for sock in sockets]
        """As the log and the admin port show them."""
        self.descriptors = [sock.fileno() for sock in sockets]
        """For the workers to inherit."""

    def suspend(self) -> None:
        """Refuse every connection, those that wait already too: no worker lives."""
        if not self._are_open:
            return
        self._are_open = False
        for sock in self._sockets:
            if sock.family == socket.AF_UNIX:  # shut down, it could not be opened again
                sock.setblocking(False)
                self._loop.add_reader(sock, _refuse_all, sock)
            else:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # Linux: it listens no more, and may do so again

    def resume(self) -> None:
        """A worker lives, and accepts: it has begun to listen itself, unless that was just before they were closed."""
        if self._are_open:
            return
        self._are_open = True
        for sock in self._sockets:
            if sock.family == socket.AF_UNIX:
                self._loop.remove_reader(sock)
            else:
                sock.listen(BACKLOG)

    def close(self) -> None:
        """The end has come: what the workers have not taken when they close them too is refused."""
        if not self._are_open:
            for sock in self._sockets:
                self._loop.remove_reader(sock)
        close_to_new(self._sockets)
        close(self._sockets)


def _refuse_all(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = sock.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.close()
