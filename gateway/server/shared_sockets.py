"""The listening sockets that all workers share: they listen while at least one worker lives.

A connection must never wait on a socket that nobody accepts from. The sockets stay bound meanwhile, so that no other
program can take the port. Systemd's sockets always listen: connections wait there until a worker lives again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence
from typing import Final

from gateway.http.server.acceptor import BACKLOG
from gateway.server.sockets import close, close_to_new, display_address
from gateway.server.systemd_sockets import SystemdSocket

_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 s: the connection is reset when it is closed (socket(7))."""


class SharedSockets:
    """The supervisor's view of them."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = list(sockets)
        self._loop = asyncio.get_running_loop()
        self._is_listening = True
        self.addresses = [display_address(sock) for sock in sockets]
        """As shown in the log and on the admin port."""
        self._own = [sock for sock in sockets if not isinstance(sock, SystemdSocket)]
        self.descriptors = [sock.fileno() for sock in self._own]
        """For the workers to inherit."""
        self.systemd_descriptors = [sock.fileno() for sock in sockets if isinstance(sock, SystemdSocket)]
        """The same for systemd's."""

    def suspend(self) -> None:
        """Refuse all connections, those that wait already too, as no worker lives."""
        if not self._is_listening:
            return
        self._is_listening = False
        for sock in self._own:
            if sock.family == socket.AF_UNIX:  # after a shutdown it could not listen again
                sock.setblocking(False)
                self._loop.add_reader(sock, _reset_all, sock)
            else:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # on Linux it stops listening, and can listen again

    def resume(self) -> None:
        """Listen again, as a worker accepts: what it has done to that end itself may have come before ``suspend``."""
        if self._is_listening:
            return
        self._is_listening = True
        for sock in self._own:
            if sock.family == socket.AF_UNIX:
                self._loop.remove_reader(sock)
            else:
                sock.listen(BACKLOG)

    def close(self) -> None:
        """Close them for good: what no worker has accepted by the time it closes them too is refused."""
        if not self._is_listening:
            for sock in self._own:
                self._loop.remove_reader(sock)
        close_to_new(self._sockets)
        close(self._sockets)


def _reset_all(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = sock.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.close()
