"""The supervisor makes the shared memory and cleans up after workers that have ended."""

from __future__ import annotations

import os

import pytest

from gateway.policy.shared import Memory, SharedMemory


@pytest.mark.parametrize(("seed", "alike"), [("", True), ("random", True), ("0", False)])
def test_workers_hash_alike_unless_the_operator_chose_a_seed(
    monkeypatch: pytest.MonkeyPatch, seed: str, alike: bool
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", seed)
    shared = SharedMemory(2)
    try:
        assert ("PYTHONHASHSEED" in shared.environment) is alike
        assert Memory(shared.fd, 2).hashes_alike is alike
    finally:
        os.close(shared.fd)


def test_what_an_ended_worker_held_is_nobody_s_any_more() -> None:
    shared = SharedMemory(2)
    try:
        memory = Memory(shared.fd, 2, 1)
        memory.beat()
        memory.words[memory.clients(1)] = 7
        owner = memory.owner
        assert memory.is_alive(owner)
        shared.vacate(1)
        assert not memory.is_alive(owner)
        assert memory.words[memory.clients(1)] == 0
    finally:
        os.close(shared.fd)
