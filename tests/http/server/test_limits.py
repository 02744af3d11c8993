"""A reload applies changed limits to the connections that are open."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gateway.http.server.limits import enforce_limits
from gateway.http.server.protocol import FrontProtocol
from gateway.http.server.state import Answer, FrontLimits, FrontState


class FakeConnection:
    """As much of a connection as the limits look at."""

    def __init__(self, idle_since: float) -> None:
        self.last_use = idle_since
        self.done: list[str] = []

    def close_gracefully(self) -> None:
        self.done.append("closed")

    def apply_keepalive(self) -> None:
        self.done.append("kept")


@pytest.mark.parametrize(("limit", "closed"), [(3, []), (2, [0]), (1, [0, 1]), (0, [0, 1, 2])])
def test_connections_beyond_the_limit_are_closed_the_longest_idle_ones_first(
    monkeypatch: pytest.MonkeyPatch, limit: int, closed: list[int]
) -> None:
    monkeypatch.setattr(FrontProtocol, "idle_since", lambda connection: connection.last_use)
    state = FrontState(FrontLimits(1, 1.0, 1.0, max_connections=limit), 5.0, lambda refusal: Answer(403, [], b""))
    idle_longest, idle, busy = connections = [FakeConnection(at) for at in (1.0, 2.0, math.inf)]
    held: set[Any] = {busy, idle_longest, idle}
    state.connections.update(held)
    enforce_limits(state)
    expected = [["closed"] if number in closed else ["kept"] for number in range(3)]
    assert [connection.done for connection in connections] == expected
