"""Notifies systemd: ready, reloading, stopping, and the watchdog (sd_notify(3)).

Without ``NOTIFY_SOCKET`` in the environment, nothing is sent. Messages are datagrams sent without waiting; a manager
that does not read them loses them.
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
"""Seconds after ``drain_timeout`` for the rest of an orderly stop: workers, admin port, last log lines."""


def ready(status: str) -> None:
    """Report that hooks are served; *status* is shown by ``systemctl status``."""
    _notify("READY=1", f"STATUS={status}")


def stopping(drain_timeout: float) -> None:
    """Report the stop, which may take *drain_timeout* seconds even with a shorter ``TimeoutStopSec=``."""
    limit = round((drain_timeout + _AFTER_DRAIN) * 1_000_000)
    _notify(
        "STOPPING=1",
        f"STATUS=stopping: hooks in flight have {drain_timeout:g} s",
        f"EXTEND_TIMEOUT_USEC={limit}",
    )


class Reloading:
    """The result of a reload; ``status`` is set before it ends."""

    status = "the reload was not completed; the configuration is unchanged"


@contextlib.contextmanager
def reloading() -> Iterator[Reloading]:
    """Around a reload: the unit is reloading, then ready with the status that was set."""
    result = Reloading()
    _notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
    try:
        yield result
    except asyncio.CancelledError:
        raise  # the process is stopping, which is already reported
    except BaseException:
        ready(result.status)
        raise
    ready(result.status)


@contextlib.asynccontextmanager
async def watchdog() -> AsyncIterator[None]:
    """Notify the watchdog twice per ``WatchdogSec=`` (sd_watchdog_enabled(3)); without it, do nothing."""
    every = _watchdog_interval()
    if every is None:
        yield
        return
    notifying = asyncio.create_task(_notify_watchdog(every))
    try:
        yield
    finally:
        notifying.cancel()
        await asyncio.gather(notifying, return_exceptions=True)


async def _notify_watchdog(every: float) -> None:
    while True:
        with contextlib.suppress(Exception):  # for example, no memory: the next message may work
            _notify("WATCHDOG=1")
        await asyncio.sleep(every)


def _watchdog_interval() -> float | None:
    """Seconds between two watchdog messages; None if systemd expects none from this process."""
    limit = os.environ.get("WATCHDOG_USEC", "")
    if not (limit.isascii() and limit.isdigit()) or int(limit) == 0:
        return None
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(limit) / 2_000_000


def _notify(*lines: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    # A leading @ stands for NUL, the mark of an abstract socket (unix(7)).
    name = "\0" + address[1:] if address.startswith("@") else address
    message = "\n".join(line.replace("\n", " ") for line in lines).encode()
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(message, name)
