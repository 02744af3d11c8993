"""``gateway decisions``: what became of the latest hooks of a running gateway."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Final

import typer
from rich.text import Text

from gateway.cli import render, render_insights
from gateway.cli.client import (
    AdminError,
    AdminOption,
    Gateway,
    JsonOption,
    NoAnswer,
    TokenOption,
    WatchedConfig,
    gateway_at,
)
from gateway.cli.render import Json, clock, milliseconds, plain

_FAILURES_HELP: Final = "Only failures (fallbacks, bad requests, ineffective or repaired answers)."
_LOOK_EVERY: Final = 0.5
"""Seconds between two requests for new decisions."""
_AT_ONCE: Final = 1000
"""Decisions per request; if more come in between, some are not shown."""
_REMEMBERED: Final = 20_000
"""Decisions known to be shown already; more than the journals of all workers hold in one answer."""


@dataclass(frozen=True)
class _Filters:
    """The query parameters of ``GET /api/decisions``; None and False filter nothing."""

    app: str | None
    method: str | None
    verdict: str | None
    source: str | None
    reason: str | None
    call_id: str | None
    session_id: str | None
    upstream: str | None
    target: str | None
    q: str | None
    since: str | None
    until: str | None
    rule: str | None
    shadow: str | None
    failures: bool
    ineffective: bool
    repaired: bool

    def parameters(self) -> dict[str, str | int | None]:
        """The parameters as a query has them: a flag is 1."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: (1 if value else None) if isinstance(value, bool) else value for name, value in values.items()}


def decisions(
    request_id: Annotated[
        str | None,
        typer.Argument(metavar="REQUEST_ID", help="Show this one decision in full.", show_default=False),
    ] = None,
    app: Annotated[str | None, typer.Option(help="Only this app.")] = None,
    method: Annotated[str | None, typer.Option("--method", "-m", help="Only this REST method.")] = None,
    verdict: Annotated[str | None, typer.Option(help="Only this verdict: allow, reject or error.")] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Only this source: backend, fallback, duplicate, static, rule, spool or gateway."),
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="Only this reason: ok, denied, timeout, unreachable, bad_answer, …")
    ] = None,
    call_id: Annotated[str | None, typer.Option(help="Only this SIP call.")] = None,
    session_id: Annotated[str | None, typer.Option(help="Only this session.")] = None,
    upstream: Annotated[str | None, typer.Option(help="Only decisions of this upstream.")] = None,
    target: Annotated[str | None, typer.Option(help="Only decisions of this target.")] = None,
    search: Annotated[
        str | None, typer.Option("--search", "-q", metavar="TEXT", help="Search ids, phone numbers and errors.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Start: how long ago (90s, 5m, 2h) or a time.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="End, in the same form.")] = None,
    failures: Annotated[
        bool,
        typer.Option("--failures", help=_FAILURES_HELP),
    ] = False,
    rule: Annotated[str | None, typer.Option(help="Only hooks that matched this rule.")] = None,
    shadow: Annotated[
        str | None,
        typer.Option(
            help="Only this shadow result: differs, match, verdict_differs, body_differs or candidate_failed."
        ),
    ] = None,
    ineffective: Annotated[
        bool, typer.Option("--ineffective", help="Only rejections and changed answers that the media server ignores.")
    ] = False,
    repaired: Annotated[bool, typer.Option("--repaired", help="Only repaired answers.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="Maximum number of entries.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing new decisions, until Ctrl-C.")] = False,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    config: WatchedConfig = None,
    as_json: JsonOption = False,
) -> None:
    """List a running gateway's latest decisions. The newest comes last."""
    filters = _Filters(
        app=app, method=method, verdict=verdict, source=source, reason=reason, call_id=call_id, session_id=session_id,
        upstream=upstream, target=target, q=search, since=since, until=until, rule=rule, shadow=shadow,
        failures=failures, ineffective=ineffective, repaired=repaired,
    )  # fmt: skip
    with gateway_at(admin, token_file, config) as gateway:
        if request_id is not None:
            _show_one(gateway, request_id, as_json=as_json)
            return
        printer = _Printer(as_json=as_json)
        printer.show(gateway.get_or_fail("/api/decisions", limit=limit, **filters.parameters()))
        if follow:
            try:
                _follow(gateway, filters, printer)
            except KeyboardInterrupt:
                sys.exit(130)


class _Printer:
    """Prints each decision once, one per line."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = render.console()
        self._order: deque[str] = deque()
        self._shown: set[str] = set()
        self._missing: list[int] = []
        """Workers whose decisions were missing in the last answer."""

    def show(self, found: Json) -> int:
        """Print the new decisions, the newest last; returns how many there were."""
        new = [decision for decision in reversed(found["decisions"]) if decision["request_id"] not in self._shown]
        for decision in new:
            self._remember(decision["request_id"])
            if self._as_json:
                print(json.dumps(decision))
            else:
                self._console.print(decision_line(decision), soft_wrap=True)
        sys.stdout.flush()
        for pid in found["incomplete"]:
            if pid not in self._missing:
                print_note(f"worker {pid} did not answer in time: its decisions are missing here")
        self._missing = found["incomplete"]
        return len(new)

    def _remember(self, request_id: str) -> None:
        self._shown.add(request_id)
        self._order.append(request_id)
        if len(self._order) > _REMEMBERED:
            self._shown.discard(self._order.popleft())


def decision_line(decision: Json) -> Text:
    """A decision on one line."""
    where = plain(decision["target"] or decision["upstream"] or "")
    line = Text.assemble(
        (clock(decision["time"], fraction=True), "dim"), "  ",
        render.verdict(decision), " " * (8 - len(decision["verdict"])),
        f"{render.reason(decision):20} {plain(decision['app']):16} {plain(decision['method']):16} "
        f"{milliseconds(decision['duration_ms']):>8}  {where:21}",
    )  # fmt: skip
    for name, value in (("call", decision["call_id"]), ("id", decision["request_id"])):
        if value:
            line.append(f"  {name}={plain(value)}")
    if notes := render_insights.annotation_text(decision):
        line.append("  ").append_text(notes)
    if decision["error"]:
        line.append(f"  {plain(decision['error'])}", style="red")
    return line


def _follow(gateway: Gateway, filters: _Filters, printer: _Printer) -> None:
    connected = True
    while True:
        time.sleep(_LOOK_EVERY)
        try:
            found = gateway.get("/api/decisions", limit=_AT_ONCE, **filters.parameters())
        except NoAnswer as exc:
            if connected:
                print_note(f"no connection to {gateway.url} ({exc}), retrying")
            connected = False
            continue
        except AdminError as exc:
            gateway.fail_for(exc)
            return
        if not connected:
            print_note("connected again")
        connected = True
        if printer.show(found) >= _AT_ONCE:
            print_note("too many decisions to show all of them: some are missing; use filters")


def _show_one(gateway: Gateway, request_id: str, *, as_json: bool) -> None:
    found = gateway.get_or_fail("/api/decisions", request_id=request_id, limit=1)
    if not found["decisions"]:
        kept = "it keeps the last ~2,000 hooks per worker"
        gateway.fail_for(AdminError(404, f"request {plain(request_id)} is not in the journal ({kept}); search the log"))
        return
    decision = found["decisions"][0]
    if as_json:
        print(json.dumps(decision, indent=2))
        return
    console = render.console()
    for part in _details(decision):
        console.print(part, soft_wrap=True)


def _details(decision: Json) -> Iterable[Text]:
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


def _attempt(number: int, attempt: Json) -> str:
    queued = f", {milliseconds(attempt['queued_ms'])} of it in the queue" if attempt["queued_ms"] else ""
    error = f": {plain(attempt['error'])}" if attempt["error"] else ""
    return (
        f"{number}. {plain(attempt['upstream'])} {plain(attempt['target'])} after {milliseconds(attempt['began_ms'])}, "
        f"took {milliseconds(attempt['duration_ms'])}{queued}: {plain(attempt['outcome'])}{error}"
    )


def _fact(name: str, text: str) -> Text:
    return Text.assemble((f"{name:11} ", "dim"), text)


def print_note(message: str) -> None:
    """Print a message that is not part of the output, on standard error."""
    print(f"gateway: {message}", file=sys.stderr)
