"""Gateways that keep events: their configuration, their processes, and what they say of the store."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

from tests.support.gateways import RunningGateway, wait_until
from tests.support.spool_backend import EventBackend

PATIENCE: Final = 60.0
"""Seconds that anything may take on a busy machine."""


def configuration(backend: EventBackend, workers: int, **sections: Any) -> str:
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": workers, "drain_timeout": "5s"},
            "store": {"url": "sqlite:store.db"},
            "defaults": {"spool": {"max_age": "1h"}, "timeout": "2s"},
            "upstreams": {"php": {"url": backend.url}},
            "apps": {"defaultApp": {"upstream": "php"}},
            **sections,
        }
    )


def children(pid: int) -> list[int]:
    """The children of a process, however they were started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def program(pid: int) -> str:
    """The command line of a process; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def store_pid(gateway: RunningGateway) -> int:
    """The store's process, once it is up."""

    def find() -> int:
        return next((pid for pid in children(gateway.pid) if "store_process" in program(pid)), 0)

    assert wait_until(lambda: find() and gateway.metric("gateway_store_up") == 1, PATIENCE), gateway.log.read_text()
    return find()


def worker_pids(gateway: RunningGateway) -> list[int]:
    return [pid for pid in children(gateway.pid) if "server.worker" in program(pid)]


def waiting(gateway: RunningGateway) -> float:
    """Events that wait, as the store says when it is asked (the metric is up to a second old); without end while none
    says so."""
    answer = gateway.get("/api/spool").json()
    events = answer["events"] if answer["store"]["up"] else None
    return math.inf if events is None else float(events)


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident(pid: int) -> int:
    """Bytes of memory that only this process has."""
    fields = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in fields.splitlines() if line.startswith("Private_")) * 1024
