"""Logs: one JSON object a line on standard output, written by a thread of its own so that no hook waits for a pipe.

Access lines are made from Decisions; everything else goes through the standard library's logging. Bodies and secrets
never come here, and whatever a caller or backend sent is bounded and escaped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import msgspec

from gateway.model.change import Change, Swap
from gateway.model.decision import Decision, is_failure
from gateway.model.hooks import field_text
from gateway.model.text import mask_number, printable, shorten, timestamp
from gateway.model.verdicts import Annotations
from gateway.model.writer_thread import WriterThread

logger = logging.getLogger(__name__)

MAX_BUFFER: Final = 8 * 1024 * 1024
"""Bytes of lines waiting to be written; past it, lines are dropped and counted."""
PIPE_ATOMIC: Final = 4096
"""Bytes that a pipe takes in one piece (PIPE_BUF): processes that share one must not mix their lines."""
_PIECES: Final = 256
"""Pieces of lines that are written in one go."""
FLUSH_AFTER: Final = 0.05
"""Seconds for which access lines are gathered before they are handed to the writer."""
_AT_ONCE: Final = 32
"""Access lines made in one go: half the CPU time of one by one amid hooks, and no hook waits long for it."""
REPEATS: Final = 20
"""Times that the same message is logged within ``REPEATS_PER`` seconds; the rest are counted."""
REPEATS_PER: Final = 10.0
_MAX_KINDS: Final = 1000
_MAX_TRACE: Final = 8000
_NUMBER: Final = 64
"""Characters of a phone number in a line."""
_FIELD: Final = 256
"""Characters of a hook's field in an access line; a quarter of it where the line would not fit a pipe's one piece."""


class LogWriter:
    """Writes lines to a file descriptor from a thread; never makes a caller wait, never raises."""

    def __init__(self, fd: int, on_drop: Callable[[int], None] = lambda lines: None, *, chunk: int = 64 * 1024) -> None:
        """*on_drop* gets the number of lines that are lost; *chunk*: bytes written in one piece, whole lines only."""
        self._fd = fd
        self._chunk = chunk
        self.on_drop = on_drop
        self._torn = False  # the last line written was cut by an error
        self._putting = threading.RLock()
        self._thread = WriterThread("log-writer", self._write, batch=_PIECES, max_size=MAX_BUFFER, wake_at=1)
        self._thread.start()

    def write(self, lines: bytes) -> None:
        """Queue whole lines for writing; any thread may."""
        with self._putting:
            if not self._thread.put(lines, len(lines)):
                self.on_drop(lines.count(b"\n"))

    def close(self, timeout: float = 2.0) -> None:
        """Write what is queued, for at most *timeout* seconds, and end. A signal handler may call it."""
        self._thread.close(timeout)

    def _write(self, pieces: list[bytes]) -> None:
        """Write all of them in one go, or one by one where there is no memory for that."""
        try:
            data = b"".join(pieces)
        except MemoryError:
            for piece in pieces:
                self._write_or_drop(piece)
        else:
            self._write_or_drop(data)

    def _write_or_drop(self, data: bytes) -> None:
        written = 0
        with contextlib.suppress(Exception):
            written = self._write_all(data)
        if written < len(data):
            self.on_drop(data.count(b"\n", written))

    def _write_all(self, data: bytes) -> int:
        """Bytes written before an error (a full disk, a closed pipe): the rest of this batch is given up."""
        if self._torn:
            data = b"\n" + data
        view, done = memoryview(data), 0
        while done < len(data):
            try:
                done += os.write(self._fd, view[done : self._end_of_chunk(data, done)])
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break
        if done:
            self._torn = data[done - 1 : done] != b"\n"
        return done

    def _end_of_chunk(self, data: bytes, start: int) -> int:
        """Where a write that begins at *start* ends: after as many whole lines as the chunk holds, or one."""
        limit = start + self._chunk
        if limit >= len(data):
            return len(data)
        return data.rfind(b"\n", start, limit) + 1 or data.find(b"\n", limit) + 1 or len(data)


class _AccessLine(msgspec.Struct):
    ts: str
    request_id: str
    node_id: str | None
    app: str
    method: str
    session_id: str | None
    call_id: str | None
    caller: str | None
    callee: str | None
    verdict: str
    source: str
    reason: str
    error: str
    status: int
    upstream: str | None
    target: str | None
    attempts: int
    budget_ms: float | None
    duration_ms: float
    upstream_ms: float


class _AnnotatedLine(_AccessLine, omit_defaults=True):
    """The same with what few lines have."""

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


class AccessLog:
    """Turns Decisions into access lines, gathered and handed on in batches."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._encode = msgspec.json.Encoder().encode
        self._decisions: list[Decision] = []  # not yet lines
        self._lines: list[bytes] = []
        self._scheduled = False
        self._off = self._failures_only = self._console = False
        self._mask_caller = self._mask_callee = False

    def configure(self, *, access: str, console: bool, mask: Collection[str]) -> None:
        """Set what is written (``all``, ``failures``, ``off``), how, and which fields are masked."""
        self._make_lines()  # by the rules of when they were decided
        self._off = access == "off"
        self._failures_only = access == "failures"
        self._console = console
        self._mask_caller = "caller" in mask
        self._mask_callee = "callee" in mask

    def prepare(self, *, access: str, console: bool, mask: Collection[str]) -> Change:
        """What ``configure`` does, ready to be committed."""
        before = (self._off, self._failures_only, self._console, self._mask_caller, self._mask_callee)

        def revert() -> None:
            self._off, self._failures_only, self._console, self._mask_caller, self._mask_callee = before

        return Swap(lambda: self.configure(access=access, console=console, mask=mask), revert)

    def record(self, decision: Decision) -> None:
        """Write a hook's line, if it is asked for; an allowed hook that the backend allowed is no failure."""
        if self._off or (self._failures_only and not is_failure(decision)):
            return
        self._decisions.append(decision)
        if len(self._decisions) >= _AT_ONCE:
            self._make_lines()
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(FLUSH_AFTER, self.flush)

    def flush(self) -> None:
        """Hand the gathered lines to the writer."""
        self._scheduled = False
        self._make_lines()
        if self._lines:
            self._lines.append(b"")
            self._writer.write(b"\n".join(self._lines))
            self._lines.clear()

    def _make_lines(self) -> None:
        decisions, self._decisions = self._decisions, []
        for decision in decisions:
            try:
                line = self._written(decision, _FIELD)
                if len(line) >= PIPE_ATOMIC:
                    line = self._written(decision, _FIELD // 4)
            except Exception:
                logger.exception("an access line could not be made; its hook was answered all the same")
                self._writer.on_drop(1)
            else:
                self._lines.append(line)

    def _written(self, decision: Decision, longest: int) -> bytes:
        """The line, with no field of the hook's longer than *longest*."""
        line = self._line(decision, longest)
        if decision.ruling.annotations is not None:
            line = _annotate_line(line, decision.ruling.annotations, longest)
        return _console_line(line) if self._console else self._encode(line)

    def _line(self, decision: Decision, longest: int) -> _AccessLine:
        ruling, hook, budget = decision.ruling, decision.hook, decision.budget
        node_id = session_id = call_id = caller = callee = None
        if hook is not None:
            node_id = field_text(hook.node_id, longest)
            session_id = field_text(hook.session_id, longest)
            call_id = field_text(hook.call_id, longest)
            caller = field_text(hook.caller, _NUMBER)
            if caller is not None and self._mask_caller:
                caller = mask_number(caller)
            callee = field_text(hook.callee, _NUMBER)
            if callee is not None and self._mask_callee:
                callee = mask_number(callee)
        return _AccessLine(
            timestamp(decision.time),
            decision.request_id,
            node_id,
            decision.app,
            decision.method,
            session_id,
            call_id,
            caller,
            callee,
            ruling.verdict,
            ruling.source,
            ruling.reason,
            shorten(ruling.error, 2 * longest) if ruling.error else "",
            ruling.status,
            decision.upstream,
            decision.target,
            decision.attempts,
            None if budget is None else int(budget * 1e6 + 0.5) / 1000,
            int(decision.duration * 1e6 + 0.5) / 1000,
            int(decision.upstream_duration * 1e6 + 0.5) / 1000,
        )


def _annotate_line(line: _AccessLine, annotations: Annotations, longest: int) -> _AnnotatedLine:
    annotated = _AnnotatedLine(*msgspec.structs.astuple(line))
    if annotations.rule is not None:
        annotated.rule = shorten(annotations.rule, longest)
    annotated.repaired = annotations.repaired
    if annotations.client_config != "ok":
        annotated.client_config = annotations.client_config
    annotated.ineffective = annotations.ineffective
    if annotations.failed_over_from is not None:
        annotated.failed_over_from = shorten(annotations.failed_over_from, longest)
        annotated.failover_cause = annotations.failover_cause
    if annotations.changed_fields is not None:
        annotated.changed_fields = shorten(annotations.changed_fields, longest)
    if annotations.ignored_fields is not None:
        annotated.ignored_fields = shorten(annotations.ignored_fields, longest)
    if annotations.excluded:
        annotated.excluded = shorten(",".join(annotations.excluded), longest)
    annotated.substituted = annotations.substituted
    return annotated


def _console_line(line: _AccessLine) -> bytes:
    call = f" call={line.call_id}" if line.call_id else ""
    where = f" → {line.target or line.upstream}" if line.upstream else ""
    why = f": {line.error}" if line.error else ""
    more = _more(line) if isinstance(line, _AnnotatedLine) else ""
    text = (
        f"{line.ts} {line.verdict:6} {line.status} {line.app} {line.method}{where} "
        f"{line.source}/{line.reason} {line.duration_ms:.1f} ms{call}{more}{why}"
    )
    return printable(text).encode("utf-8", "replace")


def _more(line: _AnnotatedLine) -> str:
    named = {
        "rule": line.rule,
        "repaired": line.repaired,
        "client_config": line.client_config,
        "failed_over_from": line.failed_over_from,
        "failover_cause": line.failover_cause,
        "changed_fields": line.changed_fields,
        "ignored_fields": line.ignored_fields,
        "excluded": line.excluded,
        "substituted": line.substituted,
    }
    words = "".join(f" {name}={value}" for name, value in named.items() if value is not None)
    return words + (" ineffective" if line.ineffective else "")


class RateLimitFilter(logging.Filter):
    """Lets the same message through a few times per period, then says how often it was held back.

    Running out of file descriptors, for one, makes an event loop log thousands of lines a second.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, int, str], list[float]] = {}  # period's end, count

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged; adds the number of suppressed repeats to the first one of a new period."""
        key = (record.name, record.levelno, str(record.msg).partition("\n")[0][:200])
        now = self._clock()
        entry = self._seen.get(key)
        if entry is None or now >= entry[0]:
            held = 0 if entry is None else int(entry[1]) - REPEATS
            if len(self._seen) > _MAX_KINDS:
                self._seen.clear()
            self._seen[key] = [now + REPEATS_PER, 1]
            if held > 0:
                # Not yet with its arguments: where they do not fit, that is the handler's to bear.
                record.msg = f"{record.msg} (and {held} times more that were not logged)"
            return True
        entry[1] += 1
        return entry[1] <= REPEATS


class _Handler(logging.Handler):
    """The standard library's records as lines of the same stream."""

    def __init__(self, writer: LogWriter, *, console: bool) -> None:
        super().__init__()
        self._writer = writer
        self._console = console
        self._exceptions = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self._format(record) + b"\n")
        except Exception:  # a log line that cannot be made must not become a second failure
            self._writer.on_drop(1)

    def _format(self, record: logging.LogRecord) -> bytes:
        message = shorten(record.getMessage(), 2000).encode("utf-8", "backslashreplace").decode("utf-8")
        fields: dict[str, Any] = getattr(record, "fields", {})
        trace = self._exceptions.formatException(record.exc_info) if record.exc_info else None
        if self._console:
            extra = "".join(f" {name}={value}" for name, value in fields.items())
            text = f"{timestamp(record.created)} {record.levelname.lower():7} {message}{extra}"
            lines = [text, *shorten(trace or "", _MAX_TRACE).splitlines()]
            return "\n".join(map(printable, lines)).encode("utf-8", "replace")
        line = {
            "ts": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            **fields,
        }
        if trace:
            line["exception"] = shorten(trace, _MAX_TRACE)
        return msgspec.json.encode(line, enc_hook=str)


def configure_logging(writer: LogWriter, *, level: str, console: bool) -> None:
    """Send everything that is logged to the writer; uvicorn's own chatter stays at warnings."""
    prepare_logging(writer, level=level, console=console).commit()


def prepare_logging(writer: LogWriter, *, level: str, console: bool) -> Change:
    """The same, ready to be committed."""
    handler = _Handler(writer, console=console)
    handler.addFilter(RateLimitFilter())
    root = logging.getLogger()
    before, level_before = list(root.handlers), root.level
    return Swap(
        lambda: _log_to([handler], logging.getLevelNamesMapping()[level.upper()]),
        lambda: _log_to(before, level_before),
    )


def _log_to(handlers: Sequence[logging.Handler], level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "httpx"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(logging.WARNING, root.level))
