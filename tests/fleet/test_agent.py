"""The agent: what the metrics and the status say of the fleet, and that it leaves at the end."""

from __future__ import annotations

from gateway.fleet.agent import FleetAgent
from gateway.telemetry.metrics import Metrics
from tests.support.redis import RedisServer

from .links import state, until
from .locals import PlainLocal


def values(metrics: Metrics) -> dict[str, float]:
    """The gauges of the fleet by name."""
    text = metrics.render().decode()
    found = dict(line.split(" ") for line in text.splitlines() if line.startswith(("gateway_state", "gateway_fleet")))
    return {name: float(value) for name, value in found.items()}


async def test_one_alone_and_then_another_with_another_configuration(server: RedisServer) -> None:
    metrics = Metrics("1.0")
    agent = FleetAgent(state(server.url), PlainLocal("one"), metrics)
    metrics.on_scrape(agent.sample)
    assert values(metrics) == {
        "gateway_state_up": 0, "gateway_state_late_total": 0, "gateway_fleet_replicas": 0,
        "gateway_fleet_config_mismatch": 0, 'gateway_state_degraded{feature="orders"}': 1,
        'gateway_state_degraded{feature="limits"}': 1,
    }  # fmt: skip
    async with agent.running():
        await until(lambda: len(agent.members) == 1)
        assert values(metrics)["gateway_state_up"] == 1
        assert values(metrics)["gateway_fleet_replicas"] == 1
        assert values(metrics)['gateway_state_degraded{feature="orders"}'] == 0
        assert values(metrics)['gateway_state_degraded{feature="limits"}'] == 0
        other = FleetAgent(state(server.url), PlainLocal("other", revision="def"), Metrics("1.0"))
        async with other.running():
            await until(lambda: len(agent.members) == 2)
            assert values(metrics)["gateway_fleet_config_mismatch"] == 1
            assert agent.status() == {
                "url": f"redis://127.0.0.1:{server.port}/0", "up": True, "error": None, "dedupe": False, "replicas": 2,
                "stale": False, "limits": {"degraded": False, "divided_by": 2, "shares": []},
            }  # fmt: skip
        await until(lambda: len(agent.members) == 1)
        assert values(metrics)["gateway_fleet_config_mismatch"] == 0
    assert server.command("ZCARD", "wcs:replicas") == 0
    assert not agent.link.up


async def test_without_a_server_it_says_so_and_ends() -> None:
    agent = FleetAgent(state("redis://127.0.0.1:1/0"), PlainLocal("one"), Metrics("1.0"))
    async with agent.running():
        await until(lambda: agent.status()["error"] == "it refuses connections")
        assert agent.status()["up"] is False
        assert agent.status()["stale"] is True
