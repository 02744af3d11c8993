"""What a gateway reports to systemd when it is started, reloaded and stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.admin import systemd
from tests.support.gateways import RunningGateway, running_gateway, wait_until


class Manager:
    """The end of NOTIFY_SOCKET at which systemd is."""

    def __init__(self, address: str) -> None:
        self.environment = {"NOTIFY_SOCKET": address.replace("\0", "@")}
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        self._sock.bind(address)
        self.messages: list[list[str]] = []

    def told(self) -> list[list[str]]:
        """Each message so far, in lines."""
        with suppress(BlockingIOError):
            while True:
                self.messages.append(self._sock.recv(65536).decode().split("\n"))
        return self.messages

    def has(self, line: str) -> bool:
        return any(line in message for message in self.told())

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    running = Manager(str(tmp_path / "notify"))
    yield running
    running.close()


def statuses(manager: Manager) -> list[str]:
    return [line[7:] for message in manager.told() for line in message if line.startswith("STATUS=")]


def config(workers: int) -> str:
    return f"server: {{listen: '127.0.0.1:0', admin: '127.0.0.1:0', drain_timeout: 45s, workers: {workers}}}\n" + (
        "apps: {a: {static: allow}}\n"
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_the_manager_is_told_of_start_reload_and_end_in_this_order(
    manager: Manager, workers: int, tmp_path: Path
) -> None:
    with running_gateway(config(workers), tmp_path, environment=manager.environment) as gateway:
        assert gateway.hook(body=b'{"appKey":"a"}').status_code == 200
        assert wait_until(lambda: [message[0] for message in manager.told()] == ["READY=1"])
        gateway.process.send_signal(signal.SIGHUP)
        assert wait_until(lambda: len(manager.told()) == 3)
        assert gateway.stop() == 0
    assert [message[0] for message in manager.told()] == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
    assert int(manager.told()[1][1].removeprefix("MONOTONIC_USEC=")) > 0
    # The unit's own TimeoutStopSec= would cut a long drain short.
    assert "EXTEND_TIMEOUT_USEC=55000000" in manager.told()[-1]
    assert statuses(manager) == [
        "serving 1 app", "serving 1 app", "stopping: hooks in flight have 45 s",
    ]  # fmt: skip


def test_a_reload_that_fails_is_over_too_and_the_status_says_why(manager: Manager, tmp_path: Path) -> None:
    with running_gateway(config(1), tmp_path, environment=manager.environment) as gateway:
        gateway.write_config("apps: [")
        assert gateway.post("/-/reload").status_code == 422
        assert wait_until(lambda: any("NOT in use: " in status for status in statuses(manager)))
        assert wait_until(lambda: manager.told()[-1][0] == "READY=1")
        gateway.reload(config(1))
        assert wait_until(lambda: statuses(manager)[-1] == "serving 1 app")


@pytest.mark.parametrize("workers", [1, 2])
def test_where_the_unit_has_a_watchdog_it_is_told_that_the_loop_turns(
    manager: Manager, workers: int, tmp_path: Path
) -> None:
    environment = {**manager.environment, "WATCHDOG_USEC": "100000"}
    with running_gateway(config(workers), tmp_path, environment=environment):
        assert wait_until(lambda: manager.told().count(["WATCHDOG=1"]) >= 5)


def test_a_watchdog_hears_nothing_of_a_loop_that_stands_still(manager: Manager, tmp_path: Path) -> None:
    environment = {**manager.environment, "WATCHDOG_USEC": "100000"}
    with running_gateway(config(1), tmp_path, environment=environment) as gateway:
        assert wait_until(lambda: manager.has("WATCHDOG=1"))
        gateway.process.send_signal(signal.SIGSTOP)
        try:
            assert wait_until(lambda: stopped(gateway))
            manager.told()
            manager.messages.clear()
            assert not wait_until(manager.told, 0.5)
        finally:
            gateway.process.send_signal(signal.SIGCONT)
        assert wait_until(lambda: manager.has("WATCHDOG=1"))


def stopped(gateway: RunningGateway) -> bool:
    return Path(f"/proc/{gateway.pid}/stat").read_text().rpartition(") ")[2].startswith("T")


@pytest.mark.parametrize(
    ("wanted", "pid"),
    [("", None), ("0", None), ("-5", None), ("x", None), ("²", None), ("100000", "1")],
)
async def test_no_watchdog_is_told_that_is_not_wanted_of_this_process(
    wanted: str, pid: str | None, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.environment["NOTIFY_SOCKET"])
    monkeypatch.setenv("WATCHDOG_USEC", wanted)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    async with systemd.watchdog():
        await asyncio.sleep(0.01)
    assert manager.told() == []


async def test_a_watchdog_wanted_of_this_process_by_number_is_told(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.environment["NOTIFY_SOCKET"])
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    async with systemd.watchdog():
        await asyncio.sleep(0.01)
    assert manager.told() == [["WATCHDOG=1"]]


def test_an_abstract_name_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Manager(f"\0wcs-gateway-test-{os.getpid()}")
    try:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.environment["NOTIFY_SOCKET"])
        systemd.ready("two\nlines")
        assert manager.told() == [["READY=1", "STATUS=two lines"]]
    finally:
        manager.close()


@pytest.mark.parametrize(
    "address", ["", "relative", "vsock:2:1234", "/nowhere/at/all", "/" + "x" * 300, "@" + "x" * 300]
)
def test_where_nobody_listens_nothing_is_told_and_nothing_fails(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    systemd.ready("serving")
    systemd.stopping(1.0)


def test_a_manager_that_does_not_read_holds_nobody_up(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.environment["NOTIFY_SOCKET"])
    for _ in range(2000):  # far more than a socket's queue holds (net.unix.max_dgram_qlen)
        systemd.ready("serving")
    assert 0 < len(manager.told()) < 2000


async def test_a_reload_that_is_broken_off_by_the_end_is_told_no_more(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.environment["NOTIFY_SOCKET"])
    with pytest.raises(asyncio.CancelledError), systemd.reloading():
        raise asyncio.CancelledError
    with pytest.raises(ZeroDivisionError), systemd.reloading():
        raise ZeroDivisionError
    assert [message[0] for message in manager.told()] == ["RELOADING=1", "RELOADING=1", "READY=1"]
