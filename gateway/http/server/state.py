"""What the connections of one listener share: limits, slots, and how a refusal is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from uvicorn.server import ServerState

from gateway.http.server.head import BadRequest, TooManyConnections
from gateway.http.server.proxy_header import BadProxyHeader
from gateway.http.server.response import encode_answer
from gateway.http.server.slots import Slot, SlotLimits, Slots
from gateway.policy.access import Client, ClientAddresses

TOO_MANY: Final = "as many connections are open as server.max_connections allows"
_NOT_ALLOWED: Final = (
    b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
)


class FrontLimits(NamedTuple):
    """Limits for clients; times in seconds, sizes in bytes."""

    max_body: int
    read_timeout: float
    keepalive_timeout: float
    max_connections: int
    max_refused: int = 64
    """Further connections that are given time to read why they are refused; the rest are closed with the answer."""
    max_strangers: int = 64
    """Connections from addresses that may not send hooks."""
    reclaims: bool = False
    """Whether a new connection may evict one that sends no request when all slots are taken."""

    @property
    def sizes(self) -> SlotLimits:
        """The connections that each kind of client may hold."""
        return SlotLimits(members=self.max_connections, excess=self.max_refused, strangers=self.max_strangers)


class Answer(NamedTuple):
    """The answer to a refused request."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


Refuse = Callable[[BadRequest], Answer]
"""Makes the answer to something that is no request, and reports it to log and metrics."""


class FrontState(ServerState):
    """What the connections of one listener share."""

    def __init__(self, limits: FrontLimits, linger: float, refuse: Refuse) -> None:
        super().__init__()
        self.limits = limits
        self.addresses = ClientAddresses()
        """Who may send hooks; a reload replaces the object."""
        self.slots = Slots()
        self.linger = linger
        self.refuse = refuse
        self.on_drop: Callable[[], None] = lambda: None
        """Called for each connection that was closed because there was no slot for it."""
        self.on_bad_header: Callable[[Client, BadProxyHeader], None] = lambda peer, exc: None
        """Called with the peer of each connection that was closed because it had no valid PROXY header."""
        self.draining = False
        self.waiting = 0
        """New connections that wait until another is evicted."""

    def admit(self, client: Client) -> Slot | None:
        """A slot for a new connection; None if it can only be closed."""
        return self.slots.take(self.limits.sizes, client, allowed=self.addresses.admits(client))

    def admit_balancer(self, peer: Client) -> Slot | None:
        """A slot for a balancer's connection until its PROXY header names the client; None if it can only be closed."""
        return self.slots.take(self.limits.sizes, peer, allowed=True)

    def busy_answer(self, client: Client) -> bytes:
        """The answer to a connection for which there is no slot; for a stranger, nothing is logged."""
        if not (self.addresses.admits(client) or self.addresses.expects_header(client)):
            return _NOT_ALLOWED
        answer = self.refuse(TooManyConnections(403, TOO_MANY))
        return encode_answer(answer.status, [*answer.headers, *self.default_headers], answer.body, keep_alive=False)

    def begin_handshake(self, slot: Slot, client: Client) -> bool:
        """Whether a connection that has a slot may begin its TLS handshake."""
        addresses = self.addresses
        listed = client is None or addresses.trusts(client) or (not addresses.everyone and addresses.allows(client))
        return slot.begin_handshake(self.limits.sizes, listed=listed)
