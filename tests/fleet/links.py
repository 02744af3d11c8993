"""Links of a test, and waiting inside a loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from gateway.config.sections.state import StateConfig, parse_state_url
from gateway.fleet.link import Link


def state(url: str, **options: Any) -> StateConfig:
    """The configuration of a state at this URL."""
    return StateConfig(parse_state_url(url), **options)


@contextlib.asynccontextmanager
async def linked(config: StateConfig, *, announce: bool = False, up: bool = True) -> AsyncIterator[Link]:
    """A link that has started, and is *up*."""
    link = Link(config, "test", announce=announce)
    await link.start()
    try:
        if up:
            await until(lambda: link.up)
        yield link
    finally:
        await link.aclose()


async def until(check: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for something in the loop."""
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.005)
