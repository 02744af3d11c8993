"""What the store keeps, as the processes of a gateway exchange it."""

from __future__ import annotations

import msgspec

Field = tuple[bytes, bytes]
"""Name, in lower case, and value of a header field."""


class SpooledEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event that the gateway has taken and owes its backend."""

    key: bytes
    """Events with the same key are delivered in order (``policy.spooling.ordering_key``)."""
    digest: bytes
    """The same for the media server's repeats of it (``policy.spooling.repeat_digest``)."""
    app: str
    """The configured name of its app."""
    method: str
    """As the media server named it."""
    upstream: str
    """The one that was to get it first."""
    request_id: str
    received: float
    """Unix time at which the hook began."""
    query: bytes
    """The query string of its request, usually empty."""
    client: str
    """Address of the media server."""
    scheme: str
    fields: tuple[Field, ...]
    """Its header fields as they came, without those that hold secrets."""
    body: bytes
    """As it came, byte for byte."""
    cause: str
    """Why it was not delivered at once: a cause, or ``backlog`` where an earlier one of its key waits."""
    error: str
    call_id: str | None
    session_id: str | None
    value: int
    """Where there is no room, events of the lowest value go first."""
    max_age: float
    """Seconds."""
    max_size: int
    """Bytes of all kept events of its app."""


class Delivery(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event that is due: the first one of its key, leased to the process that delivers it."""

    id: int
    attempts: int
    """Failures of its own so far."""
    event: SpooledEvent


class UpstreamBacklog(msgspec.Struct, frozen=True, gc=False):
    """What waits for one upstream."""

    upstream: str
    events: int
    bytes: int
    dead: int
    oldest: float | None
    """Unix time at which the oldest waiting event came."""
    due: float | None
    """Unix time at which the next event is to be tried; None where nothing waits."""
    paused: bool
    """Whether an operator has paused its redelivery."""
