"""Listening sockets that systemd hands over (sd_listen_fds(3)).

Systemd keeps them open, so they outlive this process: connections that wait on them are accepted by the next one.
Nothing may shut them down, filter them or remove their files.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
from collections.abc import Iterator, MutableMapping
from typing import Final, NamedTuple

_FIRST: Final = 3
"""SD_LISTEN_FDS_START: the descriptors follow those of standard input, output and error."""
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_NAMELESS: Final = "unknown"
"""The name of a descriptor without one (sd_listen_fds_with_names(3))."""
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
_ANY_HOST: Final = frozenset(("", "0.0.0.0", "::"))  # noqa: S104 - compared, not bound
_is_count = re.compile(r"[0-9]{1,4}").fullmatch


class SystemdSocket(socket.socket):
    """A listening socket that the next process accepts from when this one has ended."""


class _Descriptor(NamedTuple):
    name: str
    number: int


class HandedOver:
    """The sockets that systemd has handed over to this process: take those that are wanted, then close the rest."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ, first: int = _FIRST) -> None:
        """Keep the descriptors, from *first* on, from child processes, and remove the variables, which name them."""
        pid, count, names, *_ = (environment.pop(name, "") for name in _VARIABLES)
        self._pid = pid if pid not in ("", str(os.getpid())) else None
        """The process that they were meant for, where it is another."""
        self._left = [] if self._pid or not _is_count(count) else list(_descriptors(first, int(count), names))
        self._names = sorted({descriptor.name for descriptor in self._left})

    def take(self, name: str) -> list[SystemdSocket]:
        """All sockets of this name. Raises ValueError, whose message says what the operator can do."""
        numbers = [descriptor.number for descriptor in self._left if descriptor.name == name]
        if not numbers:
            raise ValueError(self._reason_for_absence(name))
        self._left = [descriptor for descriptor in self._left if descriptor.name != name]
        with contextlib.ExitStack() as undo:
            taken = [undo.enter_context(_listening(number)) for number in numbers]
            undo.pop_all()
        return taken

    def name_of(self, host: str, port: int) -> str | None:
        """The name of a TCP socket that was not taken and has this address; None if there is none."""
        for name, number in self._left:
            try:
                with socket.socket(fileno=os.dup(number)) as sock:
                    bound = () if sock.family == socket.AF_UNIX else sock.getsockname()
            except OSError:  # no socket
                continue
            if bound and bound[1] == port and (bound[0] == host or {bound[0], host} & _ANY_HOST):
                return name
        return None

    def close_rest(self) -> list[str]:
        """Close what was not taken. The names: connections to these sockets wait for ever, as systemd keeps them."""
        unused, self._left = self._left, []
        for _, number in unused:
            os.close(number)
        return [name for name, _ in unused]

    def _reason_for_absence(self, name: str) -> str:
        if self._pid is not None:
            return (
                f"systemd handed its sockets to process {self._pid}, and the gateway is process {os.getpid()}: start "
                "it directly in ExecStart=, or with exec"
            )
        if not self._names:
            return (
                "systemd handed over no sockets: stop the service, then systemctl enable --now wcs-gateway.socket "
                "wcs-gateway-admin.socket, and start it; or write an address"
            )
        return (
            f"systemd handed over no socket of this name, only {', '.join(self._names)}: write one of these, or "
            f"FileDescriptorName={name} in the socket unit"
        )


def _descriptors(first: int, count: int, names: str) -> Iterator[_Descriptor]:
    """Those that are open, each with its name."""
    named = names.split(":") if names else []
    for index in range(count):
        try:
            os.set_inheritable(first + index, False)
        except OSError:
            continue
        yield _Descriptor(named[index] if index < len(named) else _NAMELESS, first + index)


def _listening(number: int) -> SystemdSocket:
    """The descriptor as a socket to accept from. Raises ValueError where it is none, and closes it."""
    if not stat.S_ISSOCK(os.fstat(number).st_mode):
        os.close(number)
        raise ValueError(f"descriptor {number} is not a socket: write ListenStream= in the socket unit")
    sock = SystemdSocket(fileno=number)
    fault = _fault(sock)
    if fault is not None:
        sock.close()
        raise ValueError(f"descriptor {number} {fault}")
    sock.setblocking(False)
    return sock


def _fault(sock: socket.socket) -> str | None:
    """Why the gateway cannot accept from it, and what to write in the socket unit; None if it can."""
    if sock.type != socket.SOCK_STREAM:
        return "is not a stream socket: write ListenStream= in the socket unit"
    if sock.family not in _FAMILIES:
        return "is not of IPv4, IPv6 or unix(7): write another ListenStream= in the socket unit"
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "does not listen: write Accept=no in the socket unit"
    return None


NOTHING_HANDED_OVER: Final = HandedOver({})
