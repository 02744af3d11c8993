"""Child processes: started with their signals held back, and reaped, strangers' too where this is process 1."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.server.signals import MEANINGS

_FIRST: Final = 1
"""The process that the kernel gives the children of those that have ended; in a container, the gateway may be it."""
_REAP_EVERY: Final = 1.0
"""Seconds for which an orphan that has ended may stay a zombie."""
_LOOK_AGAIN: Final = 0.05
"""Seconds between two looks at a child where the kernel has no descriptors of processes to wait for."""


class Child:
    """A process of ours."""

    living: Final[set[int]] = set()
    """The pids of all that have not been waited for: these are not for ``reap_orphans``."""

    def __init__(self, command: Sequence[str], *, pass_fds: Sequence[int], env: Mapping[str, str]) -> None:
        # Blocked, a signal waits until the child unblocks it, which it does once its handlers are installed; else one
        # sent to the whole process group would end a child that has not got so far.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, MEANINGS)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.DEVNULL, pass_fds=pass_fds, env=env
            )
            self.living.add(self._process.pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        self._process.kill()

    async def wait(self) -> int:
        """Wait for its end; its exit status, negative where a signal ended it."""
        while (status := self._process.poll()) is None:
            await self._may_have_ended()
        self.living.discard(self.pid)
        return status

    async def _may_have_ended(self) -> None:
        try:
            fd = os.pidfd_open(self.pid)
        except OSError:  # an old kernel, or no descriptors left
            await asyncio.sleep(_LOOK_AGAIN)
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(fd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)


def exit_reason(status: int) -> str:
    """How a child ended."""
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


async def reap_orphans() -> None:
    """As process 1, wait for processes that others have left behind; runs until it is cancelled."""
    while os.getpid() == _FIRST:
        reap_ended()
        await asyncio.sleep(_REAP_EVERY)


def reap_ended() -> None:
    """Reap ended children that nobody else waits for."""
    with contextlib.suppress(ChildProcessError):  # there are none
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in Child.living:
                return  # the caller that started it takes it first
            os.waitpid(ended.si_pid, os.WNOHANG)
