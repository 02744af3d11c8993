"""Limits of a fleet, with real gateways and a real server: what passes them in sum, however the load is divided."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.fleets import know_each_other, replica, running_fleet
from tests.support.gateways import RunningGateway, wait_until
from tests.support.pacing import LISTENERS, Callers, PacedBackend, configuration
from tests.support.redis import RedisServer, redis_server

RATE: Final = 100
PLACES: Final = 20
WINDOW: Final = 6.0
"""Seconds over which hooks are counted."""

LOADS: Final = (
    (150,),
    (150, 5),
    (120, 0, 60, 20),
    (150, 5, 5, 5, 5, 5, 5, 5),
    (5, 11, 17, 22, 28, 33, 39, 45),
)
"""Hooks a second at each gateway of a fleet that grows."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def backend() -> Iterator[PacedBackend]:
    with PacedBackend(delay=0.01) as running:
        yield running


def config(redis: RedisServer, backend: PacedBackend, *, workers: int = 1, **limits: Any) -> str:
    """An app ``a``; *limits* are its own, and ``max_connections`` its upstream's."""
    connections = limits.pop("max_connections", 1000)
    return configuration(
        {"u": {"url": backend.url, "max_connections": connections}},
        {"a": {"upstream": "u", "timeout": "5s", **limits}},
        state={"url": redis.url},
        server={**LISTENERS, "workers": workers},
    )


@contextlib.contextmanager
def fleet(text: str, replicas: int, directory: Path) -> Iterator[list[RunningGateway]]:
    """Gateways that have divided what nobody demands."""
    with running_fleet([text] * replicas, directory) as gateways:
        assert wait_until(lambda: all(limits(gateway)["divided_by"] == replicas for gateway in gateways))
        yield gateways


def limits(gateway: RunningGateway) -> dict[str, Any]:
    found: dict[str, Any] = gateway.get("/api/status").json()["state"]["limits"]
    return found


def share(gateway: RunningGateway, setting: str, limit: float) -> float:
    """This gateway's share of the app's limit."""
    found = limits(gateway)
    listed = [each["share"] for each in found["shares"] if each["setting"] == setting]
    return float(listed[0]) if listed else limit / found["divided_by"]


def connections(gateway: RunningGateway) -> int:
    """Its share of the connections to the backend."""
    ((target,),) = [upstream["targets"] for upstream in gateway.get("/api/upstreams").json()["upstreams"]]
    return int(target["max_connections"])


@contextlib.contextmanager
def load(gateways: Sequence[RunningGateway], hooks: Sequence[float]) -> Iterator[list[Callers]]:
    """So many hooks a second at each gateway."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(Callers(gateway.hooks, "a", rate=rate))
            for gateway, rate in zip(gateways, hooks, strict=True)
            if rate
        ]


def passed(callers: Sequence[Callers], seconds: float = WINDOW) -> float:
    """How many hooks a second pass the limits from now on."""
    began = time.perf_counter()
    time.sleep(seconds)
    lasted = time.perf_counter() - began
    count = sum(
        answer.status == 200 and began <= answer.began + answer.seconds < began + lasted
        for each in callers
        for answer in list(each.answers)
    )
    return count / lasted


def divided(gateways: Sequence[RunningGateway], found: Callable[[list[float]], bool]) -> bool:
    """Wait until the shares of the rate are as wanted."""
    return bool(wait_until(lambda: found([share(gateway, "rate_limit", RATE) for gateway in gateways])))


def test_the_busy_one_has_nearly_all_and_keeps_it_while_the_state_is_away(
    redis: RedisServer, backend: PacedBackend, tmp_path: Path
) -> None:
    text = config(redis, backend, rate_limit=f"{RATE}/s")
    with fleet(text, 2, tmp_path) as (busy, idle), load((busy, idle), (1.5 * RATE, 5)) as callers:
        assert divided((busy, idle), lambda shares: shares[0] >= 85 and sum(shares) <= 1.1 * RATE)
        assert 0.9 * RATE <= passed(callers, 4.0) <= 1.1 * RATE
        redis.kill()
        assert wait_until(lambda: limits(busy)["degraded"] and limits(idle)["degraded"])
        assert busy.metric("gateway_state_degraded", feature="limits") == 1
        assert share(busy, "rate_limit", RATE) >= 85
        assert 1 <= share(idle, "rate_limit", RATE) <= 15
        redis.start()
        assert wait_until(lambda: not limits(busy)["degraded"])
        assert busy.metric("gateway_state_degraded", feature="limits") == 0
        words = "the state is away: this gateway keeps its last shares of the limits"
        assert len([line for line in busy.lines() if line.get("message") == words]) == 1


@pytest.mark.slow
def test_what_passes_is_the_limit_of_the_fleet_with_one_to_eight_gateways(
    redis: RedisServer, backend: PacedBackend, tmp_path: Path
) -> None:
    text, found = config(redis, backend, rate_limit=f"{RATE}/s"), []
    with contextlib.ExitStack() as stack:
        gateways: list[RunningGateway] = []
        for hooks in LOADS:
            more = "abcdefgh"[len(gateways) : len(hooks)]
            gateways.extend(stack.enter_context(replica(text, tmp_path, name)) for name in more)
            know_each_other(gateways)
            with load(gateways, hooks) as callers:
                time.sleep(6.0)
                found.append(passed(callers))
                assert sum(share(gateway, "rate_limit", RATE) for gateway in gateways) <= 1.1 * RATE
    assert all(0.9 * RATE <= each <= 1.1 * RATE for each in found), found


@pytest.mark.slow
def test_load_that_moves_and_a_gateway_that_dies_move_the_shares(
    redis: RedisServer, backend: PacedBackend, tmp_path: Path
) -> None:
    with fleet(config(redis, backend, rate_limit=f"{RATE}/s"), 3, tmp_path) as (one, two, three):
        with load((one,), (1.5 * RATE,)) as callers:
            assert divided((one, two, three), lambda shares: shares[0] >= 95)
            assert 0.9 * RATE <= passed(callers, 3.0) <= 1.1 * RATE
        with load((two,), (1.5 * RATE,)) as callers:
            assert divided((one, two, three), lambda shares: shares[1] >= 95)
            assert 0.9 * RATE <= passed(callers, 3.0) <= 1.1 * RATE
        two.process.send_signal(signal.SIGKILL)
        with load((one, three), (1.5 * RATE, 1.5 * RATE)) as callers:
            assert divided((one, three), lambda shares: min(shares) >= 45)
            assert 0.9 * RATE <= passed(callers, 3.0) <= 1.1 * RATE


@pytest.mark.slow
def test_a_worker_that_starts_later_and_a_reload_have_the_share(
    redis: RedisServer, backend: PacedBackend, tmp_path: Path
) -> None:
    text = config(redis, backend, workers=2, rate_limit=f"{RATE}/s")
    with fleet(text, 2, tmp_path) as (busy, idle), load((busy, idle), (1.5 * RATE, 5)) as callers:
        assert divided((busy, idle), lambda shares: shares[0] >= 85)
        os.kill(busy.get("/api/status").json()["workers"][0], signal.SIGKILL)
        assert wait_until(lambda: busy.metric("gateway_worker_deaths_total") == 1)
        assert wait_until(lambda: busy.metric("gateway_workers") == 2)
        assert 0.9 * RATE <= passed(callers) <= 1.1 * RATE
        for gateway in (busy, idle):
            gateway.reload(config(redis, backend, workers=2, rate_limit=f"{RATE // 2}/s"))
        assert divided((busy, idle), lambda shares: sum(shares) <= 1.1 * RATE // 2)
        time.sleep(2.0)  # what the bucket still held
        assert 0.4 * RATE <= passed(callers) <= 0.55 * RATE


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_backend_never_has_more_connections_than_the_limit_of_the_fleet(
    workers: int, redis: RedisServer, backend: PacedBackend, tmp_path: Path
) -> None:
    backend.delay, backend.spread = 0.2, 0.5
    text = config(redis, backend, workers=workers, max_connections=PLACES)
    with fleet(text, 4, tmp_path) as gateways, contextlib.ExitStack() as stack:
        for number, gateway in enumerate(gateways):
            stack.enter_context(Callers(gateway.hooks, "a", callers=2 if number else 2 * PLACES))
        assert wait_until(lambda: connections(gateways[0]) >= PLACES * 0.6)
        backend.most_in_hand = backend.most_open = 0
        time.sleep(3.0)
        assert 0.9 * PLACES <= backend.most_in_hand <= PLACES
        assert backend.most_open <= PLACES
        assert all(1 <= connections(gateway) <= 3 for gateway in gateways[1:])


@pytest.mark.slow
def test_an_app_never_has_more_hooks_in_flight_than_the_limit_of_the_fleet_and_a_tenth(
    redis: RedisServer, backend: PacedBackend, tmp_path: Path
) -> None:
    backend.delay, backend.spread = 0.2, 0.5
    text = config(redis, backend, max_in_flight=PLACES)
    with fleet(text, 4, tmp_path) as gateways, load(gateways, (10 * PLACES, 5, 5, 5)):
        assert wait_until(lambda: share(gateways[0], "max_in_flight", PLACES) >= PLACES * 0.6)
        backend.most_in_hand = 0
        time.sleep(3.0)
        assert 0.8 * PLACES <= backend.most_in_hand <= 1.1 * PLACES
        assert sum(share(gateway, "max_in_flight", PLACES) for gateway in gateways) <= 1.1 * PLACES
