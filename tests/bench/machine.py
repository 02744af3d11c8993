"""What the figures were taken on: the machine, and the versions of all that took part."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Final

from tests.bench.processes import program

_VERSION: Final = re.compile(r"\d+(?:\.\d+)+")


def machine() -> dict[str, str]:
    """The processor, how many of it, the kernel."""
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": found[1] if found else platform.machine(),
        "cpus": str(os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
    }


def busy(seconds: float = 2.0) -> float:
    """How much of all CPUs is in use, from 0 to 1: proc(5), ``/proc/stat``."""
    before = _ticks()
    time.sleep(seconds)
    total, idle = (after - earlier for after, earlier in zip(_ticks(), before, strict=True))
    return 1 - idle / total


def _ticks() -> tuple[int, int]:
    """All time since the machine's start, and the idle part of it."""
    fields = [int(field) for field in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    return sum(fields), fields[3] + fields[4]


def versions(gateway: str) -> dict[str, str]:
    """Of the gateway's own command, of the programs, and of the libraries of the Python contenders."""
    commands = {
        "gateway": [gateway, "version"],
        "HAProxy": [program("haproxy", "haproxy"), "-v"],
        "nginx": [program("nginx", "nginx-light"), "-v"],
        "wrk": [program("wrk", "wrk"), "-v"],
    }
    libraries = ("aiohttp", "starlette", "httpx", "uvicorn", "uvloop")
    return {
        "Python": platform.python_version(),
        **{name: _said(command) for name, command in commands.items()},
        **{name: version(name) for name in libraries},
    }


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    found = _VERSION.search(done.stdout + done.stderr)
    return found[0] if found else "unknown"
