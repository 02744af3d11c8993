"""What a process that decides hooks has of the fleet, as far as it is configured."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from gateway.config.sections.state import StateConfig, parse_state_url
from gateway.fleet.hooks import FleetHooks
from gateway.telemetry.metrics import Metrics
from tests.support.redis import redis_server


def degraded(metrics: Metrics) -> dict[str, float]:
    """The gauge, by feature."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        sample.labels["feature"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "gateway_state_degraded"
    }


async def test_claims_are_there_with_dedupe_and_the_gauge_says_what_does_without_the_server() -> None:
    with redis_server() as server:
        for dedupe in (False, True):
            metrics = Metrics("test")
            hooks = FleetHooks(StateConfig(url=parse_state_url(server.url), dedupe=dedupe), metrics)
            assert (hooks.claims is not None) is dedupe
            features = {"sessions", "dedupe"} if dedupe else {"sessions"}
            assert degraded(metrics) == dict.fromkeys(features, 1.0)
            await hooks.start()
            async with asyncio.timeout(5):
                while not hooks.is_up:
                    await asyncio.sleep(0.01)
            assert degraded(metrics) == dict.fromkeys(features, 0.0)
            await hooks.aclose()
            assert degraded(metrics) == dict.fromkeys(features, 1.0)
            assert not any(name.startswith("wcs:alive:") for name in server.keys())  # noqa: SIM118
