"""Names to addresses, off the hot path: looked up at load, refreshed behind the answers already known.

Name resolution runs in a thread and may hang for seconds, so no hook ever waits for a refresh; only the very
first hook to a new name waits for the first look-up, inside its own time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket

logger = logging.getLogger(__name__)

REFRESH_AFTER = 30.0
"""Seconds after which a used answer is looked up again."""
RETRY_AFTER = 1.0
"""Seconds for which a failed first look-up is believed."""


class _Name:
    """One host name's state."""

    __slots__ = ("addresses", "checked", "error", "task")

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()
        self.error: OSError | None = None
        self.checked = float("-inf")
        self.task: asyncio.Task[None] | None = None


class Resolver:
    """A cache of name look-ups that outlives a failing name server: the last good answer stays in use."""

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}

    def prefetch(self, host: str) -> None:
        """Begin to look a name up; addresses need no look-up. Call inside a running loop."""
        if not is_address(host):
            self._refresh(host, self._names.setdefault(host, _Name()))

    async def resolve(self, host: str) -> tuple[str, ...]:
        """The host's addresses, best first; at once wherever they are known.

        Raises OSError (socket.gaierror) if the name has never been resolved and cannot be now.
        """
        if is_address(host):
            return (host,)
        name = self._names.setdefault(host, _Name())
        age = asyncio.get_running_loop().time() - name.checked
        if name.addresses:
            if age > REFRESH_AFTER:
                self._refresh(host, name)
            return name.addresses
        if name.error is None or age > RETRY_AFTER:
            await asyncio.shield(self._refresh(host, name))
        if name.addresses:
            return name.addresses
        raise name.error or socket.gaierror(socket.EAI_AGAIN, "not resolved")

    def _refresh(self, host: str, name: _Name) -> asyncio.Task[None]:
        if name.task is None or name.task.done():
            name.task = asyncio.get_running_loop().create_task(self._look_up(host, name))
        return name.task

    async def _look_up(self, host: str, name: _Name) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except Exception as exc:  # UnicodeError: no possible name; RuntimeError: no thread; MemoryError
            if name.addresses and name.error is None:
                logger.warning("%s: name look-up failed (%s); its last known addresses stay in use", host, exc)
            name.error = (
                exc if isinstance(exc, OSError) else socket.gaierror(socket.EAI_NONAME, str(exc) or type(exc).__name__)
            )
        else:
            name.addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
            name.error = None
        finally:
            name.checked = loop.time()

    async def aclose(self) -> None:
        """End look-ups under way."""
        tasks = [name.task for name in self._names.values() if name.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._names.clear()


def is_address(host: str) -> bool:
    """Whether the host is an IP address already."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
