"""File descriptors: how many this process may have, and how many of them it can grant to clients.

Without free descriptors it cannot even refuse: a new connection is closed without an answer, and a hook in hand cannot
reach its backend. So clients are granted only as many as leave room for everything else.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from typing import Final, NamedTuple

from gateway.config import Config

OWN: Final = 64
"""For what a process itself has open: listeners, log, event loop, channel to the supervisor, name resolution, and files
while they are read. An idle gateway has about twenty."""
ADMIN: Final = 64
"""For connections to the admin port."""
REFUSED: Final = 64
"""For connections that are refused because there are too many."""
STRANGERS: Final = 64
"""For connections from addresses that ``server.allow_from`` does not list."""
_USUALLY_GRANTED: Final = 65_536
"""The limit to ask for where the hard limit itself is not granted: on some systems it is no real number."""


class Grant(NamedTuple):
    """What one process can grant its clients."""

    connections: int
    refused: int
    """Further connections, which get the time to read why they are refused."""
    strangers: int
    """Connections from addresses that may not send hooks."""
    wanted: int
    """This process's share of ``server.max_connections``."""
    limit: int
    """Descriptors that it may have."""
    needed: int
    """Descriptors that it would need to grant what is wanted."""


def raise_limit() -> None:
    """Raise the soft limit, often 1024, to the hard limit, as far as the system allows; never lower it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, _USUALLY_GRANTED):
        if limit != resource.RLIM_INFINITY and limit <= soft:
            return
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return


def grant(config: Config) -> Grant:
    """What this process, one of ``server.workers``, can grant."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    limit = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    wanted = max(1, config.server.max_connections // config.server.workers)
    refused = min(REFUSED, limit // 8)
    has_strangers = bool(config.server.allow_from)
    strangers = min(STRANGERS, limit // 8)
    reserved = OWN + ADMIN + refused + has_strangers * strangers
    left = limit - min(reserved, limit // 2)
    # Each connection to a backend in use serves a client's: half of what is left always suffices for those.
    most = left - min(_backend_connections(config), left // 2)
    needed = wanted + _backend_connections(config) + OWN + ADMIN + REFUSED + has_strangers * STRANGERS
    return Grant(
        connections=max(1, min(wanted, most)),
        refused=refused,
        strangers=strangers,
        wanted=wanted,
        limit=limit,
        needed=needed,
    )


def shortage(config: Config) -> str | None:
    """What the operator should do where ``server.max_connections`` cannot be granted; None where it can."""
    granted, workers = grant(config), config.server.workers
    if granted.connections >= granted.wanted:
        return None
    each = " in each worker" if workers > 1 else ""
    return (
        f"server.max_connections: only {granted.connections * workers} of {config.server.max_connections} connections "
        f"are granted, further ones are refused: the limit of open files is {granted.limit}{each}, and "
        f"{granted.needed} are needed, including those for backends and for the gateway itself. Raise it (systemd: "
        f"LimitNOFILE={granted.needed}; shell: ulimit -n {granted.needed}), or lower server.max_connections"
    )


def _backend_connections(config: Config) -> int:
    """The connections to backends that one process makes at most, those of health checks included."""
    return sum(
        len(upstream.targets) * (upstream.max_connections + (upstream.health is not None))
        for upstream in config.upstreams.values()
    )
