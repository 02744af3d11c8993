"""A gateway beside a neighbour of another version: what it does not know is left alone, and none of it is an error."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Final
from zlib import crc32

import msgspec
import pytest

from gateway.fleet.encoding import hook_digest, session_digest
from tests.support.faulty import FaultyBackend
from tests.support.fleets import fleet_config, replica, states_of
from tests.support.gateways import RunningGateway, wait_until
from tests.support.redis import RedisServer, redis_server

pack = msgspec.msgpack.encode
FAR: Final = 4_000_000_000_000
"""Unix time in milliseconds, long after the test."""
URL: Final = "http://127.0.0.1:9/rest"
REJECTED: Final = {"verdict": "reject", "source": "backend", "reason": "denied"}


class Neighbour:
    """Writes to the state what a gateway of another version might; it is none of ours that runs."""

    def __init__(self, server: RedisServer) -> None:
        self.command = server.command

    def join(self, **more: Any) -> None:
        """Its record, which never runs out."""
        description = {
            "name": "neighbour", "version": "99.1", "revision": "x", "admin": "127.0.0.1:9", "since": time.time(),
            "phase": "meditating", "moon": {"phase": ["full"]},
        }  # fmt: skip
        limits = {
            "rate:defaultApp": [100.0, 40.0, 40.0, "a fourth"],
            "colour:defaultApp": [1.0, 1.0, 1.0],
            "nonsense": [0.0, 0.0, 0.0],
        }
        record = {"id": "n", "beat": 7, "description": description, "limits": limits, "wishes": [1], **more}
        self.command("SET", "wcs:replica:n", pack(record))
        self.command("ZADD", "wcs:replicas", FAR, "n")

    def order(self, key: str, value: str) -> None:
        """An order, as it would be written and published."""
        self.command("HSET", "wcs:orders", key, value)
        self.command("SET", "wcs:orders:stamp", str(time.time_ns()))
        self.command("PUBLISH", "wcs:orders", f"{key}\n{value}")

    def verdict(self, body: bytes, verdict: dict[str, Any], *, version: int = 1) -> None:
        """The finished claim of an OnCallEvent with this body."""
        digest = hook_digest("OnCallEvent", body)
        value = _sealed(digest, verdict, version)
        self.command("HSET", f"wcs:claim:{digest.hex()}", "o", "n.1:1", "v", value, "k", "", "m", "what is this")

    def session(self, session: str, content: dict[str, Any], *, version: int = 1) -> None:
        """What it knows of a session."""
        digest = session_digest(session)
        self.command("SET", f"wcs:session:{digest.hex()}", _sealed(digest, content, version))


def _sealed(digest: bytes, content: dict[str, Any], version: int) -> bytes:
    packed = pack(content)
    return bytes([version]) + crc32(packed, crc32(digest)).to_bytes(4, "big") + packed


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def neighbour(server: RedisServer) -> Neighbour:
    neighbour = Neighbour(server)
    neighbour.join()
    neighbour.order('["mute","php","x"]', '{"at":1,"by":"n","on":true}')
    return neighbour


@pytest.fixture(scope="module")
def gateway(
    server: RedisServer, neighbour: Neighbour, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """One of this version, which starts beside the neighbour."""
    with FaultyBackend() as backend:
        targets = f"[{{url: '{backend.url_of('denied')}'}}, {{url: '{URL}', backup: true}}]"
        config = fleet_config(server.url, targets, "  other: {upstream: php, dedupe: 5s}")
        config = config.replace("prefix:", "dedupe: on, timeout: 100ms, prefix:")
        config = config.replace("{upstream: php}", "{upstream: php, rate_limit: 100/s, max_in_flight: 10}")
        with replica(config, tmp_path_factory.mktemp("fleet"), "a") as running:
            assert wait_until(lambda: running.get("/api/status").json()["state"]["replicas"] == 2)
            yield running
            said = [line for line in running.lines() if line.get("level") in ("error", "critical")]
            assert said == []


def test_the_neighbour_is_a_replica_and_shares_the_limits_that_both_know(gateway: RunningGateway) -> None:
    found = {each["name"]: each for each in gateway.get("/api/fleet").json()["replicas"]}
    assert found.keys() == {"a", "neighbour"}
    assert (found["neighbour"]["version"], found["neighbour"]["phase"]) == ("99.1", "meditating")

    def shares() -> dict[str, float]:
        limits = gateway.get("/api/status").json()["state"]["limits"]
        return {share["setting"]: share["share"] for share in limits["shares"]}

    assert wait_until(lambda: 10 < shares().get("rate_limit", 100) <= 60), shares()
    assert gateway.hook().status_code == 403


def test_orders_of_a_kind_that_it_does_not_know_stay_and_those_that_it_knows_hold(
    gateway: RunningGateway, neighbour: Neighbour
) -> None:
    key = json.dumps(["target", "php", URL], separators=(",", ":"))
    at = int(time.time() * 1000)
    neighbour.order("nothing at all", "nothing at all")
    neighbour.order(key, json.dumps({"at": at, "by": "n", "on": True, "why": "maintenance"}))
    assert wait_until(lambda: "ejected_by_operator" in states_of(gateway).values())
    neighbour.order(key, json.dumps({"at": at + 1, "by": "n", "on": False, "why": ["a", "list"]}))
    assert wait_until(lambda: "ejected_by_operator" not in states_of(gateway).values())
    neighbour.command("PUBLISH", "wcs:hints", '{"by":"n","upstream":"php","url":"u","severity":3}')
    neighbour.command("PUBLISH", "wcs:orders", b"\xff\x00")
    neighbour.command("PUBLISH", "wcs:left", b"\xff\x00")
    assert neighbour.command("HGET", "wcs:orders", '["mute","php","x"]') == b'{"at":1,"by":"n","on":true}'
    assert neighbour.command("HGET", "wcs:orders", "nothing at all") == b"nothing at all"


@pytest.mark.parametrize(
    ("verdict", "version", "is_taken"),
    [
        (REJECTED, 1, True),
        ({**REJECTED, "confidence": 0.5, "extra": {"a": [1]}}, 1, True),
        ({**REJECTED, "reason": "tired"}, 1, False),
        (REJECTED, 2, False),
        ({"said": "no"}, 1, False),
    ],
)
def test_a_verdict_of_the_neighbour_is_used_if_it_is_understood_and_else_the_backend_is_asked(
    gateway: RunningGateway, neighbour: Neighbour, verdict: dict[str, Any], version: int, is_taken: bool
) -> None:
    body = json.dumps({"appKey": "other", "callId": f"{verdict}{version}"}).encode()
    neighbour.verdict(body, verdict, version=version)
    answer = gateway.hook(body=body)
    assert answer.status_code == 403
    line = gateway.access_line(answer.headers["x-request-id"])
    assert line["source"] == ("duplicate" if is_taken else "backend")


@pytest.mark.parametrize(
    ("content", "version", "is_ineffective"),
    [
        ({"failing": [], "mood": "good"}, 1, True),
        ({"failing": ["OnCallEvent"], "mood": ["good"]}, 1, False),
        ({"failing": []}, 2, False),
        ({"failing": {"OnCallEvent": 1}}, 1, False),
    ],
)
def test_a_session_of_the_neighbour_is_known_as_far_as_it_is_understood(
    gateway: RunningGateway, neighbour: Neighbour, content: dict[str, Any], version: int, is_ineffective: bool
) -> None:
    session = f"/192.0.2.1:{crc32(repr(content).encode()) % 60000}/v{version}"
    neighbour.session(f"n {session}", content, version=version)
    answer = gateway.hook(nodeId="n", sessionId=session)
    assert answer.status_code == 403
    line = gateway.access_line(answer.headers["x-request-id"])
    assert line.get("ineffective", False) is is_ineffective, line
