"""The messages between the store's process and those that decide hooks: msgpack, each with its length before it.

``encode`` and ``decode_for_store``, ``decode_for_client`` are all that is needed of msgspec. A number joins a request
and its reply; it is unique among a connection's requests.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.store.records import Delivery, SpooledEvent, UpstreamBacklog


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=True):
    """Any message."""


# --- to the store ---


class Hello(Message, frozen=True):
    """First on every connection."""

    role: str
    """``worker`` decides hooks and can redeliver; ``admin`` asks, and brings the configuration."""
    pid: int
    held: tuple[int, ...] = ()
    """Events that it had been given on an earlier connection, and has not settled yet: it still has them."""


class Configure(Message, frozen=True):
    """From ``admin``: the configuration in force (a pickled ``gateway.store.settings.StoreConfig``)."""

    config: bytes


class KeepEvent(Message, frozen=True):
    """Commit this event, then answer ``Kept``."""

    number: int
    event: SpooledEvent


class KeepDecisions(Message, frozen=True):
    """Decisions for the history (``gateway.store.decisions``), each encoded; no reply."""

    decisions: tuple[bytes, ...]


class KeepShadow(Message, frozen=True):
    """The result of the shadow copy of a hook whose decision was sent before; no reply."""

    request_id: str
    time: float
    """The decision's: Unix time at which its hook began."""
    result: bytes
    """As ``store.decisions.encode_shadow`` made it."""


class Take(Message, frozen=True):
    """Give at most *most* events that are due for this upstream, the first of their keys; answered with ``Work``."""

    number: int
    upstream: str
    most: int


class Settle(Message, frozen=True):
    """What became of a delivery; repeated on a new connection until ``Settled`` has come."""

    id: int
    outcome: str
    """``delivered``; ``failed``: try again at *due*, one more failure of its own; ``dead``: it becomes a dead letter;
    ``released``: try again at *due*, nothing is counted."""
    due: float = 0.0
    """Unix time."""
    error: str = ""


class Ask(Message, frozen=True):
    """A request of an operator (``gateway.store.requests``), encoded; answered with ``Reply``."""

    number: int
    request: bytes


# --- from the store ---


class Kept(Message, frozen=True):
    """An event is committed; or it is not, and the reason."""

    number: int
    error: str | None = None


class Work(Message, frozen=True):
    """The events asked for; they stay leased to this connection until they are settled or it ends."""

    number: int
    deliveries: tuple[Delivery, ...]


class Settled(Message, frozen=True):
    """The outcomes of these deliveries are committed."""

    ids: tuple[int, ...]


class Duty(Message, frozen=True):
    """Whether this worker is the one that redelivers; sent on connecting and at each change."""

    redelivers: bool


class Backlogs(Message, frozen=True):
    """What waits, by upstream: to the worker that redelivers and to ``admin``, at each change, at most every 0.1 s."""

    upstreams: tuple[UpstreamBacklog, ...]
    up: bool
    """Whether the database can be written."""


class Reply(Message, frozen=True):
    """The answer to ``Ask``: encoded, or the reason why there is none."""

    number: int
    data: bytes
    error: str | None = None


ToStore = Hello | Configure | KeepEvent | KeepDecisions | KeepShadow | Take | Settle | Ask
FromStore = Kept | Work | Settled | Duty | Backlogs | Reply

MAX_MESSAGE: Final = 128 * 2**20
"""Bytes of a message, at most: a body may have 64 MiB."""

encode = msgspec.msgpack.Encoder().encode
decode_for_store = msgspec.msgpack.Decoder(ToStore).decode
decode_for_client = msgspec.msgpack.Decoder(FromStore).decode
