"""The access log: one line per hook, made from its Decision and handed to the log's writer in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Final

import msgspec

from gateway.model.change import Change, Swap
from gateway.model.decision import Decision, is_failure
from gateway.model.hooks import field_text
from gateway.model.text import mask_number, printable, shorten, timestamp
from gateway.model.verdicts import Annotations
from gateway.telemetry.log import PIPE_ATOMIC, LogWriter

logger = logging.getLogger(__name__)

FLUSH_AFTER: Final = 0.05
"""Seconds for which access lines are gathered before they are handed to the writer."""
_BATCH: Final = 32
"""Access lines made at once: half the CPU time of making each amid hooks, and no hook waits long for it."""
_NUMBER: Final = 64
"""Characters of a phone number in a line."""
_FIELD: Final = 256
"""Characters of a hook's field in a line; a fifth of them where the line would not fit in PIPE_ATOMIC."""


class _AccessLine(msgspec.Struct):
    """The fields of a line, in their order; times in milliseconds."""

    ts: str
    request_id: str
    client: str | None
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
    """A line with what few hooks have."""

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
    """Makes access lines of Decisions and hands them to the *writer* in batches. For one event loop."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._encode = msgspec.json.Encoder().encode
        self._decisions: list[Decision] = []  # not yet lines
        self._lines: list[bytes] = []
        self._scheduled = False
        self._off = self._failures_only = self._console = False
        self._mask_caller = self._mask_callee = False

    def configure(self, *, access: str, console: bool, mask: Collection[str]) -> None:
        """Set which hooks are logged (``all``, ``failures``, ``off``), in which format, and which fields are masked."""
        self._make_lines()  # by the settings under which they were decided
        self._off = access == "off"
        self._failures_only = access == "failures"
        self._console = console
        self._mask_caller = "caller" in mask
        self._mask_callee = "callee" in mask

    def prepare(self, *, access: str, console: bool, mask: Collection[str]) -> Change:
        """Prepare what ``configure`` does, to be committed later."""
        before = (self._off, self._failures_only, self._console, self._mask_caller, self._mask_callee)

        def revert() -> None:
            self._off, self._failures_only, self._console, self._mask_caller, self._mask_callee = before

        return Swap(lambda: self.configure(access=access, console=console, mask=mask), revert)

    def record(self, decision: Decision) -> None:
        """Log a hook, if hooks of its kind are logged."""
        if self._off or (self._failures_only and not is_failure(decision)):
            return
        self._decisions.append(decision)
        if len(self._decisions) >= _BATCH:
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
                line = self._format(decision, _FIELD)
                if len(line) >= PIPE_ATOMIC:
                    line = self._format(decision, _FIELD // 5)
            except Exception:
                logger.exception("an access line could not be made; its hook was answered all the same")
                self._writer.on_drop(1)
            else:
                self._lines.append(line)

    def _format(self, decision: Decision, longest: int) -> bytes:
        """The line as bytes, with no field of the hook longer than *longest* characters."""
        line = self._make_line(decision, longest)
        if decision.ruling.annotations is not None:
            line = _annotate_line(line, decision.ruling.annotations, longest)
        return _console_line(line) if self._console else self._encode(line)

    def _make_line(self, decision: Decision, longest: int) -> _AccessLine:
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
        # In the order of the line's fields: naming them would cost more than 3 % of a hook.
        return _AccessLine(
            timestamp(decision.time),
            decision.request_id,
            None if decision.client is None else decision.client[0],
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
    who = f" from={line.client}" if line.error and line.client else ""
    more = _details(line) if isinstance(line, _AnnotatedLine) else ""
    text = (
        f"{line.ts} {line.verdict:6} {line.status} {line.app} {line.method}{where} "
        f"{line.source}/{line.reason} {line.duration_ms:.1f} ms{call}{more}{who}{why}"
    )
    return printable(text).encode("utf-8", "replace")


def _details(line: _AnnotatedLine) -> str:
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
