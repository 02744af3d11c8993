"""Makes room for a new connection where all places are held: whose connection sends no request gives way.

The admin port needs it: balancers, Kubernetes and Prometheus must always get in, however many connections others hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from gateway.http.server.protocol import FrontProtocol

_GRACE: Final = 0.5
"""Seconds for which a new connection, whose request may be on its way, gives way only after all others."""


def reclaim(connections: Iterable[Any], now: float) -> bool:
    """End the connection whose end matters least, of the address that holds the most; whether there was one.

    *now* is loop time, in seconds.
    """
    everyone: list[FrontProtocol] = list(connections)
    held = Counter(connection.place.site for connection in everyone)
    spare = [
        ((rank, now - connection.last_use < _GRACE, -held[connection.place.site], connection.last_use), connection)
        for connection in everyone
        if connection.place.standing is not None and (rank := connection.gives_way) is not None
    ]
    if not spare:
        return False
    _, victim = min(spare, key=lambda entry: entry[0])
    victim.give_way()
    return True
