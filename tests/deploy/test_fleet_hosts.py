"""A fleet on hosts: real servers take the files for Redis and Sentinel, and the gateway's configuration fits."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.config import Loaded, loads
from tests.support.gateways import ROOT, running_gateway, wait_until
from tests.support.programs import free_port, require
from tests.support.redis import RedisServer

pytestmark = pytest.mark.real

FLEET: Final = ROOT / "deploy" / "fleet"
HOSTS: Final = ("192.0.2.11", "192.0.2.12", "192.0.2.13")
UNITS: Final = (FLEET / "wcs-redis.service", FLEET / "wcs-sentinel.service")
SECRETS: Final = {
    "ADMIN_TOKEN": "token-of-the-fleet",
    "REDIS_PASSWORD": "CHANGE-ME",
    "PGPASSWORD": "p",
    "HISTORY_KEY": "0123456789abcdef",
}
MOST_EXPOSED: Final = 20
"""In tenths, of 100, by systemd's own count."""


def gateway_text() -> str:
    return (FLEET / "gateway.yaml").read_text()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return loads(gateway_text(), "gateway.yaml")


def options(name: str) -> list[str]:
    """The lines of a configuration of Redis that are no comments."""
    lines = [line.strip() for line in (FLEET / name).read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_the_gateways_configuration_is_valid_and_names_the_same_hosts_as_the_others(loaded: Loaded) -> None:
    assert loaded.warnings == ()
    assert loaded.config.state is not None
    assert all(host in str(gateway_text()) for host in HOSTS)
    keepalived = (ROOT / "deploy" / "keepalived" / "keepalived.conf").read_text()
    haproxy = (ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text()
    for network in loaded.config.server.trusted_proxies:
        assert str(network).partition("/")[0] in keepalived
    for host in HOSTS[:2]:
        assert f"{host}:8080 port 9180" in haproxy
    service = re.findall(r"^sentinel monitor (\S+) (\S+) 6379 2$", (FLEET / "sentinel.conf").read_text(), re.MULTILINE)
    assert service == [("wcs", HOSTS[0])]
    assert gateway_text().count(f"@{','.join(HOSTS)}/wcs") == 1


def test_systemd_takes_the_units_without_a_complaint_and_counts_them_among_the_least_exposed() -> None:
    program = require("systemd-analyze", "systemd")
    for unit in UNITS:
        done = subprocess.run([program, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
        command = [program, "--no-pager", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(unit)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stdout


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[RedisServer]]:
    """Two Redis and three Sentinels by the files, on free ports of this host."""
    with ExitStack() as stack:
        ours = {"bind", "port", "save", "appendonly"}  # RedisServer has lines of its own for these
        common = [line for line in options("redis.conf") if line.split()[0] not in ours]
        assert 'save ""' in options("redis.conf")
        master = RedisServer(tmp_path / "first", *common)
        replica = RedisServer(tmp_path / "second", *common, f"replicaof 127.0.0.1 {master.port}")
        monitor = ("monitor wcs 192.0.2.11 6379", f"monitor wcs 127.0.0.1 {master.port}")
        watching = [line.replace(*monitor) for line in options("sentinel.conf") if line.split()[0] not in ours]
        watching = [line.replace("milliseconds wcs 3000", "milliseconds wcs 500") for line in watching]
        sentinels = [RedisServer(tmp_path / f"sentinel{n}", *watching, sentinel=True) for n in range(3)]
        for server in (master, replica, *sentinels):
            stack.callback(server.close)
            server.start()
        yield [master, replica, *sentinels]


@pytest.mark.slow
def test_a_gateway_finds_its_state_by_these_files_also_after_a_failover(
    servers: list[RedisServer], tmp_path: Path
) -> None:
    master, replica, *sentinels = servers
    login = [SECRETS["REDIS_PASSWORD"]]
    assert wait_until(lambda: b"online" in master.command("INFO", "replication", login=login)), replica
    for sentinel in sentinels:
        assert wait_until(lambda it=sentinel: facts(it, login)["num-other-sentinels"] == b"2"), sentinel  # type: ignore[misc]
        assert wait_until(lambda it=sentinel: facts(it, login)["num-slaves"] == b"1"), sentinel  # type: ignore[misc]
    addresses = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
    text = gateway_text().replace(",".join(HOSTS), addresses)
    text = re.sub(r"^(store|history): .*\n|^  spool: .*\n", "", text, flags=re.MULTILINE)
    text = text.replace("192.0.2.11:8080", "127.0.0.1:0").replace("192.0.2.11:9180", f"127.0.0.1:{free_port()}")
    with running_gateway(text, tmp_path, environment=SECRETS) as gateway:
        gateway.client.headers["Authorization"] = f"Bearer {SECRETS['ADMIN_TOKEN']}"
        assert wait_until(lambda: gateway.metric("gateway_state_up") == 1), gateway.log.read_text()
        master.kill()
        assert wait_until(lambda: replica.command("ROLE", login=login)[0] == b"master"), sentinels[0]
        assert wait_until(lambda: gateway.metric("gateway_state_up") == 1), gateway.log.read_text()
        assert wait_until(lambda: replica.command("EXISTS", "wcs:replicas", login=login) == 1)


def facts(sentinel: RedisServer, login: list[str]) -> dict[str, Any]:
    answer = sentinel.command("SENTINEL", "MASTER", "wcs", login=login)
    return {name.decode(): value for name, value in zip(answer[::2], answer[1::2], strict=True)}
