"""Child processes: started with their signals blocked, and reaped; as process 1, orphans of others too."""

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
"""The process that adopts the children of ended processes; in a container, the gateway may be it."""
_REAP_EVERY: Final = 1.0
"""Seconds for which an orphan that has ended may stay a zombie."""
_POLL_EVERY: Final = 0.05
"""Seconds between two polls of a child where the kernel offers no process descriptor to wait for."""


class Child:
    """A child process."""

    living: Final[set[int]] = set()
    """The pids of all that have not been waited for; ``reap_orphans`` leaves them alone."""

    def __init__(self, command: Sequence[str], *, pass_fds: Sequence[int], env: Mapping[str, str]) -> None:
        # A blocked signal waits until the child has installed its handlers and unblocks it; else one that is sent to
        # the whole process group would end a child that is still starting.
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
        """End it at once, if it still runs."""
        self._process.kill()

    async def wait(self) -> int:
        """Wait for its end; its exit status, negative where a signal ended it."""
        while (status := self._process.poll()) is None:
            await self._wait_for_change()
        self.living.discard(self.pid)
        return status

    async def _wait_for_change(self) -> None:
        try:
            fd = os.pidfd_open(self.pid)
        except OSError:  # an old kernel, or no descriptors left
            await asyncio.sleep(_POLL_EVERY)
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
    """How a child ended, for people."""
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


async def reap_orphans() -> None:
    """As process 1, reap the processes that others have left behind; runs until it is cancelled."""
    while os.getpid() == _FIRST:
        reap_ended()
        await asyncio.sleep(_REAP_EVERY)


def reap_ended() -> None:
    """Reap ended children that nothing else waits for."""
    with contextlib.suppress(ChildProcessError):  # there are none
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in Child.living:
                return  # what started it is to reap it first
            os.waitpid(ended.si_pid, os.WNOHANG)
