"""Child processes: their signals wait until they are ready, their ends are seen, and orphans are reaped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.server import children
from gateway.server.children import Child, exit_reason, reap_ended


def child(program: str) -> Child:
    return Child((sys.executable, "-c", program), pass_fds=(), env=dict(os.environ))


@pytest.mark.parametrize(("program", "status"), [("pass", 0), ("raise SystemExit(3)", 3)])
async def test_its_exit_status_is_what_waiting_returns(program: str, status: int) -> None:
    process = child(program)
    assert process.pid in Child.living
    assert await asyncio.wait_for(process.wait(), 20) == status
    assert process.pid not in Child.living


async def test_a_child_that_a_signal_ends_has_its_negative_number() -> None:
    process = child("import time; time.sleep(60)")
    process.kill()
    assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL


async def test_where_processes_have_no_descriptors_it_is_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", deny)
    assert await asyncio.wait_for(child("raise SystemExit(4)").wait(), 20) == 4


async def test_a_signal_that_comes_before_the_child_is_ready_waits(tmp_path: Path) -> None:
    """SIGTERM would end it; here it receives the signal once it has unblocked its signals."""
    done = tmp_path / "done"
    process = child(
        "import os, pathlib, signal\n"
        f"signal.signal(signal.SIGTERM, lambda *_: pathlib.Path({str(done)!r}).touch())\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])\n"
    )
    os.kill(process.pid, signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    assert done.exists()


def test_how_a_child_ended_in_words() -> None:
    assert [exit_reason(status) for status in (0, 2, -signal.SIGKILL)] == ["status 0", "status 2", "signal SIGKILL"]


async def test_orphans_are_reaped_and_children_are_left_to_who_started_them(monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, orphan.pid, os.WEXITED | os.WNOWAIT)
    monkeypatch.setattr(children, "_FIRST", os.getpid())  # as process 1
    reaping = asyncio.create_task(children.reap_orphans())
    try:
        async with asyncio.timeout(20):
            while is_there(orphan.pid):
                await asyncio.sleep(0.01)
    finally:
        reaping.cancel()
    orphan.wait()  # finds nothing left to wait for, which subprocess takes for status 0

    ours = child("raise SystemExit(5)")
    os.waitid(os.P_PID, ours.pid, os.WEXITED | os.WNOWAIT)
    reap_ended()
    assert await asyncio.wait_for(ours.wait(), 20) == 5


def is_there(pid: int) -> bool:
    """Whether it has not been reaped."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
