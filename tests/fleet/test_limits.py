"""Gateways divide limits by their heartbeats, against a real server; while it is away, each keeps what it has."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping

import pytest

from gateway.config.sections.state import StateConfig
from gateway.fleet import limits as fleet_limits
from gateway.fleet.limits import FleetLimits
from gateway.fleet.membership import Membership
from gateway.fleet.shares import Measured, Shares
from tests.support.redis import RedisServer, redis_server

from .links import linked, state, until
from .locals import PlainLocal

KEY = "rate:a"
LIMIT = 100.0


class BusyLocal(PlainLocal):
    """A gateway whose hooks demand what the test says."""

    def __init__(self, demand: float) -> None:
        super().__init__("busy")
        self.hooks = demand
        """Offered a second."""
        self.answers = True
        """Whether all of its processes answer."""

    async def demand(self) -> Mapping[str, Measured]:
        return {KEY: Measured(LIMIT, self.hooks)}

    async def apply_shares(self, shares: Shares) -> bool:
        return await super().apply_shares(shares) and self.answers

    @property
    def share(self) -> float:
        """What it applies."""
        return self.shares[-1].part(KEY, LIMIT) if self.shares else 50.0


@contextlib.asynccontextmanager
async def dividing(config: StateConfig, local: BusyLocal, *, up: bool = True) -> AsyncIterator[FleetLimits]:
    async with linked(config, up=up) as link:
        membership = Membership(link, local)
        limits = FleetLimits(membership, local)
        limits.start()
        membership.start()
        try:
            yield limits
        finally:
            await membership.aclose()
            await limits.aclose()


async def test_the_busy_one_gets_what_the_idle_one_does_not_need_until_that_needs_it(server: RedisServer) -> None:
    busy, idle = BusyLocal(300.0), BusyLocal(0.0)
    async with dividing(state(server.url), busy) as limits, dividing(state(server.url), idle):
        await until(lambda: busy.share == 100.0)
        assert idle.share <= 10.0
        assert not limits.degraded
        assert limits.status() == {
            "degraded": False,
            "divided_by": 2,
            "shares": [{"app": "a", "setting": "rate_limit", "share": 100.0, "limit": 100.0}],
        }
        idle.hooks = 300.0
        await until(lambda: busy.share == idle.share == 50.0)


async def test_a_gateway_that_leaves_leaves_its_part_to_the_others(server: RedisServer) -> None:
    one, other = BusyLocal(300.0), BusyLocal(300.0)
    async with dividing(state(server.url), one):
        async with dividing(state(server.url), other):
            await until(lambda: one.shares and one.shares[-1].divisor == 2 and one.share == 50.0)
        await until(lambda: one.share == 100.0)


async def test_while_the_state_is_away_each_keeps_its_last_share_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "gateway.fleet.limits")
    with redis_server() as server:
        busy, idle = BusyLocal(300.0), BusyLocal(0.0)
        async with dividing(state(server.url), busy) as limits, dividing(state(server.url), idle):
            await until(lambda: busy.share == 100.0)
            server.kill()
            await until(lambda: limits.degraded)
            idle.hooks = 300.0
            assert limits.status()["degraded"] is True
            beats = limits._membership.beats
            server.start()  # it has forgotten everything
            await until(lambda: limits._membership.beats > beats)
            assert busy.share <= 100.0, "the other may not have spoken yet"
            await until(lambda: busy.share == idle.share == 50.0)
            assert not limits.degraded
    lines = [record.message for record in caplog.records]
    assert lines.count("the state is away: this gateway keeps its last shares of the limits") == 2  # one each
    assert lines.count("the state is back: limits are divided among the gateways of the fleet again") == 2


async def test_a_state_that_was_never_there_leaves_half_of_each_limit(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_limits, "_START_LIMIT", 0.05)
    alone = BusyLocal(300.0)
    async with dividing(state("redis://127.0.0.1:1/0"), alone, up=False) as limits:
        await until(lambda: caplog.records)
        assert limits.degraded
        assert limits.shares == Shares(2)
        assert not alone.shares, "its processes have that from the start"
    assert [record.message for record in caplog.records if record.name == "gateway.fleet.limits"] == [
        "the state is away: until it is there, this gateway has one part in 2 of each limit"
    ]


async def test_shares_are_applied_again_until_every_process_has_answered(server: RedisServer) -> None:
    local = BusyLocal(0.0)
    local.answers = False
    async with dividing(state(server.url), local):
        await until(lambda: local.shares.count(Shares(2)) == 2)
        local.answers = True
        await until(lambda: local.shares[-1] == Shares(1))


async def test_a_gateway_that_measures_nothing_still_has_a_heartbeat(server: RedisServer) -> None:
    class Silent(BusyLocal):
        async def demand(self) -> Mapping[str, Measured]:
            raise TimeoutError

    local = Silent(0.0)
    async with dividing(state(server.url), local) as limits:
        await until(lambda: limits._membership.beats >= 2)
        assert not limits.degraded
