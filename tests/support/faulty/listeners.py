"""Ports behind which nobody speaks HTTP: refused, full, mute, cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from tests.support.faulty.connection import RESET_ON_CLOSE


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses: bound, so that nobody else gets it, but not listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port of 127.0.0.1 that never completes a connection: its queue is full, so SYNs meet silence.

    OSError where the kernel goes on completing connections nevertheless.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(16):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.1)
            try:
                filler.connect(listener.getsockname())
            except TimeoutError:
                yield listener.getsockname()[1]
                return
        raise OSError("the kernel completes connections although the queue is full")


@contextlib.contextmanager
def hanging_listener() -> Iterator[int]:
    """A port of 127.0.0.1 where connections are made and nothing ever reads or answers, no TLS handshake either."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield listener.getsockname()[1]


def resetting_listener() -> contextlib.AbstractContextManager[int]:
    """A port of 127.0.0.1 that resets each connection as soon as it is made."""
    return _cutting_listener(reset=True)


def closing_listener() -> contextlib.AbstractContextManager[int]:
    """A port of 127.0.0.1 that closes each connection as soon as it is made."""
    return _cutting_listener(reset=False)


@contextlib.contextmanager
def _cutting_listener(*, reset: bool) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        thread = threading.Thread(target=_cut, args=(listener, reset), name="cutting-listener", daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            thread.join(2)


def _cut(listener: socket.socket, reset: bool) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        with sock, contextlib.suppress(OSError):
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
