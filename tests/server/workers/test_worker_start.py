"""What a worker begins with."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import httpx

from tests.server.workers.processes import OUTAGE, is_alive
from tests.support.gateways import RunningGateway, running_gateway, wait_until


def config(verdict: str) -> str:
    server = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": 2}
    return json.dumps({"server": server, "apps": {"defaultApp": {"static": verdict}}})


def children(gateway: RunningGateway) -> set[int]:
    pids = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
    return {pid for pid in map(int, pids) if is_alive(pid)}


def status(gateway: RunningGateway) -> int | None:
    """What a hook on a new connection is answered with; None while nobody accepts."""
    try:
        answer = httpx.post(f"{gateway.url}/OnCallEvent", json={"appKey": "defaultApp"}, trust_env=False, timeout=20)
        return answer.status_code
    except httpx.TransportError:
        return None


def test_a_worker_that_begins_while_a_reload_is_made_begins_with_its_outcome(tmp_path: Path) -> None:
    with running_gateway(config("reject"), tmp_path) as gateway:
        for verdict, expected in (("allow", 200), ("reject", 403)):
            before = children(gateway)
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            assert wait_until(lambda before=before: len(children(gateway) - before) == 2, OUTAGE)  # type: ignore[misc]
            gateway.write_config(config(verdict))
            assert gateway.post("/-/reload").status_code == 200
            assert wait_until(lambda: status(gateway), OUTAGE) == expected  # the very first answer
            assert {status(gateway) for _ in range(10)} == {expected}
