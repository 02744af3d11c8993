"""Writes hooks down while hooks go on: the event loop puts a reference aside, a thread does everything else."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from gateway.model.change import CannotPrepare, Change
from gateway.model.decision import Decision
from gateway.model.verdicts import Reason, Source, Verdict
from gateway.model.writer_thread import WriterThread
from gateway.policy.sampling import Sample
from gateway.recording.files import RecordFiles
from gateway.recording.format import encode_record
from gateway.recording.masking import Mask
from gateway.recording.pseudonyms import Pseudonyms
from gateway.recording.settings import RecordSettings

logger = logging.getLogger(__name__)

MAX_QUEUE: Final = 4096
"""Hooks that wait to be written, at most; a further one is dropped."""
MAX_QUEUED: Final = 16 * 2**20
"""Bytes that they keep alive, at most, about."""
MAX_HOOK: Final = 256 * 1024
"""Bytes of a hook and its answer; larger ones are dropped: masking them would take too much CPU time from others."""
_OWN: Final = 1024
"""Bytes that a decision takes besides the bodies, about."""
_BATCH: Final = 128
"""Lines that are written in one go."""
_BATCH_BYTES: Final = 1024 * 1024
_EVERY: Final = 0.25
"""Seconds until hooks are written that are fewer than a batch."""
_AT_ONCE: Final = 4
"""Lines that are made before the event loop gets the interpreter, if it waits for it."""
_PAUSE: Final = 50e-6
_WARN_AGAIN: Final = 600.0
"""Seconds after which it is said again that nothing can be written."""
_MEANT: Final = frozenset((Source.BACKEND, Source.RULE, Source.STATIC))
"""Sources of decisions that are never failures here, even with an explanation."""

Count = Callable[[str, int], None]
"""Called with an outcome and a number of hooks: ``written``, ``dropped``, or ``deleted`` to make room; not by two
threads at once."""
Listener = Callable[[Decision], None]


def _count_nothing(outcome: str, hooks: int) -> None:
    """Where nobody counts."""


class Recorder:
    """Records hooks as long as it is configured to; ``record`` is a listener of decisions, for the event loop.

    *switch* is called with the listener of decisions from now on, or None while nothing is recorded, so that a
    hook pays nothing for it.
    """

    def __init__(self, count: Count = _count_nothing, switch: Callable[[Listener | None], None] | None = None) -> None:
        self._counting = threading.Lock()
        self._count_unlocked = count
        self._switch = switch
        self._settings: RecordSettings | None = None
        self._writer: _RecordWriter | None = None
        self._writers: list[_RecordWriter] = []
        """All whose threads have been started, and have not ended as far as is known."""
        self._sample = Sample(1.0)
        self._failures_only = False

    def __repr__(self) -> str:
        return "<Recorder off>" if self._settings is None else "<Recorder on>"

    def configure(self, settings: RecordSettings | None) -> None:
        """Go on as these say; None: record nothing. Never waits, never raises."""
        if settings == self._settings:
            return
        try:
            change = self._changed(settings)
        except Exception as exc:
            logger.error("hooks are not recorded: %s", exc)
            change = RecorderChange(self, self.in_force, (None, None))
        change.commit()
        change.finish()

    def prepare(self, settings: RecordSettings | None) -> Change:
        """Have it ready to go on as these say. Raises CannotPrepare where the system denies a thread, and others."""
        return Change() if settings == self._settings else self._changed(settings)

    def _changed(self, settings: RecordSettings | None) -> RecorderChange:
        if settings is None:
            return RecorderChange(self, self.in_force, (None, None))
        for outcome in ("written", "dropped", "deleted"):
            self._count(outcome, 0)  # what they are counted by is made here, before another thread adds to it
        writer = _RecordWriter(settings, self._count)
        writer.start()
        self._writers = [*(known for known in self._writers if known.thread.is_alive), writer]
        return RecorderChange(self, self.in_force, (settings, writer))

    @property
    def in_force(self) -> tuple[RecordSettings | None, _RecordWriter | None]:
        """The arguments of the last ``put``."""
        return self._settings, self._writer

    def put(self, settings: RecordSettings | None, writer: _RecordWriter | None) -> None:
        """Go on with the writer that was made for these settings; None and None: record nothing."""
        if settings is not None:
            self._failures_only = settings.failures_only
            self._sample = Sample(settings.sample)
        self._settings, self._writer = settings, writer
        if self._switch is not None:
            self._switch(None if settings is None else self.record)

    def end(self, writer: _RecordWriter) -> None:
        """Have a writer write what it has, and end; nobody waits for it."""
        writer.thread.end()

    def record(self, decision: Decision) -> None:
        """Put a hook aside to be written, if it is wanted. Never waits."""
        writer, ruling, hook = self._writer, decision.ruling, decision.hook
        if writer is None or hook is None:
            return
        # A refused request is no hook of an app: a stranger could fill the files with them.
        if ruling.verdict is Verdict.ERROR or ruling.reason is Reason.UNKNOWN_APP:
            return
        if self._failures_only and (not ruling.error or ruling.source in _MEANT):
            return
        if not self._sample.takes(hook, decision.request_id, decision.method_name):
            return
        if decision.size > MAX_HOOK or not writer.thread.put(decision, decision.size + _OWN):
            self._count("dropped", 1)

    def close(self, timeout: float = 2.0) -> None:
        """Write what is queued, for at most *timeout* seconds, and end. Blocks."""
        self.configure(None)
        until = time.monotonic() + timeout
        for writer in self._writers:
            writer.thread.end()
        for writer in self._writers:
            writer.thread.join(max(0.0, until - time.monotonic()))
            if left := writer.thread.give_up():
                self._count("dropped", left)
        self._writers.clear()

    def _count(self, outcome: str, hooks: int) -> None:
        with self._counting:
            self._count_unlocked(outcome, hooks)


class RecorderChange(Change):
    """A writer that has been started and has nothing to write yet, or none."""

    def __init__(
        self,
        recorder: Recorder,
        before: tuple[RecordSettings | None, _RecordWriter | None],
        after: tuple[RecordSettings | None, _RecordWriter | None],
    ) -> None:
        self._recorder = recorder
        self._before = before
        self._after = after

    def commit(self) -> None:
        """Hooks go to the new one."""
        self._recorder.put(*self._after)

    def revert(self) -> None:
        """They go to the old one again."""
        self._recorder.put(*self._before)

    def finish(self) -> None:
        """Have the old one write what it has; nobody waits for it."""
        if (writer := self._before[1]) is not None and writer is not self._after[1]:
            self._recorder.end(writer)

    async def settle(self) -> None:
        """The same."""
        self.finish()

    async def discard(self) -> None:
        """End the new one."""
        if (writer := self._after[1]) is not None and writer is not self._before[1]:
            self._recorder.end(writer)


class _RecordWriter:
    """Writes hooks down by one configuration, in a thread of its own."""

    def __init__(self, settings: RecordSettings, count: Count) -> None:
        self._settings = settings
        self._count = count
        self._warned: float | None = None
        self._mask = Mask(settings.mask, Pseudonyms(settings.key))
        self._files = RecordFiles(settings.path, settings.max_size, settings.files, settings.key.run)
        self.thread: WriterThread[Decision] = WriterThread(
            "recorder",
            self._write,
            batch=_BATCH,
            batch_size=_BATCH_BYTES,
            max_items=MAX_QUEUE,
            max_size=MAX_QUEUED,
            every=_EVERY,
            finish=self._files.close,
        )

    def start(self) -> None:
        """Raises CannotPrepare where the system denies a thread."""
        try:
            self.thread.start()
        except RuntimeError as exc:
            raise CannotPrepare(f"record: no thread is to be had: {exc}") from exc

    def _write(self, decisions: list[Decision]) -> None:
        try:
            self._append(decisions)
        except Exception:
            logger.exception("record: a defect of the gateway has cost some hooks their lines")

    def _append(self, decisions: list[Decision]) -> None:
        lines: list[bytes] = []
        hooks = len(decisions)
        for number, decision in enumerate(decisions, 1):
            if (line := self._line(decision)) is not None:
                lines.append(line)
            if number % _AT_ONCE == 0:
                time.sleep(_PAUSE)
        decisions.clear()  # their lines are all that is needed
        self.thread.release()
        done = self._files.append(lines)
        if done.written:
            self._count("written", done.written)
        if done.written < hooks:
            self._count("dropped", hooks - done.written)
        if done.deleted:
            self._count("deleted", done.deleted)
        self._note(done.error)

    def _line(self, decision: Decision) -> bytes | None:
        if not decision.body:
            return None  # too large to be kept
        try:
            return encode_record(decision, self._mask, self._settings.key.run, self._settings.mask)
        except Exception:
            logger.exception("a hook could not be recorded; it was answered all the same")
            return None

    def _note(self, error: OSError | None) -> None:
        """Log when writing begins to fail, from time to time while it does, and when it works again."""
        now = time.monotonic()
        if error is None:
            if self._warned is not None:
                logger.info("record: hooks are recorded again")
            self._warned = None
        elif self._warned is None or now - self._warned >= _WARN_AGAIN:
            # Without the path: it may be a reference to a secret.
            logger.warning("record: hooks are not recorded: %s", error.strerror or error)
            self._warned = now
