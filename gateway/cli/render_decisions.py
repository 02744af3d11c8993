"""Decisions as text for a terminal, as JSON and as CSV."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final

from rich.text import Text

from gateway.cli import render, render_insights
from gateway.cli.render import Json, clock, milliseconds, plain

COLUMNS: Final = (
    "time", "request_id", "app", "method", "node_id", "session_id", "call_id", "caller", "callee", "verdict", "source",
    "reason", "status", "error", "upstream", "target", "budget_ms", "duration_ms", "upstream_ms", "rule", "repaired",
    "client_config", "ineffective", "failed_over_from", "failover_cause", "changed_fields", "ignored_fields",
    "excluded", "substituted",
)  # fmt: skip
"""Of the CSV: what both the admin port and the log know of a decision."""
_begins_formula = re.compile(r"[=@\t\r]|[+-](?![0-9 ()./-]*$)").match


class Form(Enum):
    """How decisions are printed."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"


def decision_printer(form: Form) -> Callable[[Json], None]:
    """What prints one decision after the other on standard output."""
    if form is Form.JSON:
        return lambda decision: print(json.dumps(decision))
    if form is Form.CSV:
        write = csv.writer(sys.stdout, lineterminator="\n").writerow
        write(COLUMNS)
        return lambda decision: write(csv_row(decision))
    console = render.console()
    return lambda decision: console.print(decision_line(decision), soft_wrap=True)


def csv_row(decision: Json) -> list[str]:
    """The cells of a decision. No text of a caller becomes a formula of a spreadsheet."""
    return [_cell(name, decision[name]) for name in COLUMNS]


def _cell(name: str, value: Any) -> str:
    if value is None or (name, value) == ("client_config", "ok"):  # the log does not have it where it is ok
        return ""
    if isinstance(value, bool):
        return "1" if value else ""
    if isinstance(value, (int, float)):
        return repr(value)
    text = plain(value)
    return f"'{text}" if _begins_formula(text) else text


def decision_line(decision: Json) -> Text:
    """A decision on one line."""
    where = plain(decision["target"] or decision["upstream"] or "")
    line = Text.assemble(
        (clock(decision["time"], fraction=True), "dim"), "  ",
        render.verdict(decision), " " * (8 - len(decision["verdict"])),
        f"{render.reason(decision):20} {plain(decision['app']):16} {plain(decision['method']):16} "
        f"{milliseconds(decision['duration_ms']):>8}  {where:21}",
    )  # fmt: skip
    for name, value in (("at", decision.get("replica")), ("call", decision["call_id"]), ("id", decision["request_id"])):
        if value:
            line.append(f"  {name}={plain(value)}")
    if notes := render_insights.annotation_text(decision):
        line.append("  ").append_text(notes)
    if decision["error"]:
        line.append(f"  {plain(decision['error'])}", style="red")
    return line


def details(decision: Json) -> Iterable[Text]:
    """A decision in full."""
    for name in ("request_id", "time", "app", "method", "node_id", "session_id", "call_id", "caller", "callee"):
        if decision[name] is not None:
            yield _fact(name.replace("_", " "), plain(decision[name]))
    budget = "" if decision["budget_ms"] is None else f" of a budget of {milliseconds(decision['budget_ms'])}"
    backends = milliseconds(decision["upstream_ms"])
    yield _fact("duration", f"{milliseconds(decision['duration_ms'])}{budget}, {backends} of it on backends")
    for number, attempt in enumerate(decision["attempts"], 1):
        yield _fact("attempts" if number == 1 else "", _attempt(number, attempt))
    source = f" ({plain(decision['source'])}, {plain(decision['reason'])})"
    yield Text.assemble((f"{'verdict':11} ", "dim"), render.verdict(decision), source)
    if decision["error"]:
        yield _fact("error", plain(decision["error"]))
    for name, words in render_insights.details(decision):
        yield _fact(name, words)
    yield _fact("answer", f"{decision['status']}: {plain(decision['means'])}")
    for name in ("config_revision", "hook_body", "answer_body", "replica"):
        if decision.get(name) is not None:
            yield _fact(name.replace("_", " ").replace(" revision", ""), plain(decision[name]))


def _attempt(number: int, attempt: Json) -> str:
    queued = f", {milliseconds(attempt['queued_ms'])} of it in the queue" if attempt["queued_ms"] else ""
    error = f": {plain(attempt['error'])}" if attempt["error"] else ""
    return (
        f"{number}. {plain(attempt['upstream'])} {plain(attempt['target'])} after {milliseconds(attempt['began_ms'])}, "
        f"took {milliseconds(attempt['duration_ms'])}{queued}: {plain(attempt['outcome'])}{error}"
    )


def _fact(name: str, text: str) -> Text:
    return Text.assemble((f"{name:11} ", "dim"), text)
