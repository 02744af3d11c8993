"""Which of a name's addresses is dialled first, and when the next: in the spirit of RFC 8305 (Happy Eyeballs).

An address that took no connection is dialled last, so only the first hook waits for it. Twice a minute at most it is
tried again beside a connection to a better one, at no cost to the hook; once it answers, it has its old place back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from gateway.http.client.connection import Connection
from gateway.http.client.errors import is_own_limit

logger = logging.getLogger(__name__)

ATTEMPT_DELAY: Final = 0.25
"""Seconds until the next address is dialled beside one that is silent (RFC 8305, section 5)."""
AGAIN_AFTER = 30.0
"""Seconds after which a failed address is tried again."""
_MOST: Final = 512
"""Failed addresses that are remembered."""

Dial = Callable[[str], Coroutine[Any, Any, Connection]]


class FailedAddresses:
    """Addresses and ports that recently took no connection. Pure; times are loop times."""

    def __init__(self) -> None:
        self._tried: dict[tuple[str, int], float] = {}  # when last; the latest failure comes last

    def __repr__(self) -> str:
        return f"<FailedAddresses {list(self._tried)}>"

    def add(self, address: str, port: int, now: float) -> None:
        """It took no connection."""
        if self._tried.pop((address, port), None) is None:
            fields = {"event": "address_failed", "address": address, "port": port}
            logger.warning("%s, port %d: takes no connection; tried last", address, port, extra={"fields": fields})
        self._tried[address, port] = now
        if len(self._tried) > _MOST:
            del self._tried[next(iter(self._tried))]

    def discard(self, address: str, port: int) -> None:
        """It took a connection."""
        if self._tried and self._tried.pop((address, port), None) is not None:
            fields = {"event": "address_back", "address": address, "port": port}
            logger.info("%s, port %d: takes connections again", address, port, extra={"fields": fields})

    def order(self, addresses: Sequence[str], port: int) -> list[str]:
        """The addresses with the failed ones last, of these the one that failed last first: the next time another."""
        failed = [address for address, of_port in reversed(self._tried) if of_port == port and address in addresses]
        return [address for address in addresses if address not in failed] + failed

    def due(self, addresses: Sequence[str], port: int, now: float) -> list[str]:
        """The failed ones that are to be tried again now, where there is a better one; each once per AGAIN_AFTER."""
        failed = [address for address in addresses if (address, port) in self._tried]
        if len(failed) == len(addresses):
            return []
        due = [address for address in failed if now - self._tried[address, port] >= AGAIN_AFTER]
        self._tried.update({(address, port): now for address in due})
        return due


async def dial_first(
    addresses: Sequence[str], port: int, limit: float, dial: Dial, failed: FailedAddresses
) -> Connection:
    """A connection to the first of the addresses, in their order, that takes one; the others' are closed.

    The next address is dialled as soon as one fails, or has been silent for ATTEMPT_DELAY or for its share of the time
    until *limit* (loop time). Raises the OSError of the last one that failed.
    """
    loop = asyncio.get_running_loop()
    waiting = list(addresses)
    under_way: dict[asyncio.Task[Connection], str] = {}  # in the order in which they were dialled
    error: OSError | None = None
    try:
        while waiting or under_way:
            share = max(0.0, limit - loop.time()) / len(waiting) if len(waiting) > 1 else None
            if waiting:
                address = waiting.pop(0)
                under_way[loop.create_task(dial(address))] = address
            await asyncio.wait(
                under_way,
                timeout=None if share is None else min(ATTEMPT_DELAY, share),
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in [task for task in under_way if task.done()]:
                try:
                    connection = task.result()
                except OSError as exc:
                    error = exc
                    address = under_way.pop(task)
                    if not is_own_limit(exc):
                        failed.add(address, port, loop.time())
                    continue
                _note_success(task, under_way, port, loop.time(), failed)
                del under_way[task]
                return connection
        raise error or OSError("no address")
    except asyncio.CancelledError:
        if loop.time() >= limit:
            for address in under_way.values():
                failed.add(address, port, loop.time())
        raise
    finally:
        for task in under_way:
            task.cancel()
            task.add_done_callback(_close)


def _note_success(
    winner: asyncio.Task[Connection],
    under_way: dict[asyncio.Task[Connection], str],
    port: int,
    now: float,
    failed: FailedAddresses,
) -> None:
    """The winner's address is good; one that was dialled before it and has not answered is not."""
    for task, address in under_way.items():
        if task is winner:
            failed.discard(address, port)
            return
        if not task.done():
            failed.add(address, port, now)


def _close(task: asyncio.Task[Connection]) -> None:
    """Close what a dial that nobody needs any more has brought."""
    if not task.cancelled() and task.exception() is None:
        task.result().abort()
