"""Several real gateways with one real Redis between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.redis import RedisServer


def fleet_config(url: str, backend: str, more: str = "", *, workers: int = 1, prefix: str = "wcs:") -> str:
    """A gateway of the fleet at this state, whose one app ``defaultApp`` asks *backend*, a list of targets in YAML."""
    return f"""
server: {{listen: '127.0.0.1:0', admin: '127.0.0.1:0', workers: {workers}}}
state: {{url: '{url}', prefix: '{prefix}'}}
defaults: {{timeout: 5s, fallback: reject}}
upstreams:
  php: {{targets: {backend}}}
apps:
  defaultApp: {{upstream: php}}
{more}
"""


@contextlib.contextmanager
def replica(config: str, directory: Path, name: str) -> Iterator[RunningGateway]:
    """One gateway of this name."""
    place = directory / name
    place.mkdir(exist_ok=True)
    with running_gateway(config, place, environment={"WCS_GATEWAY_INSTANCE": name}) as gateway:
        yield gateway


@contextlib.contextmanager
def running_fleet(configs: Sequence[str], directory: Path, names: str = "abcdefgh") -> Iterator[list[RunningGateway]]:
    """A gateway of each configuration, named a, b, …; all know each other when the block begins."""
    with contextlib.ExitStack() as stack:
        gateways = [
            stack.enter_context(replica(config, directory, name)) for config, name in zip(configs, names, strict=False)
        ]
        know_each_other(gateways)
        yield gateways


def know_each_other(gateways: Sequence[RunningGateway]) -> None:
    """Wait until each has all others among its members."""
    for gateway in gateways:
        assert wait_until(lambda it=gateway: it.get("/api/status").json()["state"]["replicas"] == len(gateways)), (  # type: ignore[misc]
            gateway.log.read_text()
        )


def states_of(gateway: RunningGateway) -> dict[str, str]:
    """The state of each target of ``php`` here, by its name."""
    (upstream,) = gateway.get("/api/upstreams").json()["upstreams"]
    return {target["target"]: target["state"] for target in upstream["targets"]}


def emptied(server: RedisServer) -> None:
    """Forget everything, as a server does that comes back without its data."""
    assert server.command("FLUSHALL") == b"OK"
