"""The journal: the last decisions of one process, failures kept longer than successes, bounded in number and bytes.

A hook pays for one reference that is put aside. What an operator sees of it (a Call) is made when somebody asks, from
the same fields and with the same masks as its log line; never a body, never a secret.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice, takewhile
from typing import Final

import msgspec

from gateway import meaning
from gateway.hooks import AppKey, Hook, MethodType, method_type, text_of
from gateway.log import bounded, is_failure, masked, timestamp
from gateway.verdicts import AttemptRecord, Decision, Reason, Source, Verdict

MAX_BYTES: Final = 8 * 1024 * 1024
"""Bytes that a journal keeps alive, its own share of each decision included."""
MAX_LIMIT: Final = 1000
"""Calls in one answer."""
_OWN: Final = 1024
"""Bytes that a decision takes besides the bodies, about."""
_LARGE: Final = 16 * 1024
"""Bytes of bodies from which on the few fields are copied and the rest let go."""
_FIELD: Final = 256
"""Characters of a hook's field."""
_NUMBER: Final = 64
"""Characters of a phone number."""
_IN_ONE_GO: Final = 32
"""Decisions looked at before hooks get their turn again."""
_WHOLE_NUMBER: Final = 6
"""Characters from which on a search word may be a whole phone number, which is then found though it is masked."""

Cursor = tuple[int, int]
"""Successes and failures recorded so far: where a follower stands."""


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One request to a backend, as it is shown."""

    target: str
    began_ms: float
    """Counted from the hook's head."""
    duration_ms: float
    queued_ms: float
    outcome: str
    error: str


class Call(msgspec.Struct, frozen=True, gc=False):
    """A decision, as it is shown: CONTRACT names its fields."""

    request_id: str
    time: str
    app: str
    method: str
    node_id: str | None
    session_id: str | None
    call_id: str | None
    caller: str | None
    callee: str | None
    verdict: str
    source: str
    reason: str
    status: int
    error: str
    upstream: str | None
    target: str | None
    budget_ms: float | None
    duration_ms: float
    upstream_ms: float
    attempts: tuple[Attempt, ...]
    worker: int
    means: str


class Wanted(msgspec.Struct, frozen=True):
    """Which calls are asked for; what is None does not matter. All that is set must hold."""

    app: str | None = None
    method: str | None = None
    verdict: str | None = None
    source: str | None = None
    reason: str | None = None
    call_id: str | None = None
    session_id: str | None = None
    request_id: str | None = None
    upstream: str | None = None
    target: str | None = None
    q: str | None = None
    """Stands in a text of the call, whatever its case; or is a phone number as a whole."""
    since: float | None = None
    """Unix time, the first one wanted."""
    until: float | None = None
    """Unix time, the first one not wanted any more."""
    failures: bool = False
    """Whether only what a log of failures would hold is wanted."""
    limit: int = 100


class Found(msgspec.Struct, frozen=True):
    """What a search brought."""

    calls: list[Call]
    """Newest first, as many as the limit allows."""
    matched: int
    """How many there were."""
    held: int
    """How many the journal holds."""
    oldest: str | None
    """When the oldest of these began."""


class News(msgspec.Struct, frozen=True):
    """What was recorded since a follower asked last."""

    cursor: Cursor
    """What to ask with next time."""
    calls: list[Call]
    """In the order in which they were recorded, failures before successes where not all have room."""
    skipped: int


class Teller:
    """Makes Calls of decisions; *mask* and *hook_types* are the configuration's, *worker* this process's id."""

    def __init__(
        self, worker: int, mask: Collection[str] = (), hook_types: Mapping[str, MethodType] | None = None
    ) -> None:
        self._worker = worker
        self._mask_caller = "caller" in mask
        self._mask_callee = "callee" in mask
        self._hook_types = hook_types

    def call(self, decision: Decision) -> Call:
        """What is shown of a decision."""
        ruling, hook = decision.ruling, decision.hook
        return Call(
            decision.request_id,
            timestamp(decision.time),
            decision.app,
            decision.method,
            text_of(hook.node_id, _FIELD) if hook else None,
            text_of(hook.session_id, _FIELD) if hook else None,
            text_of(hook.call_id, _FIELD) if hook else None,
            self._caller(hook) if hook else None,
            self._callee(hook) if hook else None,
            ruling.verdict,
            ruling.source,
            ruling.reason,
            ruling.status,
            bounded(ruling.error),
            decision.upstream,
            decision.target,
            None if decision.budget is None else _ms(decision.budget),
            _ms(decision.duration),
            _ms(decision.upstream_duration),
            tuple(_attempts(decision)),
            self._worker,
            meaning.of_answer(ruling.status, self._kind(decision.method)),
        )

    def matches(self, decision: Decision, wanted: Wanted) -> bool:
        """Whether the decision is wanted."""
        ruling = decision.ruling
        if (
            (wanted.since is not None and decision.time < wanted.since)
            or (wanted.until is not None and decision.time >= wanted.until)
            or (wanted.failures and not is_failure(decision))
        ):
            return False
        if (
            _differs(wanted.app, decision.app)
            or _differs(wanted.method, decision.method)
            or _differs(wanted.verdict, ruling.verdict)
            or _differs(wanted.source, ruling.source)
            or _differs(wanted.reason, ruling.reason)
            or _differs(wanted.request_id, decision.request_id)
            or _differs(wanted.upstream, decision.upstream)
            or _differs(wanted.target, decision.target)
        ):
            return False
        hook = decision.hook
        if wanted.call_id is not None and (hook is None or text_of(hook.call_id, _FIELD) != wanted.call_id):
            return False
        if wanted.session_id is not None and (hook is None or text_of(hook.session_id, _FIELD) != wanted.session_id):
            return False
        return wanted.q is None or self._mentions(decision, wanted.q)

    def _mentions(self, decision: Decision, word: str) -> bool:
        word = word.casefold()
        hook = decision.hook
        texts = [decision.request_id, bounded(decision.ruling.error)]
        if hook is not None:
            texts += [
                text_of(hook.call_id, _FIELD) or "",
                text_of(hook.session_id, _FIELD) or "",
                self._caller(hook) or "",
                self._callee(hook) or "",
            ]
        if any(word in text.casefold() for text in texts):
            return True
        # Only the whole number finds what is masked: by parts of it, one could find out the rest.
        if hook is None or len(word) < _WHOLE_NUMBER:
            return False
        return word in ((text_of(raw, _NUMBER) or "").casefold() for raw in (hook.caller, hook.callee))

    def _caller(self, hook: Hook) -> str | None:
        text = text_of(hook.caller, _NUMBER)
        return masked(text) if self._mask_caller and text is not None else text

    def _callee(self, hook: Hook) -> str | None:
        text = text_of(hook.callee, _NUMBER)
        return masked(text) if self._mask_callee and text is not None else text

    def _kind(self, method: str) -> MethodType | None:
        return None if method.startswith("_") else method_type(method, self._hook_types)


class _Ring:
    """The last decisions of one kind."""

    __slots__ = ("dropped", "held", "most")

    def __init__(self, most: int) -> None:
        self.held: deque[Decision] = deque()
        self.most = most
        self.dropped = 0

    @property
    def recorded(self) -> int:
        """How many there have been."""
        return self.dropped + len(self.held)

    def recorded_before(self, time: float) -> int:
        """How many there had been by this Unix time."""
        later = sum(1 for _ in takewhile(lambda decision: decision.time >= time, reversed(self.held)))
        return self.recorded - later

    def since(self, recorded: int) -> Iterator[Decision]:
        """Those held that came after so many, the newest first."""
        return islice(reversed(self.held), max(0, self.recorded - recorded))


class Journal:
    """The last *recent* successes and *failures* of a process, and never more than *max_bytes* of both."""

    def __init__(self, recent: int = 1000, failures: int = 1000, max_bytes: int = MAX_BYTES) -> None:
        self._successes = _Ring(recent)
        self._failures = _Ring(failures)
        self._max_bytes = max_bytes
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Journal {len(self._successes.held)} + {len(self._failures.held)} failures, {self._bytes} bytes>"

    def __len__(self) -> int:
        return len(self._successes.held) + len(self._failures.held)

    @property
    def bytes(self) -> int:
        """What it keeps alive, about."""
        return self._bytes

    def cursor_at(self, time: float) -> Cursor:
        """Where a follower stands who is told what began since this Unix time."""
        return self._successes.recorded_before(time), self._failures.recorded_before(time)

    def record(self, decision: Decision) -> None:
        """Put a decision aside."""
        ruling = decision.ruling
        size = decision.size
        if size > _LARGE:
            decision = _slim(decision)
            size = decision.size
        ring = self._failures if ruling.error or ruling.verdict is Verdict.ERROR else self._successes
        held = ring.held
        held.append(decision)
        if len(held) > ring.most:
            size -= held.popleft().size
            ring.dropped += 1
        else:
            size += _OWN
        self._bytes += size
        if self._bytes > self._max_bytes:
            self._make_room()

    def newest(self) -> list[Decision]:
        """All that is held, newest first."""
        return sorted([*self._successes.held, *self._failures.held], key=lambda decision: -decision.time)

    async def find(self, wanted: Wanted, teller: Teller) -> Found:
        """The calls that are wanted; hooks go on meanwhile."""
        held = self.newest()
        calls: list[Call] = []
        matched = 0
        for number, decision in enumerate(held, 1):
            if teller.matches(decision, wanted):
                matched += 1
                if matched <= wanted.limit:
                    calls.append(teller.call(decision))
            if not number % _IN_ONE_GO:
                await asyncio.sleep(0)
        return Found(calls, matched, len(held), timestamp(held[-1].time) if held else None)

    def news(self, cursor: Cursor, most: int, teller: Teller) -> News:
        """What was recorded since, *most* calls of it: the newest, failures before successes."""
        failures = list(islice(self._failures.since(cursor[1]), most))
        successes = list(islice(self._successes.since(cursor[0]), most - len(failures)))
        now = (self._successes.recorded, self._failures.recorded)
        new = max(0, now[0] - cursor[0]) + max(0, now[1] - cursor[1])
        told = sorted([*failures, *successes], key=lambda decision: decision.time + decision.duration)
        return News(now, [teller.call(decision) for decision in told], new - len(told))

    def _make_room(self) -> None:
        """Drop the oldest, successes first."""
        for ring in (self._successes, self._failures):
            while self._bytes > self._max_bytes and ring.held:
                self._bytes -= ring.held.popleft().size + _OWN
                ring.dropped += 1


def _slim(decision: Decision) -> Decision:
    """The same without the bodies: what is shown of the hook is copied, cut to what is shown of it."""
    hook = decision.hook
    size = 0
    if hook is not None:
        fields = [
            _short(raw, limit)
            for raw, limit in (
                (hook.node_id, _FIELD), (hook.session_id, _FIELD), (hook.call_id, _FIELD),
                (hook.caller, _NUMBER), (hook.callee, _NUMBER),
            )
        ]  # fmt: skip
        hook = Hook(AppKey(hook.app_key[:_FIELD]), *fields)
        size = sum(map(len, map(bytes, fields)))
    return msgspec.structs.replace(decision, ruling=decision.ruling.with_body(b""), hook=hook, size=size)


def _short(raw: msgspec.Raw, limit: int) -> msgspec.Raw:
    text = text_of(raw, limit)
    return msgspec.Raw() if text is None else msgspec.Raw(msgspec.json.encode(text))


def _differs(wanted: str | None, actual: str | None) -> bool:
    return wanted is not None and wanted != actual


def _ms(seconds: float) -> float:
    return int(seconds * 1e6 + 0.5) / 1000


def _attempts(decision: Decision) -> Iterable[Attempt]:
    story = decision.story
    if not story and decision.attempts and decision.target is not None and decision.ruling.source is Source.BACKEND:
        # The usual case is not recorded: one attempt, which brought the verdict.
        outcome = "ok" if decision.ruling.verdict is Verdict.ALLOW else "denied"
        story = (AttemptRecord(decision.target, 0.0, decision.upstream_duration, 0.0, outcome, ""),)
    return (
        Attempt(
            record.target,
            _ms(decision.asked_after + record.began),
            _ms(record.duration),
            _ms(record.queued),
            record.outcome,
            bounded(record.error),
        )
        for record in story
    )


# --- what is asked for, as a query writes it ---

_TEXTS: Final = (
    "app", "method", "verdict", "source", "reason", "call_id", "session_id", "request_id", "upstream", "target", "q",
)  # fmt: skip
_WORDS: Final = {"verdict": Verdict, "source": Source, "reason": Reason}
_MAX_TEXT: Final = 512
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_is_duration = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)").fullmatch
_is_number = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?").fullmatch
_MILLISECOND: Final = 0.001


def wanted(parameters: Iterable[tuple[str, str]], now: float) -> Wanted:
    """Read a query's parameters; *now* is Unix time, for times that are so long ago.

    Raises ValueError with a message for whoever wrote the query.
    """
    values: dict[str, str] = {}
    for name, value in parameters:
        if name not in (*_TEXTS, "since", "until", "failures", "limit"):
            known = ", ".join((*_TEXTS, "since", "until", "failures", "limit"))
            raise ValueError(f"there is no parameter {_quoted(name)}; there are {known}")
        if name in values:
            raise ValueError(f"{name} stands there twice")
        if len(value) > _MAX_TEXT:
            raise ValueError(f"{name} is longer than {_MAX_TEXT} characters")
        values[name] = value
    values = {name: value for name, value in values.items() if value}  # an empty field of a form asks for nothing
    texts = {name: values[name] for name in _TEXTS if name in values}
    for name, words in _WORDS.items():
        if name in texts and texts[name] not in set(words):
            raise ValueError(f"{name} must be one of {', '.join(words)}, not {_quoted(texts[name])}")
    since, until = (_time(name, values[name], now) if name in values else None for name in ("since", "until"))
    return Wanted(
        **texts,
        since=since,
        # Times are shown to the millisecond: the one that was copied from a call includes that call.
        until=None if until is None else until + _MILLISECOND,
        failures=_flag(values.get("failures", "0")),
        limit=_limit(values.get("limit", "100")),
    )


def _time(name: str, text: str, now: float) -> float:
    if ago := _is_duration(text):
        return now - float(ago[1]) * _UNITS[ago[2]]
    if _is_number(text):
        return float(text)
    try:
        # The + of an offset is a space where a query was not encoded.
        moment = datetime.fromisoformat(re.sub(r" (?=[0-9]{2}:?[0-9]{2}$)", "+", text) if "T" in text else text)
        seconds = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(
            f"{name} must be a time such as 2026-01-31T02:41:00Z, Unix seconds, or how long ago: 90s, 5m, 2h; "
            f"not {_quoted(text)}"
        )
    return seconds


def _flag(text: str) -> bool:
    if text not in ("0", "1", "false", "true"):
        raise ValueError(f"failures must be 1 or 0, not {_quoted(text)}")
    return text in ("1", "true")


def _limit(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) or not 1 <= int(text) <= MAX_LIMIT:
        raise ValueError(f"limit must be a whole number from 1 to {MAX_LIMIT}, not {_quoted(text)}")
    return int(text)


def _quoted(text: str) -> str:
    return repr(bounded(text, 80))
