"""The threads for blocking work are all there before they are needed."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator

import pytest

from gateway.server.executor import start_threads


@pytest.fixture(autouse=True)
def _switch_interval_kept() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


async def test_no_thread_is_started_once_work_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    await start_threads()

    def deny(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    both_run = threading.Barrier(2)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", deny)
        await asyncio.gather(*(asyncio.to_thread(both_run.wait, 10.0) for _ in range(2)))
    assert sum(thread.name.startswith("blocking-work") for thread in threading.enumerate()) >= 2


async def test_a_busy_thread_yields_the_interpreter_after_a_millisecond() -> None:
    await start_threads()
    assert sys.getswitchinterval() == pytest.approx(0.001)
