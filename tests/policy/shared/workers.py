"""Several workers over one memory, in one process, with a clock that the test sets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from gateway.policy.shared import memory
from gateway.policy.shared.memory import BEAT_EVERY, Memory, create_memory


class Workers:
    """Some workers; their locks do not keep each other out, being one process's, but nothing runs side by side."""

    def __init__(self, count: int) -> None:
        self._fd = create_memory(count)
        self.now = 1000.0
        self.stopped: set[int] = set()
        self._supervisor = Memory(self._fd, count)
        self.memories = [Memory(self._fd, count, slot) for slot in range(count)]
        self._clock = SimpleNamespace(
            monotonic_ns=lambda: int(self.now * 1e9), sleep=lambda seconds: None, monotonic=lambda: self.now
        )

    def __enter__(self) -> Workers:
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(memory, "time", self._clock)
        self.beat()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._patch.undo()
        os.close(self._fd)

    def beat(self) -> None:
        for slot, one in enumerate(self.memories):
            if slot not in self.stopped:
                one.beat()

    def advance(self, seconds: float) -> None:
        """Let time go on, in steps in which those who live say so."""
        end = self.now + seconds
        while self.now + BEAT_EVERY < end:
            self.now += BEAT_EVERY
            self.beat()
        self.now = end
        self.beat()

    def replace(self, slot: int) -> Memory:
        """The worker dies, and another takes its slot."""
        self._supervisor.vacate(slot)
        self.stopped.discard(slot)
        self.memories[slot] = Memory(self._fd, len(self.memories), slot)
        self.beat()
        return self.memories[slot]


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """So many of them."""
    with Workers(count) as running:
        yield running
