"""A process in a fleet: it applies this gateway's shares, across reloads too, and measures what hooks demand."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gateway.config import Config
from gateway.config.load import loads
from gateway.fleet.shares import Measured, Share, Shares
from gateway.model.change import prepare
from gateway.policy.retry import Retry
from gateway.proxy.limits import FleetLimits
from gateway.proxy.runtime import Runtime
from gateway.proxy.tenants import Tenant
from gateway.telemetry.metrics import Metrics
from gateway.upstreams import Outgoing
from gateway.upstreams.target import MeasuredTarget
from tests.support.pacing import Mode, PacedBackend, hook_body

STATE = {"url": "redis://127.0.0.1:1/0"}  # a runtime asks it nothing
URL = "http://127.0.0.1:9/secret"


def config(*, state: bool = True, connections: int = 64, **apps: dict[str, Any]) -> Config:
    return loads(
        json.dumps(
            {
                "upstreams": {"u": {"url": URL, "max_connections": connections}},
                "apps": {name: {"upstream": "u", **settings} for name, settings in apps.items()},
                **({"state": STATE} if state else {}),
            }
        )
    ).config


@contextlib.asynccontextmanager
async def running(first: Config) -> AsyncIterator[Runtime]:
    runtime = Runtime(first, Metrics("test"))
    try:
        yield runtime
    finally:
        await runtime.aclose()


async def reload(runtime: Runtime, after: Config) -> None:
    change = await prepare(lambda: runtime.prepare(after))
    change.commit()
    await change.settle()


def limits(runtime: Runtime, app: str) -> tuple[float | None, float | None, int | None]:
    """Hooks a second, burst and places of an app here."""
    tenant = runtime.tenants[app]
    limiter = tenant.limiter
    places = None if tenant.use is None else tenant.use.places
    return (None, None, places) if limiter is None else (limiter._per_second, limiter._burst, places)


def target_of(runtime: Runtime) -> MeasuredTarget:
    (target,) = runtime.targets._live.values()
    assert isinstance(target, MeasuredTarget)
    return target


def connections(runtime: Runtime) -> int:
    (target,) = runtime.targets._live.values()
    return target.transport.settings.max_connections


async def test_without_a_state_limits_are_as_configured_and_nothing_is_measured() -> None:
    async with running(config(state=False, a={"rate_limit": "100/s", "max_in_flight": 10})) as runtime:
        assert limits(runtime, "a") == (100.0, 100.0, None)
        assert connections(runtime) == 64
        assert runtime.shares is None
        assert runtime.measure_demand() == {}
        assert not await runtime.apply_shares(Shares(4))
        assert connections(runtime) == 64


async def test_before_the_first_heartbeat_a_gateway_has_half_of_each_limit() -> None:
    async with running(config(a={"rate_limit": "100/s burst 300", "max_in_flight": 10}, b={})) as runtime:
        assert limits(runtime, "a") == (50.0, 150.0, 5)
        assert limits(runtime, "b") == (None, None, None)
        assert connections(runtime) == 32


async def test_shares_apply_to_apps_and_targets_and_to_those_that_are_not_listed() -> None:
    first = config(a={"rate_limit": "100/s burst 300", "max_in_flight": 10}, b={"rate_limit": "8/s"})
    async with running(first) as runtime:
        key = f"connections:{target_of(runtime).fleet_name}"
        listed = {"rate:a": Share(70.0, 100.0), "in_flight:a": Share(9.0, 10.0), key: Share(40.0, 64.0)}
        assert await runtime.apply_shares(Shares(4, listed))
        assert limits(runtime, "a") == (70.0, 210.0, 9)
        assert limits(runtime, "b") == (2.0, 2.0, None)
        assert connections(runtime) == 40
        await runtime.apply_shares(Shares(4, {"rate:gone": Share(1.0, 2.0), "connections:gone": Share(1.0, 2.0)}))
        assert limits(runtime, "a") == (25.0, 75.0, 2)
        assert connections(runtime) == 16
        await runtime.apply_shares(Shares(1))
        assert limits(runtime, "a") == (100.0, 300.0, 10)
        assert connections(runtime) == 64


async def test_nobody_learns_a_secret_in_a_url() -> None:
    async with running(config()) as runtime:
        assert target_of(runtime).fleet_name.startswith("u:")
        assert "secret" not in target_of(runtime).fleet_name


async def test_after_a_reload_shares_are_the_same_part_of_other_limits_and_hold_for_new_apps() -> None:
    async with running(config(a={"rate_limit": "100/s", "max_in_flight": 10})) as runtime:
        key = f"connections:{target_of(runtime).fleet_name}"
        listed = {"rate:a": Share(70.0, 100.0), "in_flight:a": Share(9.0, 10.0), key: Share(48.0, 64.0)}
        await runtime.apply_shares(Shares(4, listed))
        more = {"rate_limit": "200/s", "max_in_flight": 20}
        await reload(runtime, config(connections=128, a=more, new={"rate_limit": "40/s"}))
        assert limits(runtime, "a") == (140.0, 140.0, 18)
        assert limits(runtime, "new") == (10.0, 10.0, None)
        assert connections(runtime) == 96
        await reload(runtime, config(connections=128, a={}))
        assert limits(runtime, "a") == (None, None, None)
        await reload(runtime, config(connections=128, a={"rate_limit": "200/s"}))
        assert limits(runtime, "a") == (140.0, 140.0, None)


async def test_shares_that_come_while_a_reload_is_prepared_are_not_lost() -> None:
    async with running(config(a={"rate_limit": "100/s"})) as runtime:
        change = await prepare(lambda: runtime.prepare(config(connections=128, a={"rate_limit": "200/s"})))
        await runtime.apply_shares(Shares(8))
        change.commit()
        assert (limits(runtime, "a")[0], connections(runtime)) == (25.0, 16)
        await runtime.apply_shares(Shares(4))
        change.revert()
        assert (limits(runtime, "a")[0], connections(runtime)) == (25.0, 16)
        await change.discard()


async def test_what_was_used_of_the_rate_is_not_given_back_by_another_share() -> None:
    async with running(config(a={"rate_limit": "1/m burst 100"})) as runtime:
        await runtime.apply_shares(Shares(1))
        limiter = runtime.tenants["a"].limiter
        assert limiter is not None
        now = runtime.shares._loop.time()  # type: ignore[union-attr]
        assert sum(limiter.take(now) for _ in range(200)) <= 51  # half before the first heartbeat
        await runtime.apply_shares(Shares(4))
        await runtime.apply_shares(Shares(1))
        assert not limiter.take(now)


async def test_demand_is_what_hooks_asked_for_refused_or_not() -> None:
    async with running(config(a={"rate_limit": "100/s", "max_in_flight": 4}, b={"max_in_flight": 1000})) as runtime:
        assert runtime.shares is not None
        counted = FleetLimits(runtime, runtime.shares)
        a, b = runtime.tenants["a"], runtime.tenants["b"]
        await runtime.apply_shares(Shares(2))

        def enter(tenant: Tenant) -> bool:
            route = runtime.snapshot.table.route_for(tenant.name, None)
            counted.count(tenant, 1)
            passed = counted.exceeded(tenant, route, 10_000) is None
            if not passed:
                counted.count(tenant, -1)
            return passed

        runtime.shares._reported_at -= 1.0
        assert [enter(a) for _ in range(6)] == [True, True] + [False] * 4
        assert enter(b)
        measured = runtime.measure_demand()
        assert measured.keys() == {"in_flight:a"}, "little of b's limit is used, and few hooks for a rate of 100/s"
        assert measured["in_flight:a"] == Measured(4, 9.0, 2.0)  # 3 at once, and two of three were over the limit
        assert runtime.measure_demand()["in_flight:a"] == Measured(4, 2.0, 2.0), "they are still there"
        counted.count(a, -1)
        counted.count(a, -1)
        runtime.measure_demand()
        assert runtime.measure_demand() == {}


async def test_the_rate_that_is_offered_is_measured_over_the_time_since_the_last_report() -> None:
    async with running(config(a={"rate_limit": "10/s"})) as runtime:
        assert runtime.shares is not None
        counted, tenant = FleetLimits(runtime, runtime.shares), runtime.tenants["a"]
        route = runtime.snapshot.table.route_for("a", None)
        runtime.measure_demand()
        for _ in range(40):
            counted.count(tenant, 1)
            counted.exceeded(tenant, route, 10_000)
            counted.count(tenant, -1)
        runtime.shares._reported_at -= 2.0
        measured = runtime.measure_demand()["rate:a"]
        assert measured.limit == 10.0
        assert 15.0 <= measured.wanted <= 20.0


async def test_a_limit_that_is_divided_by_demand_is_reported_however_little_is_used() -> None:
    async with running(config(a={"max_in_flight": 1000})) as runtime:
        assert runtime.shares is not None
        counted = FleetLimits(runtime, runtime.shares)
        await runtime.apply_shares(Shares(2, {"in_flight:a": Share(1.0, 1000.0)}))
        counted.count(runtime.tenants["a"], 1)
        assert counted.exceeded(runtime.tenants["a"], runtime.snapshot.table.route_for("a", None), 9) is None
        assert runtime.measure_demand() == {"in_flight:a": Measured(1000.0, 1.0, 1.0)}


async def test_apps_without_limits_are_not_counted() -> None:
    async with running(config(a={})) as runtime:
        assert runtime.shares is not None
        counted = FleetLimits(runtime, runtime.shares)
        counted.count(runtime.tenants["a"], 1)
        assert counted.exceeded(runtime.tenants["a"], runtime.snapshot.table.route_for("a", None), 9) is None
        assert runtime.tenants["a"].active_hooks == 1
        assert not runtime.shares.used_tenants


@pytest.fixture
def backend() -> Iterator[PacedBackend]:
    with PacedBackend(Mode.HOLD) as running:
        yield running


async def test_the_connections_that_hooks_have_or_wait_for_are_measured_at_their_most(backend: PacedBackend) -> None:
    first = loads(json.dumps({
        "upstreams": {"u": {"url": backend.url, "max_connections": 8}},
        "apps": {"a": {"upstream": "u"}},
        "state": STATE,
    })).config  # fmt: skip
    async with running(first) as runtime:
        await runtime.apply_shares(Shares(4))
        upstream, deadline = runtime.snapshot.upstreams["u"], asyncio.get_running_loop().time() + 20
        key = f"connections:{target_of(runtime).fleet_name}"
        asking = [
            asyncio.create_task(upstream.ask(Outgoing("/call", None, b"", hook_body("a"), "a"), deadline, Retry()))
            for _ in range(5)
        ]
        while backend.held < 2:
            await asyncio.sleep(0.01)
        assert runtime.measure_demand() == {key: Measured(8.0, 5.0, 2.0)}
        backend.release()
        await asyncio.gather(*asking)
        assert runtime.measure_demand()[key].wanted == 5.0
        assert runtime.measure_demand() == {}
