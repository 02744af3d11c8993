"""The decisions in the gateway's own log, for those without a history: found by the same filters, shown the same way.

The log is read line by line, however long it is; only the newest decisions that are wanted are held.
"""

from __future__ import annotations

import bz2
import gzip
import heapq
import io
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec

from gateway.model import effects
from gateway.model.decision import counts_as_failure
from gateway.model.hooks import method_type
from gateway.model.text import printable
from gateway.store.numbers import normalize_number
from gateway.telemetry.decision_view import DecisionFilter, DecisionView

MAX_LINE: Final = 1024 * 1024
"""Bytes of a line: the gateway's own are shorter by far."""
_OPENERS: Final[dict[bytes, Callable[[BinaryIO], Any]]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
"""By what compressed files begin with: rotated logs often are compressed."""
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_BEGINNING: Final = 8
_READ_ERRORS: Final = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


class LogUnreadable(Exception):
    """A log cannot be read; the message says which and why."""


class LoggedDecision(msgspec.Struct, frozen=True, gc=False):
    """A hook's line in the log; any other line has no verdict."""

    ts: str = ""
    verdict: str | None = None
    request_id: str = ""
    node_id: str | None = None
    app: str = ""
    method: str = ""
    session_id: str | None = None
    call_id: str | None = None
    caller: str | None = None
    callee: str | None = None
    source: str = ""
    reason: str = ""
    error: str = ""
    status: int = 0
    upstream: str | None = None
    target: str | None = None
    attempts: int = 0
    budget_ms: float | None = None
    duration_ms: float = 0.0
    upstream_ms: float = 0.0
    rule: str | None = None
    repaired: str | None = None
    client_config: str | None = None
    ineffective: bool = False
    failed_over_from: str | None = None
    failover_cause: str | None = None
    changed_fields: str | None = None
    ignored_fields: str | None = None
    excluded: str | None = None
    substituted: str | None = None


class LogSearch(NamedTuple):
    """What was found in the logs."""

    decisions: list[LoggedDecision]
    """Newest first."""
    matched: int
    """How many are like what was asked for; the newest of them are shown."""
    read: int
    """How many decisions the logs have."""
    oldest: str | None
    """When the oldest one began."""
    newest: str | None
    bad: int
    """Lines that are no JSON objects, or are damaged."""
    cut: list[str]
    """Files that end in the midst of what is compressed."""
    hides_numbers: bool
    """Whether numbers in it are masked, so that whole ones are not found."""


_decode = msgspec.json.Decoder(LoggedDecision).decode


def search_logs(names: Sequence[str], wanted: DecisionFilter, limit: int) -> LogSearch:
    """The newest *limit* decisions in these files that are wanted; ``-`` is standard input. Raises LogUnreadable.

    Decisions are looked up by what their lines have: without results of shadow copies, and by whole numbers only where
    the log has whole numbers.
    """
    newest: list[tuple[float, str, int, LoggedDecision]] = []
    cut: list[str] = []
    matched = read = bad = 0
    first, last = float("inf"), float("-inf")
    hides_numbers = False
    for name in names:
        for line in _lines(name, cut):
            try:
                logged = _decode(line)
                if logged.verdict is None:
                    continue
                began = datetime.fromisoformat(logged.ts).timestamp()
            except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
                bad += 1
                continue
            read += 1
            first, last = min(first, began), max(last, began)
            hides_numbers = hides_numbers or _is_masked(logged.caller) or _is_masked(logged.callee)
            if not matches(logged, began, wanted):
                continue
            matched += 1
            entry = (began, logged.request_id, read, logged)
            if len(newest) < limit:
                heapq.heappush(newest, entry)
            else:
                heapq.heappushpop(newest, entry)
    newest.sort(reverse=True)
    return LogSearch(
        [entry[3] for entry in newest],
        matched,
        read,
        oldest=_time(first) if read else None,
        newest=_time(last) if read else None,
        bad=bad,
        cut=cut,
        hides_numbers=hides_numbers,
    )


def matches(logged: LoggedDecision, began: float, wanted: DecisionFilter) -> bool:
    """Whether a decision is wanted, as ``DecisionFormatter.matches`` says it of the decision itself."""
    for name in ("app", "method", "verdict", "source", "reason", "call_id", "session_id", "request_id", "upstream"):
        value = getattr(wanted, name)
        if value is not None and value != getattr(logged, name):
            return False
    return (
        (wanted.target is None or wanted.target == logged.target)
        and (wanted.rule is None or wanted.rule == logged.rule)
        and (wanted.since is None or began >= wanted.since)
        and (wanted.until is None or began < wanted.until)
        and (not wanted.failures or is_failure(logged))
        and (not wanted.ineffective or logged.ineffective or logged.ignored_fields is not None)
        and (not wanted.repaired or logged.repaired is not None)
        and (wanted.caller is None or _is_number(logged.caller, wanted.caller))
        and (wanted.callee is None or _is_number(logged.callee, wanted.callee))
        and (wanted.q is None or _mentions(logged, wanted.q.casefold()))
    )


def is_failure(logged: LoggedDecision) -> bool:
    """Whether an operator would look for it among the failures."""
    return counts_as_failure(logged.verdict or "", logged.error, logged.ineffective, logged.repaired)


def decision_view(logged: LoggedDecision) -> DecisionView:
    """The decision as the admin API shows it, as far as the log has it: without attempts and shadow."""
    kind = None if logged.method.startswith("_") else method_type(logged.method)
    means = effects.answer_effect(logged.status, kind, False if logged.ineffective else None, logged.method)
    return DecisionView(
        request_id=logged.request_id,
        time=logged.ts,
        app=logged.app,
        method=logged.method,
        node_id=logged.node_id,
        session_id=logged.session_id,
        call_id=logged.call_id,
        caller=logged.caller,
        callee=logged.callee,
        verdict=logged.verdict or "",
        source=logged.source,
        reason=logged.reason,
        status=logged.status,
        error=logged.error,
        upstream=logged.upstream,
        target=logged.target,
        budget_ms=logged.budget_ms,
        duration_ms=logged.duration_ms,
        upstream_ms=logged.upstream_ms,
        attempts=(),
        worker=0,
        means=means + effects.changes_effect(logged.changed_fields, logged.ignored_fields),
        rule=logged.rule,
        repaired=logged.repaired,
        ineffective=logged.ineffective,
        client_config=logged.client_config,
        failed_over_from=logged.failed_over_from,
        failover_cause=logged.failover_cause,
        changed_fields=logged.changed_fields,
        ignored_fields=logged.ignored_fields,
        excluded=logged.excluded,
        substituted=logged.substituted,
    )


def _lines(name: str, cut: list[str]) -> Iterator[bytes]:
    """The lines of a file, as long as MAX_LINE at most; a longer one comes in pieces, which are no JSON."""
    shown = printable(name)
    try:
        with _open(name) as file:
            while line := file.readline(MAX_LINE):
                if not line.isspace():
                    yield line
    except EOFError:
        cut.append(shown)
    except _READ_ERRORS as exc:
        raise LogUnreadable(f"{shown}: {_reason(exc)}") from exc


@contextmanager
def _open(name: str) -> Iterator[BinaryIO]:
    """A file, or standard input, unpacked if it is compressed."""
    with ExitStack() as stack:
        if name == "-":
            if sys.stdin is None:
                raise LogUnreadable("standard input is closed")
            file: Any = io.BufferedReader(sys.stdin.buffer)
            stack.callback(file.detach)
        elif os.path.isdir(name):
            raise LogUnreadable(f"{printable(name)}: is a directory")
        else:
            file = stack.enter_context(open(name, "rb"))
        beginning = file.peek(_BEGINNING)[:_BEGINNING]
        if beginning.startswith(_ZSTD):
            raise LogUnreadable(f"{printable(name)}: is compressed with zstd; unpack it: zstdcat FILE | … --from-log -")
        opener = next((opener for magic, opener in _OPENERS.items() if beginning.startswith(magic)), None)
        yield file if opener is None else opener(file)


def _reason(exc: Exception) -> str:
    return (getattr(exc, "strerror", None) or str(exc) or "cannot be read").lower()


def _is_masked(number: str | None) -> bool:
    return number is not None and "*" in number


def _is_number(number: str | None, wanted: str) -> bool:
    return number is not None and normalize_number(number) == normalize_number(wanted)


def _mentions(logged: LoggedDecision, word: str) -> bool:
    texts = (logged.request_id, logged.error, logged.call_id, logged.session_id, logged.caller, logged.callee)
    return any(text is not None and word in text.casefold() for text in texts)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat()
