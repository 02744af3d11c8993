"""Gateways of a fleet as processes: they find each other, and lose each other when one ends or is killed."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.gateways import LISTEN, RunningGateway, running_gateway, wait_until
from tests.support.programs import free_port
from tests.support.redis import RedisServer, redis_server

APPS = "apps: {defaultApp: {static: allow}}\n"


def config(url: str, *, workers: int = 1, more: str = "") -> str:
    server = LISTEN.replace("}", f", workers: {workers}}}")
    return f"{server}state: {{url: '{url}'}}\n{APPS}{more}"


def seen(gateway: RunningGateway) -> dict[str, Any]:
    state: dict[str, Any] = gateway.get("/api/status").json()["state"]
    return state


def replicas(gateway: RunningGateway, count: int) -> bool:
    return bool(wait_until(lambda: seen(gateway)["replicas"] == count and not seen(gateway)["stale"]))


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A member of the fleet, named "a"."""
    directory = tmp_path_factory.mktemp("a")
    with running_gateway(config(redis.url), directory, environment={"WCS_GATEWAY_INSTANCE": "a"}) as running:
        assert replicas(running, 1)
        yield running


def records(redis: RedisServer) -> list[dict[str, Any]]:
    found = [redis.command("GET", key) for key in redis.command("KEYS", "wcs:replica:*")]
    return [msgspec.msgpack.decode(record) for record in found]


def test_another_one_is_found_and_says_when_it_ends(
    gateway: RunningGateway, redis: RedisServer, tmp_path: Path
) -> None:
    assert seen(gateway)["url"] == redis.url
    with running_gateway(config(redis.url, more="# another text\n"), tmp_path) as other:
        assert replicas(gateway, 2)
        assert replicas(other, 2)
        assert gateway.metric("gateway_fleet_replicas") == 2
        assert gateway.metric("gateway_state_up") == 1
        assert gateway.metric("gateway_fleet_config_mismatch") == 1
        names = {record["description"]["name"] for record in records(redis)}
        assert names == {"a", f"{socket.gethostname()}:{other.admin.rpartition(':')[2]}"}
        assert other.stop() == 0
        assert redis.command("ZCARD", "wcs:replicas") == 1, "it has not said that it ends"
    assert replicas(gateway, 1)
    assert gateway.metric("gateway_fleet_config_mismatch") == 0


def test_a_drain_is_seen_by_the_others(gateway: RunningGateway, redis: RedisServer) -> None:
    assert [record["description"]["drained"] for record in records(redis)] == [False]
    assert gateway.post("/-/drain").status_code == 200
    assert wait_until(lambda: [record["description"]["drained"] for record in records(redis)] == [True])
    assert records(redis)[0]["description"]["phase"] == "draining"
    assert records(redis)[0]["description"]["admin"] == gateway.admin
    assert gateway.post("/-/undrain").status_code == 200
    assert wait_until(lambda: [record["description"]["drained"] for record in records(redis)] == [False])


def test_a_change_waits_for_a_restart(gateway: RunningGateway, redis: RedisServer) -> None:
    before = gateway.config.read_text()
    report = gateway.reload(f"{LISTEN}{APPS}")
    assert report["changes"] == ["state changed (takes effect after a restart)"]
    assert replicas(gateway, 1)
    gateway.reload(before)


def test_a_server_that_hangs_is_away_and_comes_back(gateway: RunningGateway, redis: RedisServer) -> None:
    redis.pause()
    assert gateway.hook().status_code == 200
    assert wait_until(lambda: seen(gateway)["stale"] and not seen(gateway)["up"])
    assert gateway.metric("gateway_fleet_replicas") == 1, "those last known"
    assert gateway.hook().status_code == 200
    redis.resume()
    assert replicas(gateway, 1)


def test_without_the_server_it_is_ready_at_once_and_decides(tmp_path: Path) -> None:
    port = free_port()
    with running_gateway(config(f"redis://:s3cret@127.0.0.1:{port}/0"), tmp_path) as gateway:
        assert gateway.hook().status_code == 200
        assert gateway.get("/-/ready").status_code == 200
        assert wait_until(lambda: seen(gateway)["error"] == "it refuses connections")
        assert seen(gateway)["up"] is False
        assert gateway.metric("gateway_state_up") == 0
        (line,) = [line for line in gateway.lines() if line.get("event") == "state_away"]
        assert line["message"] == (
            f"state redis://127.0.0.1:{port}/0 is away (it refuses connections): hooks are decided without it"
        )
        assert "s3cret" not in gateway.log.read_text() + gateway.get("/api/config").text


@pytest.mark.slow
def test_several_workers_are_one_member_that_can_be_killed(
    gateway: RunningGateway, redis: RedisServer, tmp_path: Path
) -> None:
    with running_gateway(config(redis.url, workers=2), tmp_path) as other:
        assert replicas(gateway, 2)
        assert replicas(other, 2)
        assert other.metric("gateway_state_up") == 1
        other.process.send_signal(signal.SIGKILL)
        assert replicas(gateway, 1)


@pytest.mark.slow
def test_a_server_that_hangs_does_not_delay_the_start_or_the_end(tmp_path: Path) -> None:
    with redis_server() as redis:
        redis.pause()
        with running_gateway(config(redis.url), tmp_path) as gateway:
            assert gateway.hook().status_code == 200
            assert gateway.stop() == 0
