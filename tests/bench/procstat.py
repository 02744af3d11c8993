"""CPU time and memory of a process and all its descendants, from ``/proc`` (see proc(5))."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Stat(NamedTuple):
    """What ``/proc/PID/stat`` says that is of use here."""

    parent: int
    ticks: int
    """User and system time of all its threads, those that ended too; without that of children."""


class Memory(NamedTuple):
    """In bytes, all processes together."""

    rss: int
    pss: int
    """A page that n processes share counts as 1/n for each."""


def parse_stat(line: str) -> Stat:
    """Read a line of ``/proc/PID/stat``; the program's name in it may hold blanks and brackets."""
    fields = line.rpartition(") ")[2].split()
    return Stat(parent=int(fields[1]), ticks=int(fields[11]) + int(fields[12]))


def parse_rollup(text: str) -> Memory:
    """Read ``/proc/PID/smaps_rollup``."""
    sizes = {name: rest for name, _, rest in (line.partition(":") for line in text.splitlines())}
    rss, pss = (int(sizes[name].split()[0]) * 1024 for name in ("Rss", "Pss"))
    return Memory(rss, pss)


def family(pid: int) -> list[int]:
    """The process and all its descendants, itself first."""
    children = defaultdict(list)
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # ended meanwhile
                children[parse_stat((entry / "stat").read_text()).parent].append(int(entry.name))
    found = [pid]
    for one in found:
        found += children[one]
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time that the process and its descendants have used; steps of 10 ms."""
    ticks = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            ticks += parse_stat((_PROC / str(member) / "stat").read_text()).ticks
    return ticks / _TICKS


def memory(pid: int) -> Memory:
    """What the process and its descendants hold."""
    parts = [parse_rollup((_PROC / str(member) / "smaps_rollup").read_text()) for member in family(pid)]
    return Memory(sum(part.rss for part in parts), sum(part.pss for part in parts))
