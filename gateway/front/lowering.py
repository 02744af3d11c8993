"""Puts other limits in force, for the connections that are there too."""

from __future__ import annotations

from typing import cast

from gateway.access import AllowedAddresses
from gateway.front.protocol import FrontLimits, FrontProtocol, FrontState


def put_in_force(state: FrontState, limits: FrontLimits, addresses: AllowedAddresses) -> None:
    """Connections beyond the limits are let go, those that have been idle longest first."""
    is_shorter = limits.keepalive_timeout < state.limits.keepalive_timeout
    state.limits, state.addresses = limits, addresses
    connections = sorted(cast(set[FrontProtocol], state.connections), key=FrontProtocol.idle_since)
    excess = max(0, len(connections) - limits.max_connections)
    for connection in connections[:excess]:
        connection.let_go()
    for connection in connections[excess:] if is_shorter else ():
        connection.keep_shorter()
