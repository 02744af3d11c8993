"""A fleet of containers on one machine: the compose file, and the addresses by which its parts find each other."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway.config import Loaded, loads
from tests.deploy.packaged import complaints, packaged
from tests.support.gateways import ROOT, wait_until
from tests.support.redis import RedisServer

pytestmark = pytest.mark.real

FLEET: Final = ROOT / "deploy" / "fleet"
FILE: Final = FLEET / "compose.yaml"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load(FILE.read_text())
SERVICES: Final[dict[str, Any]] = COMPOSE["services"]


def address(service: str, network: str) -> str:
    found: str = SERVICES[service]["networks"][network]["ipv4_address"]
    return found


def options(name: str) -> list[str]:
    lines = [line.strip() for line in (FLEET / "compose" / name).read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    """The gateways' configuration, with secrets in a directory of the test's own."""
    text = (FLEET / "compose" / "gateway.yaml").read_text()
    for name in COMPOSE["secrets"]:
        assert f"/run/secrets/{name}" in text
        (tmp_path / name).write_text("0123456789abcdef")
    return loads(text.replace("/run/secrets/", f"{tmp_path}/"), "gateway.yaml")


def test_it_follows_the_specification(tmp_path: Path) -> None:
    checker = [packaged("check-jsonschema", "check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    assert complaints([*checker, str(FILE)]) == ""
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILE.read_text().replace("stop_grace_period:", "stop_grace:"))
    assert "stop_grace" in complaints([*checker, str(wrong)])


def test_there_are_two_of_each_part_and_three_sentinels_all_pinned_confined_and_bounded() -> None:
    kinds = [re.sub(r"-[a-z0-9]$", "", name) for name in SERVICES]
    counts = {kind: kinds.count(kind) for kind in kinds}
    assert counts == {"gateway": 2, "haproxy": 2, "redis": 2, "sentinel": 3, "postgresql": 1, "php": 1}
    for name, service in SERVICES.items():
        assert re.search(r":(v?\d+\.\d+[\w.-]*|local)$", service["image"]), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "mem_limit" in service, name


def test_every_file_that_a_service_mounts_is_there_and_no_secret_can_be_committed() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (FLEET / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
        assert set(service["networks"]) <= COMPOSE["networks"].keys()
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
    for secret in COMPOSE["secrets"].values():
        git = ["git", "-C", str(ROOT), "check-ignore", "-q", str((FLEET / secret["file"]).resolve())]
        assert subprocess.run(git).returncode == 0


def test_only_the_balancers_are_open_to_others() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == ["8080:8080", "8081:8080"]
    assert COMPOSE["networks"]["shared"]["internal"] is True
    members = {name for name, service in SERVICES.items() if "shared" in service["networks"]}
    assert all(re.match("gateway|redis|sentinel|postgresql", name) for name in members)


def test_the_addresses_in_all_files_are_those_of_the_services(loaded: Loaded) -> None:
    assert loaded.warnings == ()
    config = loaded.config
    haproxy = (ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text()
    for name in ("gateway-a", "gateway-b"):
        assert f"server {name} {address(name, 'hooks')}:8080 port 9180" in haproxy
        grace = SERVICES[name]["stop_grace_period"]
        assert float(grace.removesuffix("s")) >= config.server.drain_timeout + 10
    balancers = [address(f"haproxy-{name}", "hooks") for name in "ab"]
    assert [str(network).partition("/")[0] for network in config.server.trusted_proxies] == balancers
    assert config.state is not None
    text = (FLEET / "compose" / "gateway.yaml").read_text()
    sentinels = ",".join(address(f"sentinel-{number}", "shared") for number in (1, 2, 3))
    assert f"redis+sentinel://{sentinels}/wcs" in text
    master = address("redis-a", "shared")
    assert options("sentinel.conf")[1] == f"sentinel monitor wcs {master} 6379 2"
    assert SERVICES["redis-b"]["command"][-1] == f"{master} 6379"
    assert config.upstreams["php"].max_connections == int(SERVICES["php"]["environment"]["PHP_CLI_SERVER_WORKERS"])


def test_redis_and_sentinel_take_their_files(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis", *options("redis.conf"))
    sentinel = RedisServer(tmp_path / "sentinel", *options("sentinel.conf"), sentinel=True)
    try:
        for server in (redis, sentinel):
            server.start()
        assert redis.command("CONFIG", "GET", "maxmemory-policy") == [b"maxmemory-policy", b"volatile-lru"]
        assert redis.command("CONFIG", "GET", "save") == [b"save", b""]
        found = wait_until(lambda: sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "wcs"))
        assert found == [b"198.51.100.21", b"6379"]
    finally:
        redis.close()
        sentinel.close()
