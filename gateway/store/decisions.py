"""A decision as it travels to the store's process, as it is kept there, and as it comes back: all msgpack.

``encode_sent`` is for the event loop of what decides hooks and takes two microseconds; nothing is masked there. The
store's process masks numbers and bodies and computes the terms by which the decision is found (``Preparer``); what it
keeps is a ``KeptDecision``. ``decode_decision`` builds the decision again, so that it is shown as the journal shows the
original.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgspec

from gateway.model.decision import AttemptRecord, Decision
from gateway.model.hooks import AppKey, Hook, field_text, is_json_object
from gateway.model.text import mask_number, shorten
from gateway.model.verdicts import Annotations, Reason, Ruling, Source, Verdict
from gateway.policy.history import Bodies, is_ordinary, keeps_bodies
from gateway.policy.shadow import ShadowResult
from gateway.recording.masking import Mask
from gateway.store.numbers import MAX_NUMBER, NumberHasher

FIELD: Final = 256
"""Characters of a hook's field that are kept and searched for, as in the journal."""
NUMBER: Final = 64
"""Characters of a phone number that are shown."""
ID_STEP: Final = 1024
"""Ids that a microsecond has."""
_LONG: Final = 4 * FIELD
"""Bytes of a field's JSON from which on it is shortened before it is sent."""
_CACHED: Final = 4096
"""Values of a field that are remembered with what was made of them."""

_CALL, _SESSION, _REQUEST, _CALLER, _CALLEE = range(1, 6)
"""Kinds of terms."""


class Details(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What of a decision no search needs first."""

    app: str
    method: str
    method_name: str
    verdict: Verdict
    source: Source
    reason: Reason
    status: int
    error: str
    upstream: str | None
    target: str | None
    budget: float | None
    duration: float
    upstream_duration: float
    asked_after: float
    attempts: int
    node_id: bytes | None
    worker: int
    revision: str
    """Of the configuration in force."""
    story: tuple[AttemptRecord, ...] = ()
    annotations: Annotations | None = None


class SentDecision(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A decision on its way to the store. The hook's fields are JSON, as they came; None where there was no hook."""

    time: float
    ordinary: bool
    request_id: str
    session_id: bytes | None
    call_id: bytes | None
    caller: bytes | None
    callee: bytes | None
    body: bytes
    """The hook's own, where bodies are kept."""
    answer: bytes | None
    """None: the same as the hook."""
    details: Any
    """``Details``; for the store's process a ``msgspec.Raw``."""


class KeptDecision(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A decision as it is kept; numbers in it are masked as configured."""

    id: int
    """Its time in microseconds × ID_STEP, and what makes it unique."""
    time: float
    request_id: str
    session_id: bytes | None
    call_id: bytes | None
    caller: bytes | None
    callee: bytes | None
    caller_hash: bytes | None
    callee_hash: bytes | None
    has_bodies: bool
    details: msgspec.Raw
    body: bytes = b""
    """Where it is kept; masked."""
    answer: bytes | None = b""
    """None: the same as the hook."""


class DecodedDecision(NamedTuple):
    """A decision of the history."""

    id: int
    decision: Decision
    worker: int
    """The process that decided."""
    revision: str
    """Of the configuration that was in force."""


class _RawSent(SentDecision, frozen=True):
    details: msgspec.Raw


class _SentShadow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    ordinary: bool
    result: ShadowResult


_NO_ANNOTATIONS: Final = msgspec.structs.asdict(Annotations())
_encode = msgspec.msgpack.Encoder().encode
_decode_sent = msgspec.msgpack.Decoder(_RawSent).decode
_decode_kept = msgspec.msgpack.Decoder(KeptDecision).decode
decode_details = msgspec.msgpack.Decoder(Details).decode
_decode_shadow = msgspec.msgpack.Decoder(_SentShadow).decode
_encode_json = msgspec.json.Encoder().encode


# --- what decides hooks ---


def encode_sent(decision: Decision, bodies: Bodies, worker: int, revision: str) -> bytes:
    """The decision for the store, with its bodies where *bodies* wants them."""
    ruling, hook = decision.ruling, decision.hook
    node_id = session_id = call_id = caller = callee = None
    if hook is not None:
        node_id, session_id, call_id = bytes(hook.node_id), bytes(hook.session_id), bytes(hook.call_id)
        caller, callee = bytes(hook.caller), bytes(hook.callee)
        if len(node_id) + len(session_id) + len(call_id) + len(caller) + len(callee) > _LONG:
            node_id, session_id, call_id, caller, callee = map(_short, (node_id, session_id, call_id, caller, callee))
    body: bytes = b""
    answer: bytes | None = b""
    if bodies is not Bodies.OFF and hook is not None and keeps_bodies(decision, bodies):
        body = decision.body
        answer = None if ruling.body == body else ruling.body
    annotations = ruling.annotations
    return _encode(
        (
            decision.time,
            is_ordinary(decision),
            decision.request_id,
            session_id,
            call_id,
            caller,
            callee,
            body,
            answer,
            (
                decision.app,
                decision.method,
                decision.method_name,
                ruling.verdict,
                ruling.source,
                ruling.reason,
                ruling.status,
                ruling.error,
                decision.upstream,
                decision.target,
                decision.budget,
                decision.duration,
                decision.upstream_duration,
                decision.asked_after,
                decision.attempts,
                node_id,
                worker,
                revision,
                decision.story,
                annotations if annotations is None else _set_fields(annotations),
            ),
        )
    )


def encode_shadow(result: ShadowResult, decision: Decision) -> bytes:
    """The result of a shadow copy for the store; *decision*: the hook's."""
    result = msgspec.structs.replace(result, error=shorten(result.error))
    return _encode(_SentShadow(is_ordinary(decision), result))


def _short(raw: bytes) -> bytes:
    if len(raw) <= FIELD:
        return raw
    text = field_text(msgspec.Raw(raw), FIELD)
    return b"" if text is None else _encode_json(text)


def _set_fields(annotations: Annotations) -> dict[str, Any]:
    return {
        name: value for name, default in _NO_ANNOTATIONS.items() if (value := getattr(annotations, name)) != default
    }


# --- the store's process ---


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """A decision that is ready to be kept."""

    id: int
    ordinary: bool
    encoded: bytes
    """A ``KeptDecision`` without bodies."""
    terms: list[int]
    """Numbers of 32 bits: what it is found by. Others may have the same ones."""
    bodies: bytes | None
    """Its bodies, packed, where it has any."""


class Preparer:
    """Masks, hashes and numbers decisions. For one thread."""

    def __init__(
        self, mask: Collection[str], hasher: NumberHasher | None, body_mask: Mask | None = None, begin: int = 0
    ) -> None:
        """*mask*: the configuration's ``log.mask``; *begin*: where the ids' counter begins, so that replicas differ.

        Without a *body_mask* no bodies are kept.
        """
        self._callers = _Known(_Numbers("caller" in mask, hasher, _CALLER).make)
        self._callees = _Known(_Numbers("callee" in mask, hasher, _CALLEE).make)
        self._calls = _Known(partial(_field_term, _CALL))
        self._sessions = _Known(partial(_field_term, _SESSION))
        self._body_mask = body_mask
        self._count = begin

    def prepare(self, data: bytes) -> Prepared:
        """A decision as ``encode_sent`` made it. Raises ValueError where it is none."""
        sent = _decode_sent(data)
        self._count = count = (self._count + 1) % ID_STEP
        id_ = int(sent.time * 1e6) * ID_STEP + count
        request_id, session_id, call_id, caller, callee = (
            sent.request_id,
            sent.session_id,
            sent.call_id,
            sent.caller,
            sent.callee,
        )
        terms = [crc32(request_id.encode(), _REQUEST)]
        if call_id and (found := self._calls[call_id]) is not None:
            terms.append(found)
        if session_id and (found := self._sessions[session_id]) is not None:
            terms.append(found)
        caller_hash = callee_hash = None
        if caller:
            caller, caller_hash, found = self._callers[caller]
            if found is not None:
                terms.append(found)
        if callee:
            callee, callee_hash, found = self._callees[callee]
            if found is not None:
                terms.append(found)
        bodies = self._pack_bodies(sent) if sent.body else None
        encoded = _encode(
            (
                id_,
                sent.time,
                request_id,
                session_id,
                call_id,
                caller,
                callee,
                caller_hash,
                callee_hash,
                bodies is not None,
                sent.details,
            )
        )
        return Prepared(id_, sent.ordinary, encoded, terms, bodies)

    def _pack_bodies(self, sent: SentDecision) -> bytes | None:
        mask, answer = self._body_mask, sent.answer
        if mask is None:
            return None
        known: set[str] = set()
        body = mask.apply(sent.body, known)
        if answer:
            # What is no object cannot be masked.
            answer = mask.apply(answer, known) if is_json_object(answer) else b""
        return zlib.compress(_encode((body, answer)), 1)


class _Known(dict[bytes, Any]):
    """What was made of the JSON of a field: the hooks of a call have the same ones. Bounded."""

    def __init__(self, make: Callable[[bytes], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, raw: bytes) -> Any:
        if len(self) >= _CACHED:
            self.clear()
        made = self[raw] = self._make(raw)
        return made


class _Numbers:
    """One field's numbers as they are kept."""

    def __init__(self, is_masked: bool, hasher: NumberHasher | None, kind: int) -> None:
        self._is_masked = is_masked
        self._hasher = hasher
        self._kind = kind

    def make(self, raw: bytes) -> tuple[bytes, bytes | None, int | None]:
        """The field's JSON as it is kept, the number's hash, and its term."""
        text = field_text(msgspec.Raw(raw), MAX_NUMBER)
        if text is None:
            return b"", None, None
        hashed = None if self._hasher is None else self._hasher.hash(text)
        text = shorten(text, NUMBER)
        kept = _encode_json(mask_number(text) if self._is_masked else text)
        return kept, hashed, None if hashed is None else crc32(hashed, self._kind)


def _field_term(kind: int, raw: bytes) -> int | None:
    """The term of a field's JSON."""
    text = field_text(msgspec.Raw(raw), FIELD)
    return None if text is None else _text_term(kind, text)


def _text_term(kind: int, text: str) -> int:
    return crc32(text.encode("utf-8", "surrogatepass"), kind)


def call_term(call_id: str) -> int:
    """The term of a call's id: a number of 32 bits by which decisions with this value are found."""
    return _text_term(_CALL, call_id)


def session_term(session_id: str) -> int:
    """The term of a session's id."""
    return _text_term(_SESSION, session_id)


def request_term(request_id: str) -> int:
    """The term of a request's id."""
    return _text_term(_REQUEST, request_id)


def caller_term(hashed: bytes) -> int:
    """The term of a caller's hash."""
    return crc32(hashed, _CALLER)


def callee_term(hashed: bytes) -> int:
    """The term of a callee's hash."""
    return crc32(hashed, _CALLEE)


def with_bodies(kept: KeptDecision, packed: bytes) -> KeptDecision:
    """The decision with the bodies that ``Prepared.bodies`` has. Raises ValueError where they are damaged."""
    try:
        body, answer = msgspec.msgpack.decode(zlib.decompress(packed), type=tuple[bytes, bytes | None])
    except zlib.error as exc:
        raise ValueError(f"the bodies are damaged: {exc}") from exc
    return msgspec.structs.replace(kept, body=body, answer=answer)


def encode_kept(kept: KeptDecision) -> bytes:
    """The decision for those who asked for it: without hashes."""
    return _encode(msgspec.structs.replace(kept, caller_hash=None, callee_hash=None))


# --- what shows decisions ---


def decode_decision(data: bytes) -> DecodedDecision:
    """A decision of the history, as ``HistoryPage`` has it. Raises ValueError where it is none."""
    kept = _decode_kept(data)
    details = decode_details(kept.details)
    hook = None
    if details.node_id is not None:
        fields = (details.node_id, kept.session_id, kept.call_id, kept.caller, kept.callee)
        hook = Hook(AppKey(), *(msgspec.Raw(field or b"") for field in fields))
    answer = kept.body if kept.answer is None else kept.answer
    ruling = Ruling(
        details.verdict,
        details.source,
        details.reason,
        details.status,
        answer,
        error=details.error,
        annotations=details.annotations,
    )
    decision = Decision(
        ruling=ruling,
        time=kept.time,
        request_id=kept.request_id,
        app=details.app,
        method=details.method,
        budget=details.budget,
        duration=details.duration,
        upstream=details.upstream,
        target=details.target,
        attempts=details.attempts,
        upstream_duration=details.upstream_duration,
        hook=hook,
        asked_after=details.asked_after,
        story=details.story,
        size=len(kept.body) + (0 if kept.answer is None else len(answer)),
        body=kept.body,
        method_name=details.method_name,
    )
    return DecodedDecision(kept.id, decision, details.worker, details.revision)


def decode_shadow(data: bytes) -> ShadowResult:
    """The result of a shadow copy, as ``HistoryPage`` has it. Raises ValueError where it is none."""
    return _decode_shadow(data).result


def is_ordinary_shadow(data: bytes) -> bool:
    """Whether the hook of this copy was an ordinary one. Raises ValueError where it is no result."""
    return _decode_shadow(data).ordinary
