"""Verdicts and sessions as bytes in the shared state, for replicas of other versions too.

One byte that names the format, four of CRC-32, then msgpack. A newer version may add fields: they are skipped. One that
gives a known field another meaning takes another format. What is of another format, damaged, or no verdict that a
backend or a fallback can give counts as unknown: it is never an error for a hook.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final
from zlib import crc32

import msgspec

from gateway.model.hooks import is_json_object
from gateway.model.verdicts import (
    ALLOW_STATUS,
    JSON_TYPE,
    REJECT_STATUS,
    Annotations,
    Reason,
    Ruling,
    Source,
    Verdict,
    backend_reject,
    duplicate_ruling,
)
from gateway.policy.rest_client_config import SessionSettings, pack_settings, unpack_settings

MAX_VERDICT: Final = 64 * 1024
"""Bytes of a verdict; a larger one is not stored."""
MAX_SESSION: Final = 64 * 1024
"""Bytes of what a session's answer to connect set; more is not stored."""
DIGEST: Final = 16
"""Bytes that identify a hook or a session."""
_FORMAT: Final = b"\x01"
_HEAD: Final = len(_FORMAT) + 4
_PRINTABLE: Final = frozenset(range(0x20, 0x7F))
"""Bytes of a header's value."""


class _Verdict(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A ruling as it is stored; status and content type follow from the verdict."""

    verdict: Verdict
    source: Source
    reason: Reason
    body: bytes | None = None
    """None: the hook's own."""
    proxy_status: bytes | None = None
    error: str = ""
    changed_fields: str | None = None


class _Session(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a session's answer to connect set, as it is stored."""

    failing: tuple[str, ...] = ()
    settings: bytes | None = None
    """Packed; None: not known."""


class FoundSession(msgspec.Struct, frozen=True, gc=False):
    """What a session's answer to connect set, as another replica saw it."""

    failing: frozenset[str]
    """The methods whose rejections stop the call."""
    settings: SessionSettings | None
    """All that it set; None: not known."""


_encode = msgspec.msgpack.Encoder().encode
_REJECT: Final = backend_reject()
_PACKED_REJECT: Final = _encode(_Verdict(Verdict.REJECT, Source.BACKEND, Reason.DENIED))
_PACKED_ECHO: Final = _encode(_Verdict(Verdict.ALLOW, Source.BACKEND, Reason.OK))
"""The usual verdicts."""
_decode_verdict = msgspec.msgpack.Decoder(_Verdict).decode
_decode_session = msgspec.msgpack.Decoder(_Session).decode


def hook_digest(method: str, body: bytes) -> bytes:
    """Identifies a hook of this method with this body, in every replica."""
    digest = blake2b(method.encode("utf-8", "surrogatepass") + b"\0", digest_size=DIGEST, person=b"wcs-hook")
    digest.update(body)
    return digest.digest()


def session_digest(session: str) -> bytes:
    """Identifies a session, by its key, in every replica."""
    return blake2b(session.encode("utf-8", "surrogatepass"), digest_size=DIGEST, person=b"wcs-session").digest()


def encode_verdict(digest: bytes, body: bytes, ruling: Ruling) -> bytes | None:
    """The verdict of the hook with this digest and *body*; None if it is of a kind or size that is not stored."""
    echoes = ruling.verdict is Verdict.ALLOW and ruling.body == body
    if ruling is _REJECT or (echoes and ruling.source is Source.BACKEND and ruling.annotations is None):
        return _seal(_PACKED_REJECT if ruling is _REJECT else _PACKED_ECHO, digest)
    kept = duplicate_ruling(ruling)  # with what a duplicate keeps
    changed = None if kept.annotations is None else kept.annotations.changed_fields
    stored = _Verdict(
        verdict=ruling.verdict,
        source=ruling.source,
        reason=ruling.reason,
        body=None if echoes else ruling.body,
        proxy_status=ruling.proxy_status,
        error=ruling.error,
        changed_fields=changed,
    )
    if _restore(stored, body) != msgspec.structs.replace(ruling, annotations=kept.annotations):
        return None
    try:
        data = _seal(_encode(stored), digest)
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    return data if len(data) <= MAX_VERDICT else None


def decode_verdict(digest: bytes, body: bytes, data: bytes) -> Ruling | None:
    """The verdict of the hook with this digest and *body*; None = unknown."""
    packed = _unseal(data, digest)
    if packed is None:
        return None
    try:
        stored = _decode_verdict(packed)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return _restore(stored, body)


def encode_session(session: str, failing: frozenset[str], settings: SessionSettings | None) -> bytes | None:
    """What this session's answer to connect set; None if it is too large to be stored."""
    packed = None if settings is None else pack_settings(settings)
    try:
        data = _seal(_encode(_Session(tuple(sorted(failing)), packed)), session_digest(session))
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    return data if len(data) <= MAX_SESSION else None


def decode_session(session: str, data: bytes) -> FoundSession | None:
    """What this session's answer to connect set; None = unknown."""
    packed = _unseal(data, session_digest(session))
    if packed is None:
        return None
    try:
        stored = _decode_session(packed)
        settings = None if stored.settings is None else unpack_settings(stored.settings)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return FoundSession(frozenset(stored.failing), settings)


def _restore(stored: _Verdict, body: bytes) -> Ruling | None:
    """The ruling; None if the gateway gives no such answer to a hook."""
    if stored.proxy_status is not None and not _PRINTABLE.issuperset(stored.proxy_status):
        return None
    changed = stored.changed_fields
    annotations = None if changed is None else Annotations(changed_fields=changed)
    if stored.verdict is Verdict.ALLOW:
        answer, status, content_type = body if stored.body is None else stored.body, ALLOW_STATUS, JSON_TYPE
        if stored.body is not None and not is_json_object(stored.body):
            return None
    elif stored.verdict is Verdict.REJECT and not stored.body:
        answer, status, content_type = b"", REJECT_STATUS, None
    else:
        return None
    return Ruling(
        stored.verdict,
        stored.source,
        stored.reason,
        status,
        answer,
        content_type=content_type,
        proxy_status=stored.proxy_status,
        error=stored.error,
        annotations=annotations,
    )


def _seal(packed: bytes, digest: bytes) -> bytes:
    return b"%b%b%b" % (_FORMAT, crc32(packed, crc32(digest)).to_bytes(4, "big"), packed)


def _unseal(data: bytes, digest: bytes) -> bytes | None:
    """What was sealed for this digest; None if it is of another format or key, or damaged."""
    packed = data[_HEAD:]
    if data[:1] != _FORMAT or data[1:_HEAD] != crc32(packed, crc32(digest)).to_bytes(4, "big"):
        return None
    return packed
