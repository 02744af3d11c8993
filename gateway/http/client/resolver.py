"""Names to addresses, off the hot path: looked up at load, refreshed behind the answers already known.

Name resolution runs in threads and may hang for seconds, so no hook waits for a refresh, but for a moment after a quiet
minute; only the very first hook to a new name waits for the first look-up, inside its own time. Where that fails or
hangs, hooks fail at once until there is an answer, but for one at a time that waits a moment for it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain, zip_longest
from typing import Final

from gateway.http.client.dial import FailedAddresses
from gateway.http.client.lookups import LookupThreads

logger = logging.getLogger(__name__)

REFRESH_AFTER = 10.0
"""Seconds after which a used answer is looked up again."""
OLD_AFTER = 60.0
"""Seconds after which an answer is too old to be used without a short wait for the refresh."""
RETRY_AFTER = 1.0
"""Seconds for which a failed first look-up is believed."""
HANGING_AFTER = 1.0
"""Seconds after which a first look-up that has not ended counts as failed, until it ends."""
_GRACE: Final = 0.1
"""Seconds for which the one hook that begins a look-up waits where the last one failed, or is old."""

LookUp = Callable[[str], Awaitable[tuple[str, ...]]]


class _Name:
    """One host name's state."""

    __slots__ = ("addresses", "began", "checked", "error", "task")

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()
        self.error: OSError | None = None
        self.began = self.checked = float("-inf")
        self.task: asyncio.Task[None] | None = None

    @property
    def is_being_looked_up(self) -> bool:
        return self.task is not None and not self.task.done()


class Resolver:
    """A cache of name look-ups that outlives a failing name server: the last good answer stays in use.

    *look_up* returns a host's addresses or raises OSError or UnicodeError; by default it asks the system.
    """

    def __init__(self, look_up: LookUp | None = None) -> None:
        self._threads = LookupThreads()
        self._ask = look_up or self._threads.look_up
        self._names: dict[str, _Name] = {}
        self.failed = FailedAddresses()
        """Addresses that recently took no connection, shared by all users of this resolver."""

    def prefetch(self, host: str) -> None:
        """Begin to look a name up; addresses need no look-up. Call inside a running loop."""
        if not is_address(host):
            self._refresh(host, self._names.setdefault(host, _Name()))

    async def resolve(self, host: str) -> tuple[str, ...]:
        """The host's addresses, best first; at once if they are known.

        Raises OSError (socket.gaierror) if the name has never been resolved and cannot be now.
        """
        if is_address(host):
            return (host,)
        name = self._names.setdefault(host, _Name())
        now = asyncio.get_running_loop().time()
        if not name.addresses:
            await self._first_answer(host, name, now)
        elif now - name.checked > REFRESH_AFTER:
            await self._later_answer(host, name, is_old=now - name.checked > OLD_AFTER)
        if name.addresses:
            return name.addresses
        raise name.error or socket.gaierror(socket.EAI_AGAIN, "the name server does not answer")

    async def next_answer(self, host: str) -> tuple[str, ...]:
        """The name's addresses after its next refresh; where that fails, those known before. Never raises."""
        await asyncio.sleep(REFRESH_AFTER)
        name = self._names.setdefault(host, _Name())
        if asyncio.get_running_loop().time() - name.checked > REFRESH_AFTER / 2:  # else another has just done it
            await asyncio.shield(self._refresh(host, name))
        return name.addresses

    def recheck(self, host: str) -> None:
        """None of the host's addresses took a connection: look the name up again, unless that was just done."""
        name = self._names.get(host)
        if name is not None and asyncio.get_running_loop().time() - name.checked > RETRY_AFTER:
            self._refresh(host, name)

    async def _first_answer(self, host: str, name: _Name, now: float) -> None:
        """Wait for the first look-up, as long as that may help."""
        if name.is_being_looked_up:
            if name.error is None and now - name.began <= HANGING_AFTER:
                await asyncio.shield(self._refresh(host, name))
        elif name.error is None:
            await asyncio.shield(self._refresh(host, name))
        elif now - name.checked > RETRY_AFTER:
            await asyncio.wait((self._refresh(host, name),), timeout=_GRACE)

    async def _later_answer(self, host: str, name: _Name, *, is_old: bool) -> None:
        """Begin a refresh; after quiet times, when the name may have moved unseen, wait a moment for it."""
        if name.is_being_looked_up:
            return
        task = self._refresh(host, name)
        if is_old:
            await asyncio.wait((task,), timeout=_GRACE)

    def _refresh(self, host: str, name: _Name) -> asyncio.Task[None]:
        if name.task is None or name.task.done():
            name.began = asyncio.get_running_loop().time()
            name.task = asyncio.get_running_loop().create_task(self._look_up(host, name))
        return name.task

    async def _look_up(self, host: str, name: _Name) -> None:
        loop = asyncio.get_running_loop()
        try:
            addresses = interleave(await self._ask(host))
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
        except Exception as exc:  # UnicodeError: no possible name; RuntimeError: no thread; MemoryError
            if name.addresses and name.error is None:
                logger.warning("%s: name look-up failed (%s); its last known addresses stay in use", host, exc)
            name.error = (
                exc if isinstance(exc, OSError) else socket.gaierror(socket.EAI_NONAME, str(exc) or type(exc).__name__)
            )
        else:
            if name.addresses and set(addresses) != set(name.addresses):
                fields = {"event": "addresses_changed", "host": host, "addresses": list(addresses)}
                logger.info("%s: its addresses are now %s", host, ", ".join(addresses), extra={"fields": fields})
            name.addresses = addresses
            name.error = None
        finally:
            name.checked = loop.time()

    async def aclose(self) -> None:
        """End look-ups under way."""
        tasks = [name.task for name in self._names.values() if name.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.close()
        self._names.clear()


def interleave(addresses: Iterable[str]) -> tuple[str, ...]:
    """The addresses, each once, IPv6 and IPv4 in turn, the first one's family first (RFC 8305, section 4)."""
    distinct = list(dict.fromkeys(addresses))
    first = [address for address in distinct if (":" in address) is (":" in distinct[0])]
    second = [address for address in distinct if address not in first]
    return tuple(address for address in chain(*zip_longest(first, second)) if address is not None)


def is_address(host: str) -> bool:
    """Whether the host is an IP address already."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
