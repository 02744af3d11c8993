"""Two gateways that share a state, and the backend before which both stand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.pacing import Answered, PacedBackend, configuration
from tests.support.pacing.callers import Line
from tests.support.redis import RedisServer


class Pair:
    """Gateways *a* and *b*, with one *backend* and one *state*."""

    def __init__(self, a: RunningGateway, b: RunningGateway, backend: PacedBackend, state: Mapping[str, Any]) -> None:
        self.a = a
        self.b = b
        self.backend = backend
        self.state = state

    def serve(self, apps: Mapping[str, Mapping[str, Any]], **sections: Any) -> None:
        """Have both serve these apps, whose upstream is ``u``."""
        text = _configuration(self.backend, self.state, apps, **sections)
        for gateway in (self.a, self.b):
            gateway.reload(text)

    def both(self, body: bytes, method: str = "OnCallEvent") -> list[Answered]:
        """Send the same hook to both at once; the answers of a and b."""
        return self.pairs([body], method)[0]

    def pairs(self, bodies: list[bytes], method: str = "OnCallEvent", lines: int = 1) -> list[list[Answered]]:
        """Send each of these hooks to both at once, over so many connections to each; the answers of a and b."""
        return asyncio.run(self._pairs(bodies, method, lines))

    async def _pairs(self, bodies: list[bytes], method: str, lines: int) -> list[list[Answered]]:
        answers: dict[int, list[Answered]] = {}
        waiting = iter(enumerate(bodies))

        async def one() -> None:
            to_a, to_b = Line(self.a.hooks), Line(self.b.hooks)
            for number, body in waiting:
                answers[number] = list(await asyncio.gather(to_a.call(body, method), to_b.call(body, method)))
            to_a.close()
            to_b.close()

        await asyncio.gather(*(one() for _ in range(lines)))
        return [answers[number] for number in range(len(bodies))]


@contextlib.contextmanager
def pair(
    backend: PacedBackend,
    redis: RedisServer,
    directory: Path,
    *,
    state: Mapping[str, Any] | None = None,
    **sections: Any,
) -> Iterator[Pair]:
    """Two gateways, each of which knows that the other is there; *state* goes beside its URL."""
    shared = {"url": redis.url, "dedupe": "on", "timeout": "100ms", **(state or {})}
    text = _configuration(backend, shared, {"nobody": {"static": "reject"}}, **sections)
    with contextlib.ExitStack() as stack:
        for name in ("a", "b"):
            (directory / name).mkdir()
        a, b = (stack.enter_context(running_gateway(text, directory / name)) for name in ("a", "b"))
        if shared["dedupe"] == "on":
            assert wait_until(lambda: len(redis.command("PUBSUB", "CHANNELS", "wcs:verdicts:*")) >= 2), redis
        yield Pair(a, b, backend, shared)


def decision(gateway: RunningGateway, answer: Answered) -> dict[str, Any]:
    """The journal's entry of the hook with this answer."""
    request_id = answer.headers["x-request-id"]
    found = wait_until(lambda: gateway.get(f"/api/decisions/{request_id}").status_code == 200)
    assert found, request_id
    shown: dict[str, Any] = gateway.get(f"/api/decisions/{request_id}").json()
    return shown


def _configuration(
    backend: PacedBackend, state: Mapping[str, Any], apps: Mapping[str, Mapping[str, Any]], **sections: Any
) -> str:
    sections.setdefault("defaults", {})
    return configuration({"u": {"url": backend.url}}, apps, state=dict(state), **sections)
