"""A deadline ends what takes too long, and is fair where the event loop itself was late."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.http.client.deadline import Deadline
from gateway.http.timer import LAG_THRESHOLD


async def test_what_ends_in_time_is_left_alone() -> None:
    loop = asyncio.get_running_loop()
    async with Deadline(loop, loop.time() + 10.0) as deadline:
        await asyncio.sleep(0)
    assert deadline.late == 0.0


async def test_what_takes_too_long_is_ended() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError):
        async with Deadline(loop, began + 0.02):
            await asyncio.sleep(10.0)
    assert loop.time() - began < 5.0


async def test_what_begins_after_its_deadline_ends_at_once_and_says_how_late_it_was() -> None:
    loop = asyncio.get_running_loop()
    deadline = Deadline(loop, loop.time() - 2.0)
    with pytest.raises(TimeoutError):
        async with deadline:
            await asyncio.sleep(10.0)
    assert 2.0 <= deadline.late < 10.0


async def test_a_loop_that_was_held_up_first_looks_at_what_has_arrived() -> None:
    loop = asyncio.get_running_loop()
    arrived = loop.create_future()
    deadline = Deadline(loop, loop.time() + 0.2)
    async with deadline:
        await asyncio.sleep(0)
        loop.call_soon(arrived.set_result, None)
        time.sleep(0.2 + LAG_THRESHOLD + 0.1)
        await arrived
