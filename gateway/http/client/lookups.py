"""Threads that ask the system's resolver for addresses: their own, so that a slow name server holds up nothing else.

asyncio's would wait in the few threads that read the configuration and answer scrapes, and the process would wait for
them at its end. These are daemons: a process that stops need not wait for a name server.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from queue import SimpleQueue
from typing import Final, NamedTuple

_THREADS: Final = 4
"""Look-ups at once."""

Addresses = tuple[str, ...]


class _Job(NamedTuple):
    host: str
    found: asyncio.Future[Addresses]


class LookupThreads:
    """Looks names up. Its threads start with the first look-up, all together: later there may be no memory for them."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._started = 0

    async def look_up(self, host: str) -> Addresses:
        """The host's addresses in the system's order, each once.

        Raises OSError, UnicodeError for what can be no name, and RuntimeError where no thread can be started.
        """
        while self._started < _THREADS:
            threading.Thread(
                target=_serve, args=(self._jobs,), name=f"name-look-up-{self._started}", daemon=True
            ).start()
            self._started += 1
        found: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(host, found))
        return await found

    def close(self) -> None:
        """End the threads, each after the look-up that it has in hand."""
        for _ in range(self._started):
            self._jobs.put(None)
        self._jobs, self._started = SimpleQueue(), 0


def _serve(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        if job.found.cancelled():
            continue
        addresses: Addresses = ()
        error: Exception | None = None
        try:
            entries = socket.getaddrinfo(job.host, None, type=socket.SOCK_STREAM)
            addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in entries))
        except Exception as exc:
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            job.found.get_loop().call_soon_threadsafe(_deliver, job.found, addresses, error)


def _deliver(found: asyncio.Future[Addresses], addresses: Addresses, error: Exception | None) -> None:
    if found.done():
        return
    if error is None:
        found.set_result(addresses)
    else:
        found.set_exception(error)
