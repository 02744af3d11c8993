"""Makes room for a new connection when all slots are taken: a connection that sends no request is evicted.

The admin port needs it: load balancers, Kubernetes and Prometheus must always get in, no matter how many connections
others hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from gateway.http.server.protocol import FrontProtocol

_GRACE: Final = 0.5
"""Seconds for which a new connection, whose request may be on its way, is evicted only after all others."""


def reclaim(connections: Iterable[Any], now: float) -> bool:
    """Evict the least needed connection of the address that holds the most. Returns whether there was one.

    *now* is loop time, in seconds.
    """
    everyone: list[FrontProtocol] = list(connections)
    held = Counter(connection.slot.site for connection in everyone)
    spare = [
        ((rank, now - connection.last_use < _GRACE, -held[connection.slot.site], connection.last_use), connection)
        for connection in everyone
        if connection.slot.kind is not None and (rank := connection.eviction_rank) is not None
    ]
    if not spare:
        return False
    _, victim = min(spare, key=lambda entry: entry[0])
    victim.evict()
    return True
