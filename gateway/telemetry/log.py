"""The log: one JSON object a line on standard output, written by a thread so that no hook waits for a pipe.

Here are the writer and the standard library's logging; the lines of hooks are in ``access_log``. No body and no secret
is ever logged; what a caller or backend sent is shortened and escaped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from gateway.model.change import Change, Swap
from gateway.model.text import printable, shorten, timestamp
from gateway.model.writer_thread import WriterThread

logger = logging.getLogger(__name__)

MAX_BUFFER: Final = 8 * 1024 * 1024
"""Bytes of lines waiting to be written; past it, lines are dropped and counted."""
PIPE_ATOMIC: Final = 4096
"""Bytes that a pipe takes in one piece (PIPE_BUF): processes that share one must not mix their lines."""
_PIECES: Final = 256
"""Pieces of lines that are written in one go."""
REPEATS: Final = 20
"""Times that the same message is logged within ``REPEATS_PER`` seconds; the rest are counted."""
REPEATS_PER: Final = 10.0
_MAX_KINDS: Final = 1000
_MAX_TRACE: Final = 8000


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


class RateLimitFilter(logging.Filter):
    """Lets the same message through REPEATS times per period, then reports how many were suppressed.

    For example, an event loop without file descriptors logs thousands of lines a second.
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
                # Without formatting it: if its arguments do not fit, the handler deals with that.
                record.msg = f"{record.msg} (and {held} times more that were not logged)"
            return True
        entry[1] += 1
        return entry[1] <= REPEATS


class _Handler(logging.Handler):
    """Writes the standard library's records as lines."""

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
    """Send everything that is logged to the writer; uvicorn's and httpx's own messages only from warnings on."""
    prepare_logging(writer, level=level, console=console).commit()


def prepare_logging(writer: LogWriter, *, level: str, console: bool) -> Change:
    """Prepare what ``configure_logging`` does, to be committed later."""
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
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "httpx", "alembic", "sqlalchemy"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(logging.WARNING, root.level))
