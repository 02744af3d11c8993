"""What the connections of one listener share: limits, places, and how a refusal is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from uvicorn.server import ServerState

from gateway.http.server.head import BadRequest, TooManyConnections
from gateway.http.server.places import Client, Place, Places, PoolSizes
from gateway.http.server.response import whole_answer
from gateway.policy.access import AllowedAddresses

TOO_MANY: Final = "as many connections are open as server.max_connections allows"
_NOT_ALLOWED: Final = (
    b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
)


class FrontLimits(NamedTuple):
    """What a client is granted; times in seconds, sizes in bytes."""

    max_body: int
    read_timeout: float
    keepalive_timeout: float
    max_connections: int
    max_refused: int = 64
    """Connections beyond these that are given time to read why they are refused; more are closed with the answer."""
    max_strangers: int = 64
    """Connections from addresses that may not send hooks."""
    reclaims: bool = False
    """Whether a new connection may take the place of one that sends no request, where all places are held."""

    @property
    def sizes(self) -> PoolSizes:
        """The connections that each kind of client may hold."""
        return PoolSizes(members=self.max_connections, excess=self.max_refused, strangers=self.max_strangers)


class Answer(NamedTuple):
    """What goes out to a refused request."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


Refuse = Callable[[BadRequest], Answer]
"""Makes the answer to what is no request, and tells log and metrics of it."""


class FrontState(ServerState):
    """What the connections of one listener share."""

    def __init__(self, limits: FrontLimits, linger: float, refuse: Refuse) -> None:
        super().__init__()
        self.limits = limits
        self.addresses = AllowedAddresses()
        """Whom to listen to; replaced as a whole by a reload."""
        self.places = Places()
        self.linger = linger
        self.refuse = refuse
        self.dropped: Callable[[], None] = lambda: None
        """Told of each connection that was closed because there was no place for it."""
        self.draining = False
        self.waiting = 0
        """New connections that wait for another to give way."""

    def admit(self, client: Client) -> Place | None:
        """A place for a new connection; None where it can only be closed."""
        return self.places.take(self.limits.sizes, client, allowed=self.addresses.allows(client))

    def farewell(self, client: Client) -> bytes:
        """The answer to a connection for which there is no place; a stranger's makes no line in the log."""
        if not self.addresses.allows(client):
            return _NOT_ALLOWED
        answer = self.refuse(TooManyConnections(403, TOO_MANY))
        return whole_answer(answer.status, [*answer.headers, *self.default_headers], answer.body, keep_alive=False)

    def begin_handshake(self, place: Place, client: Client) -> bool:
        """Whether the TLS handshake of a connection that has a place may begin."""
        listed = client is None or (not self.addresses.everyone and self.addresses.allows(client))
        return place.begin_handshake(self.limits.sizes, listed=listed)
