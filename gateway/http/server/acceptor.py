"""Accepts connections on a listening socket that several processes may share.

An event loop that accepts by itself takes all that wait at once, so that of several workers one gets far more
connections than another (41 of 64 with two, measured), and keeps them; it closes the socket while connections wait in
its queue, which resets them; and it drops a TLS handshake that fails without a word. So connections are accepted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import socket
import struct
from collections.abc import Callable
from typing import Final, Protocol

logger = logging.getLogger(__name__)

BACKLOG: Final = 4096
AT_A_TIME: Final = 64
"""Connections accepted before others have their turn."""
_PAUSE: Final = 1.0
"""Seconds without accepting when the system denies us a connection."""
_CLOSED_PAUSE: Final = 0.05
"""Seconds until a socket that does not listen just now is looked at again."""
_BEHIND: Final = 0.001
"""Seconds that a worker which has more connections than another leaves the other to accept."""
_LEFT_OVER: Final = 4
"""Connections that it takes after that, for the other may be busy or stopped."""

_SO_ATTACH_FILTER: Final = 26
_DROP_SYN: Final = (
    struct.pack("HBBI", 0x30, 0, 0, 13),  # the TCP header's byte of flags
    struct.pack("HBBI", 0x45, 0, 1, 0x02),  # has it SYN?
    struct.pack("HBBI", 0x06, 0, 0, 0),  # then drop the segment
    struct.pack("HBBI", 0x06, 0, 0, 0xFFFFFFFF),  # else keep it
)
"""A classic socket filter (Linux's Documentation/networking/filter.rst)."""


class AcceptOrder(Protocol):
    """Of several processes that accept on the same sockets: whose turn it is."""

    def note(self, connections: int) -> None:
        """Set this process's number of connections; it accepts."""

    def retire(self) -> None:
        """This process accepts no more."""

    def is_ahead(self) -> bool:
        """Whether another that accepts has clearly fewer connections than this one."""


class Acceptor:
    """Accepts on one listening socket, as an ``asyncio.Server`` for uvicorn to close. Build it inside a running loop.

    *accept_order*: for a socket that several processes share. *at_a_time*: connections accepted before other events.
    *outlives*: the socket listens already, and a later process accepts what waits on it when this one closes it.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_connection: Callable[[socket.socket, object], None],
        accept_order: AcceptOrder | None = None,
        at_a_time: int = AT_A_TIME,
        *,
        outlives: bool = False,
    ) -> None:
        self._sock = sock
        self._on_connection = on_connection
        self._accept_order = accept_order
        self._at_a_time = at_a_time
        self._outlives = outlives
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False
        sock.setblocking(False)
        if not outlives:
            sock.listen(BACKLOG)
        self._resume()

    def __repr__(self) -> str:
        return f"<Acceptor {self._sock.fileno()}>"

    def close(self) -> None:
        """Take the connections that wait, then close the socket: closing it first would reset them.

        Those that wait on a socket which outlives this process are left to the next one.
        """
        if self._closed:
            return
        self._closed = True
        self._stop_looking()
        for _ in range(0 if self._outlives else BACKLOG):  # more than can wait, and an end to those that come meanwhile
            if not self._accept_one():
                break
        self._sock.close()

    async def wait_closed(self) -> None:
        """Nothing is left to wait for: connections and handshakes are waited for as tasks."""

    # --- accepting ---

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(self._at_a_time):
            if self._accept_order is not None and self._accept_order.is_ahead():
                self._wait(_BEHIND, self._accept_left_over)
                return
            if not self._accept_one():
                return

    def _accept_left_over(self) -> None:
        """Take what the others have not taken meanwhile, a few at a time."""
        self._pause = None
        for _ in range(_LEFT_OVER):
            if not self._accept_one():
                break
        if self._pause is None:
            self._resume()

    def _accept_one(self) -> bool:
        """Whether there was a connection, or may be another."""
        try:
            sock, address = self._sock.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionAbortedError:
            return True
        except (OSError, MemoryError) as exc:
            self._retry_later(exc)
            return False
        try:
            self._on_connection(sock, address)
        except Exception:
            logger.exception("an accepted connection could not be taken; it is closed")
            sock.close()
        return True

    def _retry_later(self, exc: Exception) -> None:
        """No descriptors or no memory: those that wait are not lost meanwhile, and other workers may accept them."""
        if self._closed:
            return
        if isinstance(exc, OSError) and exc.errno == errno.EINVAL:  # the supervisor has closed it to all for the moment
            self._wait(_CLOSED_PAUSE, self._resume)
            return
        logger.error("no connection can be accepted: %s; trying again in %g s", str(exc) or "out of memory", _PAUSE)
        self._wait(_PAUSE, self._resume)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop_looking()
        self._pause = self._loop.call_later(seconds, then)

    def _stop_looking(self) -> None:
        self._loop.remove_reader(self._sock)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None


def drop_new_connections(sock: socket.socket) -> None:
    """Have the kernel ignore new connections to a TCP socket that is about to be closed.

    Those that it has begun are finished and can be accepted. A client that comes now tries again within a second, when
    the socket is closed and refuses it. Where a system has no such filter, a connection that is made in the very moment
    of the close is reset.
    """
    if sock.family == socket.AF_UNIX:
        return
    program = ctypes.create_string_buffer(b"".join(_DROP_SYN))
    with contextlib.suppress(OSError):
        option = struct.pack("@HP", len(_DROP_SYN), ctypes.addressof(program))
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)
