"""Listening sockets: bound to the configured addresses, closed, and named for people."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence

from gateway.config import Address, ListenAddress, SystemdAddress, UnixAddress
from gateway.http.server.acceptor import BACKLOG, drop_new_connections
from gateway.server.systemd_sockets import NOTHING_HANDED_OVER, HandedOver, SystemdSocket


class StartError(Exception):
    """The process cannot serve; the message says what the operator can do."""


def bind(
    addresses: Sequence[ListenAddress], key: str, handed_over: HandedOver = NOTHING_HANDED_OVER
) -> list[socket.socket]:
    """Listening sockets for the addresses; raises StartError naming the configuration's *key*.

    *handed_over*: where those of systemd are taken from.
    """
    sockets: list[socket.socket] = []
    for address in addresses:
        try:
            if isinstance(address, SystemdAddress):
                sockets += handed_over.take(address.name)
            else:
                sockets.append(_listen(address))
        except (OSError, ValueError) as exc:
            close(sockets)
            raise StartError(f"cannot listen on {address} ({key}): {_reason(exc, address, handed_over)}") from exc
    return sockets


def _reason(exc: OSError | ValueError, address: ListenAddress, handed_over: HandedOver) -> str:
    if not isinstance(exc, OSError):
        return str(exc)
    words = (exc.strerror or str(exc)).lower()
    if exc.errno == errno.EADDRINUSE and isinstance(address, Address):
        name = handed_over.name_of(address.host, address.port)
        if name is not None:
            return f"{words}; systemd hands over this socket: write systemd:{name}"
    return words


def _listen(address: Address | UnixAddress) -> socket.socket:
    if isinstance(address, UnixAddress):
        return _listen_unix(address.path)
    dualstack = not address.host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if ":" in address.host or dualstack else socket.AF_INET
    with _reserved_port(address, family) as port:
        return socket.create_server((address.host, port), family=family, dualstack_ipv6=dualstack, backlog=BACKLOG)


@contextlib.contextmanager
def _reserved_port(address: Address, family: socket.AddressFamily) -> Iterator[int]:
    """The port; for 0, one that the system picks. Bound by number, a socket keeps it while it does not listen."""
    if address.port:
        yield address.port
        return
    with socket.socket(family, socket.SOCK_STREAM) as picked:
        picked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        picked.bind((address.host, 0))
        yield picked.getsockname()[1]


def _listen_unix(path: str) -> socket.socket:
    """A unix socket. The file that an ended gateway left behind is replaced; one in use is an error."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode) and not _is_served(path):
            os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        os.chmod(path, 0o660)  # its owner and group may send hooks
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full queue would block the connect for ever
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True
    return True


def close(sockets: Sequence[socket.socket]) -> None:
    """Close sockets that nothing serves."""
    for opened in sockets:
        opened.close()


def close_to_new(sockets: Sequence[socket.socket]) -> None:
    """Ignore new connections until the sockets are closed, a moment later; those to systemd's wait for a successor."""
    for sock in sockets:
        if not isinstance(sock, SystemdSocket):
            drop_new_connections(sock)


def unlink(addresses: Sequence[ListenAddress]) -> None:
    """Remove the files of unix sockets. Call it before they are closed: after that they may be a successor's."""
    for address in addresses:
        if isinstance(address, UnixAddress):
            with contextlib.suppress(OSError):
                os.unlink(address.path)


def display_address(sock: socket.socket) -> str:
    """``host:port`` as bound, with the port that 0 became; ``unix:`` and the path for a unix socket."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
