"""A gateway with a spool, its backend, and hooks beside it whose own backend is well."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.spool_backend import EventBackend, Script
from tests.support.spool_load import EventLoad
from tests.support.spool_oracle import Crash, Findings, Sent, judge

FIGURES: Final = os.environ.get("SPOOL_FIGURES")
"""A file that gets a line for each bad day, if set."""
DELIVERY_LIMIT: Final = 90.0
"""Seconds within which everything must be delivered once nothing is broken any more."""
DOWN: Final = Script(up=False)
UP: Final = Script()
_STORE_PROCESS: Final = "gateway.server.store_process"


@dataclass
class Day:
    """One bad day."""

    name: str
    directory: Path
    backend: EventBackend
    beside_backend: EventBackend
    crashes: list[Crash] = field(default_factory=list)
    """When processes were killed."""
    gap: float = 0.0
    """Seconds after an answer from which order must hold."""
    sent: list[Sent] = field(default_factory=list)
    beside: dict[int, int] = field(default_factory=dict)
    """Hooks beside by the status of their answers; 0 is none."""
    accounted: set[str] = field(default_factory=set)
    """Events that are dead letters, or were dropped by a bound."""
    _gateways: int = 0

    def config(
        self,
        *,
        store: str | None = None,
        workers: int = 1,
        listen: str = "127.0.0.1:0",
        app: str = "spooled",
        spool: Mapping[str, Any] | None = None,
        **sections: Any,
    ) -> str:
        """A configuration: events of *app* are spooled, hooks of the app ``beside`` have a backend of their own."""
        return json.dumps(
            {
                "server": {"listen": listen, "admin": "127.0.0.1:0", "workers": workers},
                "store": {"url": store or f"sqlite:{self.directory}/store.db"},
                "log": {"access": "off"},
                "defaults": {"timeout": "1s", "dedupe": "off"},
                "upstreams": {"spooled": {"url": self.backend.url}, "beside": {"url": self.beside_backend.url}},
                "apps": {
                    app: {"upstream": "spooled", "spool": {"max_age": "1h", **(spool or {})}},
                    "beside": {"upstream": "beside"},
                },
                **sections,
            }
        )

    @contextlib.contextmanager
    def gateway(self, config: str, *, up: bool = True, **options: Any) -> Iterator[RunningGateway]:
        """A gateway, in a directory of its own; *up*: wait until its store is."""
        self._gateways += 1
        directory = self.directory / f"gateway-{self._gateways}"
        directory.mkdir()
        with running_gateway(config, directory, **options) as gateway:
            if up:
                assert store_is_up(gateway), gateway.log.read_text()
            yield gateway

    @contextlib.contextmanager
    def load(self, gateways: Sequence[RunningGateway], **options: Any) -> Iterator[EventLoad]:
        """Events, and hooks beside them from begin to end; when the block ends, all events have been answered."""
        addresses = [gateway.hooks for gateway in gateways]
        hooks = EventLoad(addresses, app="beside", method="OnCallEvent", name="beside", calls=2, events=1_000_000,
                          connections=2, pause=0.02)  # fmt: skip
        with hooks, EventLoad(addresses, app="spooled", **options) as load:
            yield load
            load.wait()
        self.sent += load.sent
        for status, count in hooks.statuses().items():
            self.beside[status] = self.beside.get(status, 0) + count

    def send(self, gateway: RunningGateway, name: str, count: int = 10, calls: int = 5) -> dict[int, int]:
        """A few events by the status of their answers."""
        with EventLoad([gateway.hooks], app="spooled", name=name, calls=calls, events=count // calls) as load:
            load.wait()
        self.sent += load.sent
        return load.statuses()

    def kill(self, pid: int) -> None:
        """``kill -9`` of one process."""
        self.crashes.append(Crash.by(lambda: os.kill(pid, signal.SIGKILL)))

    def kill_gateway(self, gateway: RunningGateway) -> None:
        """``kill -9`` of its main process."""
        self.crashes.append(Crash.by(lambda: gateway.stop(signal.SIGKILL)))

    def wait_until_delivered(self, seconds: float = DELIVERY_LIMIT) -> None:
        """Wait until all that was promised has been delivered, or the time is over; then a little for doubles."""
        wait_until(lambda: not self._outstanding(), seconds)
        time.sleep(0.5)

    def close(self, *, beside_unanswered: int = 0) -> Findings:
        """Wait for the deliveries, judge, note the figures; nothing may be wrong.

        *beside_unanswered*: how many hooks beside may have been in the hands of what was killed.
        """
        self.wait_until_delivered()
        received = self.backend.received()
        found = judge(self.sent, received, crashes=self.crashes, gap=self.gap, accounted=self.accounted)
        beside = f"{self.beside.get(200, 0)} of {sum(self.beside.values())} hooks beside fine"
        if FIGURES:
            with open(FIGURES, "a") as file:
                file.write(f"{self.name}: {found}; {beside}\n")
        assert not found.violations, f"{found}\n{found.violations}"
        assert self.beside.keys() <= {200, 0}, self.beside
        assert self.beside.get(0, 0) <= beside_unanswered, self.beside
        return found

    def _outstanding(self) -> bool:
        delivered = {one.id for one in self.backend.received() if one.is_delivery}
        promised = {one.id for one in self.sent if one.status == 200}
        return bool(promised - delivered - self.accounted)


@contextlib.contextmanager
def bad_day(name: str, directory: Path) -> Iterator[Day]:
    """The backends of one day; its gateways are the test's own."""
    with EventBackend(directory, "backend") as backend, EventBackend(directory, "beside") as beside:
        yield Day(name, directory, backend, beside)


def store_is_up(gateway: RunningGateway, seconds: float = 30.0, *, up: bool = True) -> bool:
    """Wait until the gateway says that its store is up, or with *up* False that it is not."""
    return bool(wait_until(lambda: gateway.metric("gateway_store_up") == up, seconds))


def children_of(gateway: RunningGateway) -> dict[int, str]:
    """The children of the gateway, by pid, with their command lines."""
    found: dict[int, str] = {}
    for file in Path(f"/proc/{gateway.pid}/task").glob("*/children"):
        for pid in file.read_text().split():
            with contextlib.suppress(OSError):
                found[int(pid)] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def store_pid(gateway: RunningGateway, *not_these: int) -> int:
    """The pid of its store process; waits until there is one, other than *not_these*."""
    found = wait_until(
        lambda: [pid for pid, line in children_of(gateway).items() if _STORE_PROCESS in line and pid not in not_these]
    )
    assert found, children_of(gateway)
    return int(found[0])


def worker_pids(gateway: RunningGateway) -> list[int]:
    """The pids of its workers."""
    pids: list[int] = gateway.get("/api/status").json()["workers"]
    return pids
