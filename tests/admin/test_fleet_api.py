"""One view of several gateways: real ones, of one and of two workers, with a real Redis between them."""

from __future__ import annotations

import contextlib
import os
import signal
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.faulty import FaultyBackend
from tests.support.fleets import fleet_config, know_each_other, replica, running_fleet, states_of
from tests.support.gateways import RunningGateway, wait_until
from tests.support.postgres import postgres_server
from tests.support.redis import RedisServer, redis_server

pytestmark = pytest.mark.slow  # of what is here, tests/cli/test_fleet.py shows the most part

VIEWS = ["/api/status", "/api/activity", "/api/upstreams", "/api/decisions"]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running


@pytest.fixture(scope="module")
def configs(redis: RedisServer, backend: FaultyBackend) -> list[str]:
    targets = f"[{{url: '{backend.url_of('ok')}'}}, {{url: '{backend.url_of('denied')}', backup: true}}]"
    return [fleet_config(redis.url, targets, workers=workers) for workers in (1, 2, 1)]


@pytest.fixture(scope="module")
def fleet(configs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningGateway]]:
    with running_fleet(configs, tmp_path_factory.mktemp("fleet")) as gateways:
        yield gateways


def view(gateway: RunningGateway, path: str, **query: Any) -> dict[str, Any]:
    answer = gateway.get(path, params={"fleet": "true", **query})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def names(found: dict[str, Any]) -> dict[str, str | None]:
    """Each gateway of a view, and why it is missing."""
    return {replica["name"]: replica["error"] for replica in found["replicas"]}


def primary(gateway: RunningGateway) -> str:
    """The name of the target that is no backup."""
    (upstream,) = gateway.get("/api/upstreams").json()["upstreams"]
    return next(str(target["target"]) for target in upstream["targets"] if not target["backup"])


def order(gateway: RunningGateway, what: str) -> dict[str, Any]:
    answer = gateway.post(f"/api/upstreams/php/{primary(gateway)}/{what}")
    assert answer.status_code == 200, answer.text
    done: dict[str, Any] = answer.json()
    return done


def test_the_fleet_is_listed_at_each_of_its_gateways(fleet: list[RunningGateway]) -> None:
    for number, gateway in enumerate(fleet):
        found = gateway.get("/api/fleet").json()
        assert names(found) == {"a": None, "b": None, "c": None}
        assert [replica["name"] for replica in found["replicas"] if replica["here"]] == ["abc"[number]]
        assert {replica["admin"] for replica in found["replicas"]} == {each.admin for each in fleet}
        for each in found["replicas"]:
            assert (each["state"], each["store"], each["phase"], each["lost"]) == (True, None, "ready", None)
        assert found["state"]["up"] is True


def test_who_has_another_configuration_is_behind(fleet: list[RunningGateway], configs: list[str]) -> None:
    _, b, c = fleet

    def behind() -> dict[str, list[str]]:
        return {replica["name"]: replica["behind"] for replica in b.get("/api/fleet").json()["replicas"]}

    revisions = {replica["name"]: replica["revision"] for replica in b.get("/api/fleet").json()["replicas"]}
    assert revisions["a"] == revisions["c"] != revisions["b"]
    assert behind() == {"a": [], "b": ["revision"], "c": []}
    c.reload(configs[2] + "# changed\n")
    assert wait_until(lambda: behind() == {"a": ["revision"], "b": ["revision"], "c": []}), behind()
    assert wait_until(lambda: b.metric("gateway_fleet_config_mismatch") == 1)
    c.reload(configs[2])


def test_the_decisions_of_all_are_one_list(fleet: list[RunningGateway]) -> None:
    for number, gateway in enumerate(fleet):
        for hook in range(4):
            assert gateway.hook(callId=f"all-{hook}", callee=f"{number}").status_code == 200
    expected = [("abc"[number], f"all-{hook}") for number in range(3) for hook in range(4)]
    for gateway in fleet:
        found = view(gateway, "/api/decisions", q="all-")
        assert [(each["replica"], each["call_id"]) for each in reversed(found["decisions"])] == expected
        assert (found["matched"], found["next"], names(found)) == (12, None, {"a": None, "b": None, "c": None})


def test_the_decisions_of_all_come_in_pages(fleet: list[RunningGateway]) -> None:
    for gateway in fleet * 5:
        assert gateway.hook(callId="pages").status_code == 200
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for gateway in fleet * 3:  # whichever gateway is asked for the next page
        found = view(gateway, "/api/decisions", call_id="pages", limit="4", **cursor)
        seen += [each["request_id"] for each in found["decisions"]]
        if found["next"] is None:
            break
        cursor = {"cursor": found["next"]}
    whole = view(fleet[0], "/api/decisions", call_id="pages")["decisions"]
    assert seen == [each["request_id"] for each in whole]
    assert len(set(seen)) == 15


def test_one_decision_is_found_wherever_it_is(fleet: list[RunningGateway]) -> None:
    a, _, c = fleet
    request_id = c.hook(callId="one").headers["x-request-id"]
    assert a.get(f"/api/decisions/{request_id}").status_code == 404
    found = view(a, f"/api/decisions/{request_id}")
    assert (found["request_id"], found["replica"], found["call_id"]) == (request_id, "c", "one")
    assert a.get("/api/decisions/nobody", params={"fleet": "1"}).status_code == 404


def test_activity_status_and_targets_are_those_of_all(fleet: list[RunningGateway]) -> None:
    view(fleet[0], "/api/activity")  # from here on, all of them take readings
    for gateway in fleet:
        for _ in range(10):
            gateway.hook()
    activity: dict[str, Any] = {}

    def counted() -> bool:
        nonlocal activity
        activity = view(fleet[0], "/api/activity", apps="5")
        (app,) = activity["apps"]
        return bool(app["per_second"] > 0 and activity["window_seconds"])

    assert wait_until(counted)
    assert activity["apps"][0]["app"] == "defaultApp"
    assert activity["app_count"] == 1
    status = view(fleet[1], "/api/status")
    assert [replica["status"]["admin"] for replica in status["replicas"]] == [fleet[1].admin, *others(fleet, 1)]
    assert status["hooks"]["in_flight"] == 0
    (upstream,) = view(fleet[2], "/api/upstreams")["upstreams"]
    assert [target["replicas"] for target in upstream["targets"]] == [3, 3]
    assert [target["workers"] for target in upstream["targets"]] == [4, 4]


def others(fleet: list[RunningGateway], here: int) -> list[str]:
    """The admin addresses of the other gateways, in the order in which a view lists them."""
    listed = fleet[here].get("/api/fleet").json()["replicas"]
    return [replica["admin"] for replica in listed if not replica["here"]]


def test_a_target_ejected_at_one_is_ejected_at_all_until_it_is_restored_at_another(fleet: list[RunningGateway]) -> None:
    a, b, _ = fleet
    target = primary(a)
    assert order(a, "eject")["fleet"] == {"published": True, "error": None}
    assert wait_until(lambda: all(states_of(each)[target] == "ejected_by_operator" for each in fleet))
    (entry,) = b.get("/api/fleet").json()["orders"]
    assert (entry["order"], entry["upstream"], entry["by"]) == ("eject", "php", "a")
    (upstream,) = view(b, "/api/upstreams")["upstreams"]
    assert sorted(upstream["targets"][0]["not_up_at"]) == ["a", "b", "c"]
    assert order(b, "restore")["result"] == "restored"
    assert wait_until(lambda: all(states_of(each)[target] == "up" for each in fleet))
    assert b.get("/api/fleet").json()["orders"] == []


def test_a_target_that_no_configuration_has_any_more_can_be_restored(
    fleet: list[RunningGateway], configs: list[str]
) -> None:
    a, _, c = fleet
    target = primary(a)
    order(c, "eject")
    assert wait_until(lambda: states_of(a)[target] == "ejected_by_operator")
    a.reload(configs[0].replace("php:", "other:").replace("upstream: php", "upstream: other"))
    assert a.post(f"/api/upstreams/php/{target}/eject").status_code == 404
    answer = a.post(f"/api/upstreams/php/{target}/restore").json()
    assert (answer["result"], answer["fleet"]["published"]) == ("restored", True)
    assert wait_until(lambda: states_of(c)[target] == "up")
    a.reload(configs[0])
    assert wait_until(lambda: states_of(a)[target] == "up")


def test_a_gateway_that_starts_later_begins_with_the_target_ejected(
    fleet: list[RunningGateway], configs: list[str], tmp_path: Path
) -> None:
    target = primary(fleet[0])
    order(fleet[2], "eject")
    for number, config in enumerate(configs[:2]):
        with replica(config, tmp_path, f"late {number}") as late:
            assert states_of(late)[target] == "ejected_by_operator"
    order(fleet[0], "restore")
    assert wait_until(lambda: all(states_of(each)[target] == "up" for each in fleet))
    know_each_other(fleet)


@contextlib.contextmanager
def stopped(gateway: RunningGateway) -> Iterator[None]:
    """It hangs: SIGSTOP."""
    os.kill(gateway.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(gateway.pid, signal.SIGCONT)


def test_a_gateway_that_hangs_is_named_in_every_view_at_once_and_when_it_has_left_the_state(
    fleet: list[RunningGateway],
) -> None:
    a, _, c = fleet
    with stopped(c):
        for number, path in enumerate([*VIEWS, "/api/fleet"]):
            error = names(view(a, path))["c"] or ""
            assert error.startswith("no answer within " if not number else ("no answer within ", "lost: ")), path
        assert wait_until(lambda: a.get("/api/status").json()["state"]["replicas"] == 2)
        for path in [*VIEWS, "/api/fleet"]:
            found = names(view(a, path))
            assert (found["c"] or "").startswith("lost: no sign of life for "), path
            assert found["b"] is None
        missing = a.get("/api/decisions/nobody", params={"fleet": "1"})
        assert (missing.status_code, "no answer from c (lost" in missing.text) == (404, True), missing.text
    know_each_other(fleet)
    for path in [*VIEWS, "/api/fleet"]:
        assert names(view(a, path)) == {"a": None, "b": None, "c": None}, path


def test_a_gateway_that_ends_in_an_orderly_way_is_not_missed(
    fleet: list[RunningGateway], configs: list[str], tmp_path: Path
) -> None:
    with replica(configs[0], tmp_path, "late") as late:
        know_each_other([*fleet, late])
    assert wait_until(lambda: fleet[0].get("/api/status").json()["state"]["replicas"] == 3)
    assert set(names(fleet[0].get("/api/fleet").json())) == {"a", "b", "c"}


@pytest.mark.parametrize("query", ["fleet=true&nonsense=1", "fleet=true&limit=0"])
def test_a_wrong_question_is_one_for_the_fleet_too(fleet: list[RunningGateway], query: str) -> None:
    assert fleet[0].get(f"/api/decisions?{query}").status_code == 400


@pytest.mark.parametrize("answer", ["[]", "{}", '{"apps": [1], "upstreams": 7, "hooks": [], "decisions": 1}'])
def test_a_member_that_is_no_gateway_spoils_no_view(
    fleet: list[RunningGateway], redis: RedisServer, answer: str
) -> None:
    """A record that names another server as a gateway: what that answers is left out."""
    a = fleet[0]
    body = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n{answer}".encode()
    with answering(body) as address, pretended(redis, address):
        assert wait_until(lambda: a.get("/api/status").json()["state"]["replicas"] == 4)
        for path in VIEWS:
            found = view(a, path)
            assert {name for name, error in names(found).items() if error is None} >= {"a", "b", "c"}
        assert names(found)["z"] == "its answer is not that of a gateway of this version"
    assert wait_until(lambda: a.get("/api/status").json()["state"]["replicas"] == 3)


@contextlib.contextmanager
def pretended(redis: RedisServer, admin: str) -> Iterator[None]:
    """A member z with this admin address."""
    description = {
        "name": "z", "version": "0.0.1", "revision": "r", "admin": admin, "since": 1.0, "drained": False,
        "phase": "ready", "store": None,
    }  # fmt: skip
    record = msgspec.msgpack.encode({"id": "z", "beat": 1, "description": description})
    redis.command("SET", "wcs:replica:z", record)
    redis.command("ZADD", "wcs:replicas", str(int(time.time() * 1000) + 60_000), "z")
    try:
        yield
    finally:
        redis.command("PUBLISH", "wcs:left", "z")
        redis.command("ZREM", "wcs:replicas", "z")
        redis.command("DEL", "wcs:replica:z")


@contextlib.contextmanager
def answering(body: bytes) -> Iterator[str]:
    """The address of a server that answers everything with these bytes."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            self.wfile.write(body)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", VIEWS)
def test_without_a_state_there_is_no_fleet(gateway: RunningGateway, path: str) -> None:
    answer = gateway.get(path, params={"fleet": "true"})
    assert (answer.status_code, "no state is configured" in answer.text) == (409, True)
    alone = gateway.get("/api/fleet").json()
    assert alone == {"configured": False, "replicas": [], "orders": [], "more_orders": 0}
    assert gateway.get("/api/fleet/self").status_code == 409


@pytest.mark.parametrize("first", [0, 1], ids=["from one process", "from one of two workers"])
def test_a_hint_of_another_gateway_lets_one_failure_eject_a_target(
    redis: RedisServer, tmp_path: Path, first: int
) -> None:
    breaker = "breaker: {failures: 3, open_for: 1h}, targets:"
    configs = [
        fleet_config(redis.url, "[{url: 'http://127.0.0.1:1/gone'}]", workers=workers, prefix="hints:").replace(
            "targets:", breaker
        )
        for workers in (1, 2)
    ]
    with running_fleet(configs, tmp_path, "xy") as gateways:
        x, y = gateways if not first else reversed(gateways)
        for _ in range(3):
            x.hook()
        assert wait_until(lambda: x.metric("gateway_target_up", upstream="php") == 0)
        assert y.metric("gateway_target_up", upstream="php") == 1
        time.sleep(1.0)  # the hint is on its way, and nothing says when it has come
        y.hook()
        assert wait_until(lambda: y.metric("gateway_target_up", upstream="php") == 0, 5.0)


def test_a_history_that_all_share_shows_no_decision_twice(redis: RedisServer, tmp_path: Path) -> None:
    with postgres_server() as postgres:
        more = f"store: {{url: '{postgres.new_database()}'}}\nhistory: {{keep_allowed: 1h}}"
        config = fleet_config(redis.url, "[{url: 'http://127.0.0.1:9/rest'}]", more, prefix="shared:")
        with running_fleet([config, config], tmp_path) as (a, b):
            for number in range(6):
                (a, b)[number % 2].hook(callId=f"shared-{number}")

            def in_history() -> bool:
                """Whether all are in the history: what a page's second half shows comes from there too."""
                found = a.get("/api/decisions", params={"q": "shared-"}).json()
                return found["history"]["error"] is None and len(found["decisions"]) == 6

            assert wait_until(in_history)
            for limit in (100, 4, 1):
                seen: list[tuple[str, str]] = []
                cursor: dict[str, str] = {}
                while True:
                    found = view(b, "/api/decisions", q="shared-", limit=str(limit), **cursor)
                    seen += [(each["call_id"], each["replica"]) for each in found["decisions"]]
                    if found["next"] is None:
                        break
                    cursor = {"cursor": found["next"]}
                assert seen == [(f"shared-{number}", "ab"[number % 2]) for number in reversed(range(6))]
