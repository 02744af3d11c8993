"""What the system knows of a process: children, descriptors, memory, connections."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import NamedTuple


class Figures(NamedTuple):
    """One process at one moment."""

    files: int
    memory: int
    """Bytes of resident memory."""


def children(pid: int) -> list[int]:
    """Those that live; empty where the process is gone."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [child for child in map(int, text.split()) if is_alive(child)]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def is_alive(pid: int) -> bool:
    """Whether it is there, and no zombie."""
    return _state(pid) not in "ZX"


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP has reached it, or it is gone."""
    return _state(pid) in "TtZX"


def figures(pid: int) -> Figures | None:
    """None for a process that is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return Figures(len(os.listdir(f"/proc/{pid}/fd")), pages * resource.getpagesize())
    except OSError:
        return None


def peers(pid: int, port: int) -> frozenset[int]:
    """The other sides' ports of the TCP connections that the process has open on its own *port*."""
    inodes = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{name}")
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes and int(fields[1].rpartition(":")[2], 16) == port:
            found.add(int(fields[2].rpartition(":")[2], 16))
    return frozenset(found - {0})
