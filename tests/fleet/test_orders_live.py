"""Orders among real gateways: the last of eight obeys; a state emptied, killed or cut off; stores of their own."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.fleets import emptied, fleet_config, know_each_other, replica, running_fleet, states_of
from tests.support.gateways import RunningGateway, wait_until
from tests.support.redis import RedisServer, redis_server
from tests.support.slow_relay import SlowRelay

pytestmark = pytest.mark.slow

TARGETS: Final = "[{url: 'http://127.0.0.1:9/rest'}, {url: 'http://127.0.0.1:7/rest', backup: true}]"
TARGET: Final = "127.0.0.1:9"
OUT: Final = "ejected_by_operator"
ROUNDS: Final = 5


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def eight(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningGateway]]:
    with running_fleet([fleet_config(redis.url, TARGETS)] * 8, tmp_path_factory.mktemp("eight")) as gateways:
        yield gateways


def order(gateway: RunningGateway, what: str) -> dict[str, Any]:
    answer = gateway.post(f"/api/upstreams/php/{TARGET}/{what}")
    assert answer.status_code == 200, answer.text
    done: dict[str, Any] = answer.json()
    return done


def are(gateways: list[RunningGateway], state: str) -> bool:
    return bool(wait_until(lambda: all(states_of(each)[TARGET] == state for each in gateways)))


def carried_out(gateway: RunningGateway, event: str) -> list[float]:
    """When this gateway carried out each order of this kind, by its log."""
    lines = [line for line in gateway.lines() if line.get("event") == event]
    return [datetime.fromisoformat(line["ts"]).timestamp() for line in lines]


def test_the_last_of_eight_gateways_obeys(eight: list[RunningGateway], record_property: Any) -> None:
    took: list[float] = []
    for number in range(ROUNDS):
        giver = eight[number]
        known = {each.pid: len(carried_out(each, "ejected")) for each in eight}
        assert order(giver, "eject")["fleet"] == {"published": True, "error": None}
        assert are(eight, OUT)
        assert wait_until(lambda: all(len(carried_out(each, "ejected")) > known[each.pid] for each in eight))  # noqa: B023
        times = [carried_out(each, "ejected")[-1] for each in eight]
        took.append(max(times) - carried_out(giver, "ejected")[-1])
        assert order(eight[-1 - number], "restore")["result"] == "restored"
        assert are(eight, "up")
    record_property("seconds until the last of eight obeys, median", round(statistics.median(took), 4))
    record_property("seconds until the last of eight obeys, at most", round(max(took), 4))


def test_an_order_outlives_a_state_that_was_emptied(
    eight: list[RunningGateway], redis: RedisServer, tmp_path: Path
) -> None:
    order(eight[0], "eject")
    assert are(eight, OUT)
    emptied(redis)
    assert wait_until(lambda: redis.command("HLEN", "wcs:orders") == 1)
    with replica(fleet_config(redis.url, TARGETS), tmp_path, "late") as late:
        assert are([late, *eight], OUT)
    order(eight[5], "restore")
    assert are(eight, "up")
    know_each_other(eight)


def test_an_order_given_while_the_state_is_killed_holds_there_and_everywhere_once_it_is_back(
    eight: list[RunningGateway], redis: RedisServer
) -> None:
    redis.kill()
    assert wait_until(lambda: not any(each.get("/api/status").json()["state"]["up"] for each in eight))
    done = order(eight[0], "eject")
    assert done["result"] == "ejected"
    assert done["fleet"]["published"] is False
    assert done["fleet"]["error"]
    assert states_of(eight[0])[TARGET] == OUT
    assert states_of(eight[1])[TARGET] == "up"
    redis.start()
    assert are(eight, OUT)
    order(eight[1], "restore")
    assert are(eight, "up")
    know_each_other(eight)


def test_after_a_partition_with_contradicting_orders_all_do_what_was_ordered_last(
    redis: RedisServer, tmp_path: Path
) -> None:
    emptied(redis)
    with contextlib.ExitStack() as stack:
        relays = [stack.enter_context(SlowRelay(redis.port)) for _ in range(2)]
        urls = [f"redis://127.0.0.1:{relay.port}/0" for relay in relays]
        configs = [fleet_config(url, TARGETS, prefix="cut:") for url in (*urls, redis.url)]
        gateways = stack.enter_context(running_fleet(configs, tmp_path))
        order(gateways[2], "eject")
        assert are(gateways, OUT)
        for relay in relays:
            relay.cut()
        assert wait_until(lambda: not any(each.get("/api/status").json()["state"]["up"] for each in gateways[:2]))
        order(gateways[0], "restore")
        order(gateways[1], "restore")
        order(gateways[1], "eject")
        assert [states_of(each)[TARGET] for each in gateways] == ["up", OUT, OUT]
        assert wait_until(lambda: gateways[2].get("/api/status").json()["state"]["replicas"] == 1)
        listed = {each["name"]: each for each in gateways[2].get("/api/fleet").json()["replicas"]}
        assert [listed[name]["error"] for name in "abc"] == [None, None, None]  # they answer, though they are cut off
        assert [listed[name]["state"] for name in "abc"] == [False, False, True]
        for relay in relays:
            relay.restore()
        assert are(gateways, OUT)
        know_each_other(gateways)
        found = gateways[0].get("/api/fleet").json()["orders"]
        assert [(each["order"], each["by"]) for each in found] == [("eject", "b")]


def test_a_pause_of_the_spool_holds_at_gateways_with_stores_of_their_own(redis: RedisServer, tmp_path: Path) -> None:
    emptied(redis)

    def config(name: str) -> str:
        more = f"store: {{url: 'sqlite:///{tmp_path}/{name}.db'}}"
        return fleet_config(redis.url, TARGETS, more, prefix="spool:")

    def paused(gateway: RunningGateway) -> bool:
        return bool(gateway.get("/api/spool").json()["paused"])

    with running_fleet([config("a"), config("b")], tmp_path) as (a, b):
        assert wait_until(lambda: all(each.get("/api/spool").json()["store"]["up"] for each in (a, b)))
        assert a.post("/api/spool/pause").json()["fleet"] == {"published": True, "error": None}
        assert wait_until(lambda: paused(b))
        with replica(config("c"), tmp_path, "c") as late:
            assert wait_until(lambda: paused(late))
            assert b.post("/api/spool/resume").json()["result"] == "resumed"
            assert wait_until(lambda: not paused(a) and not paused(late))
            (entry,) = [each for each in late.lines() if each.get("event") == "spool_resume"]
            assert entry["by"] == "b"
