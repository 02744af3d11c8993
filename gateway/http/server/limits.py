"""Holds the connections that are there to the limits in force."""

from __future__ import annotations

from typing import cast

from gateway.http.server.protocol import FrontProtocol
from gateway.http.server.state import FrontState


def enforce_limits(state: FrontState) -> None:
    """After a reload: let connections beyond the limits go, those that have been idle longest first."""
    connections = sorted(cast(set[FrontProtocol], state.connections), key=FrontProtocol.idle_since)
    excess = max(0, len(connections) - state.limits.max_connections)
    for connection in connections[:excess]:
        connection.let_go()
    for connection in connections[excess:]:
        connection.keep_shorter()
