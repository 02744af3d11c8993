"""What systemd is told: ready, reloading, stopping, and that the event loop still turns (sd_notify(3)).

Without ``NOTIFY_SOCKET`` in the environment nothing is told to anybody. Messages are datagrams that never wait: a
manager that does not read them loses them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final

_AFTER_DRAIN: Final = 10.0
"""Seconds beyond ``drain_timeout`` that an orderly end may take: workers' ends, the admin port's, the last lines."""


def ready(status: str) -> None:
    """Hooks are served from now on; *status* is what ``systemctl status`` shows."""
    _tell("READY=1", f"STATUS={status}")


def stopping(drain_timeout: float) -> None:
    """The end has begun, and may take *drain_timeout* seconds, whatever the unit's ``TimeoutStopSec=`` says."""
    limit = round((drain_timeout + _AFTER_DRAIN) * 1_000_000)
    _tell(
        "STOPPING=1",
        f"STATUS=stopping: no new connections; hooks in flight have {drain_timeout:g} s",
        f"EXTEND_TIMEOUT_USEC={limit}",
    )


class Reloading:
    """How a reload went, to be filled in before it is over."""

    status = "the reload did not come to its end; the configuration in force stays"


@contextlib.contextmanager
def reloading() -> Iterator[Reloading]:
    """Around a reload: the manager holds the unit for reloading, and then for ready with the status that was set."""
    told = Reloading()
    _tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
    try:
        yield told
    except asyncio.CancelledError:
        raise  # the end has come, and has been told of
    except BaseException:
        ready(told.status)
        raise
    ready(told.status)


@contextlib.asynccontextmanager
async def watchdog() -> AsyncIterator[None]:
    """Tell twice per ``WatchdogSec=`` that the event loop turns (sd_watchdog_enabled(3)); else nothing."""
    every = _watchdog_interval()
    if every is None:
        yield
        return
    turning = asyncio.create_task(_turn(every))
    try:
        yield
    finally:
        turning.cancel()
        await asyncio.gather(turning, return_exceptions=True)


async def _turn(every: float) -> None:
    while True:
        with contextlib.suppress(Exception):  # no memory just now, say: the manager is told the next time
            _tell("WATCHDOG=1")
        await asyncio.sleep(every)


def _watchdog_interval() -> float | None:
    """Seconds between two signs of life; None where none is wanted of this process."""
    limit = os.environ.get("WATCHDOG_USEC", "")
    if not (limit.isascii() and limit.isdigit()) or int(limit) == 0:
        return None
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(limit) / 2_000_000


def _tell(*lines: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    # A name with a NUL before it is no file (unix(7)); the environment cannot carry a NUL.
    name = "\0" + address[1:] if address.startswith("@") else address
    message = "\n".join(line.replace("\n", " ") for line in lines).encode()
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(message, name)
