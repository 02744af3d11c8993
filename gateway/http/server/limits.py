"""Applies changed limits to open connections."""

from __future__ import annotations

from typing import cast

from gateway.http.server.protocol import FrontProtocol
from gateway.http.server.state import FrontState


def enforce_limits(state: FrontState) -> None:
    """After a reload: close connections beyond the limits, the longest idle ones first."""
    connections = sorted(cast(set[FrontProtocol], state.connections), key=FrontProtocol.idle_since)
    excess = max(0, len(connections) - state.limits.max_connections)
    for connection in connections[:excess]:
        connection.close_gracefully()
    for connection in connections[excess:]:
        connection.apply_keepalive()
