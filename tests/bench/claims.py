"""How long a hook's claim waits for the state's server: a hook of 3.6 kB, by the gateway's own loop and link.

Run it from the repository, on a machine that does nothing else::

    python -m tests.bench.claims                 500 claims a second for 10 seconds, three times
    python -m tests.bench.claims --rate 2000

A claim that is late (2 ms) makes its hook a new one. After three late ones in a row, none are made for a second: they
wait for nothing, and pull the median down.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from typing import Final

import uvloop

from gateway.config.sections.state import StateConfig, parse_state_url
from gateway.fleet.claims import FleetClaims, HookClaim
from gateway.fleet.link import Link
from gateway.model.verdicts import backend_allow
from tests.support.redis import redis_server

_BODY: Final = b'{"appKey":"bench","callId":"%d","sdp":"%b"}'
_SDP: Final = b"x" * 3500
_BACKEND: Final = 0.005
"""Seconds between a claim and its verdict."""
_numbers = itertools.count()


class _Counts:
    """What became of the claims."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.late = 0

    def on_late(self) -> None:
        self.late += 1

    def show(self) -> None:
        waits = sorted(self.waits)
        shown = (f"p{part:g} {1000 * waits[int(len(waits) * part / 100)]:.2f} ms" for part in (50, 99, 99.9))
        print(
            f"{len(waits)} claims: {', '.join(shown)}, longest {1000 * waits[-1]:.2f} ms; {self.late} late", flush=True
        )


async def _measure(url: str, rate: float, seconds: float) -> _Counts:
    counts, loop = _Counts(), asyncio.get_running_loop()
    link = Link(StateConfig(url=parse_state_url(url)), "bench", on_late=counts.on_late)
    claims = FleetClaims(link, 0.002)
    await link.start()
    while not link.up:
        await asyncio.sleep(0.01)

    async def decide() -> None:
        body = _BODY % (next(_numbers), _SDP)
        began = time.perf_counter()
        claim = await claims.take("OnCallEvent", body, loop.time() + 5.0)
        counts.waits.append(time.perf_counter() - began)
        assert isinstance(claim, HookClaim)
        await asyncio.sleep(_BACKEND)
        claims.finish(claim, body, backend_allow(body), 10.0)

    began = loop.time()
    async with asyncio.TaskGroup() as hooks:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
            hooks.create_task(decide())
    claims.close()
    await link.aclose()
    return counts


def main() -> None:
    """Entry of ``python -m tests.bench.claims``."""
    parser = argparse.ArgumentParser(description="Measure how long claims wait for the state's server.")
    parser.add_argument("--rate", type=float, default=500.0, help="claims a second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with redis_server() as server:
        for _ in range(arguments.rounds):
            uvloop.run(_measure(server.url, arguments.rate, arguments.seconds)).show()


if __name__ == "__main__":
    main()
