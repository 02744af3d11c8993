"""A worker's part of the shared memory: it gives signs of life, and opens what lies there by name."""

from __future__ import annotations

import asyncio
import os

from gateway.policy.shared import Memory, SharedMemory, SharedState
from gateway.policy.shared.memory import BEAT_EVERY


async def test_a_worker_gives_signs_of_life_until_it_is_closed() -> None:
    shared = SharedMemory(2)
    try:
        memory = Memory(shared.fd, 2, 0)
        assert not memory.is_alive(memory.owner)
        state, beats = SharedState(memory), asyncio.Event()
        assert memory.is_alive(memory.owner)
        state.on_beat = beats.set
        await asyncio.wait_for(beats.wait(), 50 * BEAT_EVERY)
        state.close()
    finally:
        os.close(shared.fd)


async def test_targets_and_apps_of_one_name_are_the_same_to_all_workers() -> None:
    shared = SharedMemory(2)
    try:
        states = [SharedState(Memory(shared.fd, 2, slot)) for slot in range(2)]
        one, other = (state.target_breaker("u", "http://h") for state in states)
        assert one is not None
        assert other is not None
        one.eject(0.0)
        assert not other.ready(0.0)
        for state in states:
            state.app_limits("a").active_count.note(1)
            state.close()
        assert states[0].app_limits("a").active_count.total(1) == 2
    finally:
        os.close(shared.fd)
