"""One line of a recording: a hook and its decision."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec

from gateway.model.decision import Decision
from gateway.model.hooks import is_json_object
from gateway.model.verdicts import Annotations, Verdict
from gateway.recording.masking import Mask

VERSION: Final = 1
"""Of the format: raised when what a field means has changed, not when one is added."""
_MAX_ERROR: Final = 512


class RecordError(ValueError):
    """A line that is not part of a recording; the message says why."""


class RecordedAnnotations(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A decision's annotations, without the text that was cut away."""

    rule: str | None = None
    repaired: str | None = None
    client_config: str | None = None
    ineffective: bool = False
    failed_over_from: str | None = None
    failover_cause: str | None = None
    changed_fields: str | None = None
    ignored_fields: str | None = None
    excluded: tuple[str, ...] = ()


class Record(msgspec.Struct, frozen=True, gc=False):
    """A line; its fields stand there in this order."""

    v: int
    run: str
    """Pseudonyms are comparable among lines of the same run."""
    time: str
    """When the hook began, RFC 3339 in UTC."""
    request_id: str
    app: str
    app_key: str = msgspec.field(name="appKey")
    method: str
    """The method as the media server named it."""
    hook: msgspec.Raw
    """The hook's JSON as it came, but masked and on one line."""
    verdict: Verdict
    source: str
    reason: str
    error: str
    status: int
    answer: msgspec.Raw
    """``"same"`` where it was the hook's own bytes, an object (masked) where it was another; null where there was no
    body, ``"unreadable"`` where it was no JSON object, for that cannot be masked."""
    upstream: str | None
    target: str | None
    duration_ms: float
    upstream_ms: float
    masked: tuple[str, ...] = ()
    """The names of the fields that stand there as pseudonyms."""
    annotations: RecordedAnnotations | None = msgspec.field(name="remarks", default=None)

    @property
    def began(self) -> float:
        """Unix time."""
        return datetime.fromisoformat(self.time).timestamp()

    @property
    def answer_body(self) -> bytes | None:
        """The body that was answered, masked; None where the recording does not have it."""
        answer = bytes(self.answer)
        if answer == b'"same"':
            return bytes(self.hook)
        if answer == b"null":
            return b""
        return answer if answer.startswith(b"{") else None


class _Head(msgspec.Struct, gc=False):
    v: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode
_decode_head = msgspec.json.Decoder(_Head).decode
_NOTHING: Final = msgspec.Raw(b"null")
_SAME: Final = msgspec.Raw(b'"same"')
_UNREADABLE: Final = msgspec.Raw(b'"unreadable"')


def encode_record(decision: Decision, mask: Mask, run: str, masked: tuple[str, ...]) -> bytes:
    """A hook's line, its line break included. The hook must have been read, and its body been kept."""
    hook, ruling = decision.hook, decision.ruling
    if hook is None:
        raise ValueError("there is no hook to write down")
    known: set[str] = set()
    body = mask.apply(decision.body, known)
    line = Record(
        v=VERSION,
        run=run,
        time=datetime.fromtimestamp(decision.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        request_id=decision.request_id,
        app=decision.app,
        app_key=str(hook.app_key),
        method=decision.method_name or decision.method,
        hook=msgspec.Raw(body),
        verdict=ruling.verdict,
        source=ruling.source,
        reason=ruling.reason,
        error=ruling.error[:_MAX_ERROR],
        status=ruling.status,
        answer=_encode_answer(ruling.body, decision.body, mask, known),
        upstream=decision.upstream,
        target=decision.target,
        duration_ms=int(decision.duration * 1e6 + 0.5) / 1000,
        upstream_ms=int(decision.upstream_duration * 1e6 + 0.5) / 1000,
        masked=masked,
        annotations=_recorded_annotations(ruling.annotations),
    )
    return _encode(line) + b"\n"


def _encode_answer(answer: bytes, hook: bytes, mask: Mask, known: set[str]) -> msgspec.Raw:
    if not answer:
        return _NOTHING
    if answer == hook:
        return _SAME
    return msgspec.Raw(mask.apply(answer, known)) if is_json_object(answer) else _UNREADABLE


def _recorded_annotations(annotations: Annotations | None) -> RecordedAnnotations | None:
    if annotations is None:
        return None
    return RecordedAnnotations(**{name: getattr(annotations, name) for name in RecordedAnnotations.__struct_fields__})


def decode_record(line: bytes) -> Record:
    """Read a line. Raises RecordError, whose message helps to fix the file."""
    try:
        version = _decode_head(line).v
        if version != VERSION:
            raise RecordError(f"it is of version {version} of the format, and this gateway reads version {VERSION}")
        record = _decode(line)
        began = datetime.fromisoformat(record.time)
    except RecordError:
        raise
    except (ValueError, RecursionError) as exc:  # msgspec's errors are ValueErrors too
        raise RecordError(_explain(line, exc)) from exc
    if began.tzinfo is None:
        raise RecordError("its time has no offset")
    if not bytes(record.hook).startswith(b"{"):
        raise RecordError("its hook is no JSON object")
    answer = bytes(record.answer)
    if not answer.startswith(b"{") and answer not in (b"null", b'"same"', b'"unreadable"'):
        raise RecordError("its answer is neither an object nor one of the words that stand for one")
    return record


def _explain(line: bytes, exc: Exception) -> str:
    if not line.strip():
        return "it is empty"
    if isinstance(exc, RecursionError):
        return "it is nested too deeply"
    return str(exc)[:200]
