"""The workers' processes as the system sees them, and what the gateway tells of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from tests.server.workers.gated import WORKERS
from tests.server.workers.hooks import client_of, hook_of, send
from tests.support.gateways import RunningGateway, wait_until

OUTAGE: Final = 60.0
"""Seconds that the replacement of a worker may take on a busy machine; on an idle one it takes one."""


def pids_of(gateway: RunningGateway) -> list[int]:
    """The workers, as the gateway tells of them."""
    pids: list[int] = gateway.get("/api/status").json()["workers"]
    return pids


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent_of(pid: int) -> int:
    """Whose child the process is."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def holder_of(client_port: int, gateway: RunningGateway, pids: Iterable[int]) -> int | None:
    """Which worker has accepted the connection that comes from this port."""
    local = int(gateway.hooks.rsplit(":", 1)[1])
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    ends = (f":{local:04X}", f":{client_port:04X}")
    inode = next((row[9] for row in rows if row[1].endswith(ends[0]) and row[2].endswith(ends[1])), None)
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(link) == f"socket:[{inode}]":
                    return pid
    return None


def status_at_each(gateway: RunningGateway, app: str) -> dict[int, int]:
    """What every worker answers to a hook of this app, by its pid."""
    pids = pids_of(gateway)
    answers: dict[int, int] = {}
    for _ in range(64):
        with client_of(gateway) as client:
            status, _ = send(client, hook_of(app))
            pid = holder_of(client.sock.getsockname()[1], gateway, pids)
        assert pid is not None
        assert answers.setdefault(pid, status) == status
        if len(answers) == len(pids):
            break
    return answers


def is_whole_without(gateway: RunningGateway, *gone: int) -> bool:
    """Whether as many workers serve as are configured, none of them one of the *gone*."""
    pids = pids_of(gateway)
    if len(pids) != WORKERS or set(pids) & set(gone):
        return False
    return gateway.metric("gateway_workers") == WORKERS


def count_becomes(gateway: RunningGateway, wanted: float, name: str, **labels: str) -> bool:
    """Wait until the metric's samples with these labels add up to that."""
    return bool(wait_until(lambda: gateway.metric(name, **labels) == wanted))


def counters_of(gateway: RunningGateway) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample that may never go down."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(gateway.get("/metrics").text)
        if family.type in ("counter", "histogram") and family.name.startswith("gateway_")
        for sample in family.samples
    }
