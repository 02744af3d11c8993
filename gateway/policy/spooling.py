"""Which events are kept for later delivery, which of them must stay in order, and which are worth most."""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

import msgspec

from gateway.model.hooks import KEEP_ALIVE

RESERVE: Final = 0.1
"""Seconds of an event's budget that its upstream does not get, so that there is time to keep it."""
MAX_AGE: Final = 24 * 3600.0
MAX_SIZE: Final = 2**30
ATTEMPTS: Final = 10
REPEAT_WINDOW: Final = 10.0
"""Seconds within which the media server's own repeat (same app, method and bytes) is kept once."""
KEY_BYTES: Final = 16

NEVER_SPOOLED: Final = frozenset({KEEP_ALIVE})

_BILLING: Final = frozenset(
    ("CallStatusEvent", "TransferStatusEvent", "MessageStatusEvent", "RecordingStatusEvent", "ConnectionStatusEvent")
)
_STATISTICS: Final = frozenset(("StreamsStatEvent", "StreamTranscodingGroupEvent", "SessionDebugStatusEvent"))


class SpoolSettings(NamedTuple):
    """How long and how much of a method's events is kept."""

    max_age: float = MAX_AGE
    """Seconds from the event's arrival; an older one is dropped."""
    max_size: int = MAX_SIZE
    """Bytes of all kept events of the app."""
    attempts: int = ATTEMPTS
    """Failures of its own after which an event becomes a dead letter."""


class _Ids(msgspec.Struct, frozen=True, gc=False):
    """The fields of a hook's body that say what an event belongs to."""

    call_id: msgspec.Raw = msgspec.field(name="callId", default=msgspec.Raw())
    media_session_id: msgspec.Raw = msgspec.field(name="mediaSessionId", default=msgspec.Raw())
    session_id: msgspec.Raw = msgspec.field(name="sessionId", default=msgspec.Raw())


_decode_ids = msgspec.json.Decoder(_Ids).decode
_NOTHING: Final = (b"", b"null", b'""')


def ordering_key(app: str, body: bytes) -> bytes:
    """The key of an event: events with the same key are delivered in the order in which they came.

    Of its callId, else mediaSessionId, else sessionId. An event without any of them has the key of its bytes: so that
    the media server's repeat of any event has the same key, and the store finds it there.
    """
    ids = _decode_ids(body)
    for kind, raw in ((b"c", ids.call_id), (b"m", ids.media_session_id), (b"s", ids.session_id)):
        if (value := bytes(raw)) not in _NOTHING:
            return _digest(kind, app.encode(), value)
    return _digest(b"b", app.encode(), body)


def repeat_digest(app: str, method: str, body: bytes) -> bytes:
    """The same for an event and its repeats by the media server."""
    return _digest(app.encode(), method.encode(), body)


def event_value(method: str) -> int:
    """How much an event is worth: where there is no room, those of the lowest value go first. 0 to 2."""
    return 2 if method in _BILLING else 0 if method in _STATISTICS else 1


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()
