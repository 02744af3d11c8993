"""``gateway decisions``: what became of hooks: from a running gateway's journal and history, or from its log."""

from __future__ import annotations

import glob
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
import typer

from gateway.admin.decision_filter import parse_filter
from gateway.cli import render
from gateway.cli.client import (
    AdminError,
    AdminOption,
    FleetOption,
    Gateway,
    JsonOption,
    NoAnswer,
    Parameter,
    TokenOption,
    WatchedConfig,
    fleet_parameter,
    gateway_at,
)
from gateway.cli.common import BAD_USAGE, fail
from gateway.cli.decision_log import LogSearch, LogUnreadable, decision_view, search_logs
from gateway.cli.render import Json, clock, plain
from gateway.cli.render_decisions import Form, decision_printer, details
from gateway.model.text import plural

_FAILURES_HELP: Final = "Only failures (fallbacks, bad requests, ineffective or repaired answers)."
_LOOK_EVERY: Final = 0.5
"""Seconds between two requests for new decisions."""
_AT_ONCE: Final = 1000
"""Decisions per request; if more come in between, some are not shown."""
_LONGEST_HOOK: Final = 30.0
"""Seconds after which a hook has ended: the media server waits for 15."""
_MAX_LIMIT: Final = 100_000
"""Decisions that one command prints: they are held until the oldest is known, which is printed first."""
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
    caller: str | None
    callee: str | None
    failures: bool
    ineffective: bool
    repaired: bool
    fleet: bool = False
    """Not a filter: whether all gateways are asked."""

    def parameters(self) -> dict[str, Parameter]:
        """The parameters as a query has them: a flag is 1."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: (1 if value else None) if isinstance(value, bool) else value for name, value in values.items()}

    @property
    def ask_for_number(self) -> bool:
        """Whether a whole number is looked for."""
        return self.caller is not None or self.callee is not None


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
    caller: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Only this caller: the whole number, however it is written.")
    ] = None,
    callee: Annotated[str | None, typer.Option(metavar="NUMBER", help="Only this callee, in the same way.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Start: how long ago (90s, 5m, 2h, 2d) or a time.")
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
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=_MAX_LIMIT, help="Maximum number of entries, the newest.")
    ] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing new decisions, until Ctrl-C.")] = False,
    from_log: Annotated[
        list[str] | None,
        typer.Option(
            "--from-log",
            metavar="FILE|-",
            help="Search the gateway's JSON log instead: files, also compressed ones; globs; - is standard input.",
        ),
    ] = None,
    fleet: FleetOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with a line of headings.")] = False,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    config: WatchedConfig = None,
    as_json: JsonOption = False,
) -> None:
    """List decisions, the newest last: of a running gateway's journal and history, or of its log."""
    filters = _Filters(
        app=app, method=method, verdict=verdict, source=source, reason=reason, call_id=call_id, session_id=session_id,
        upstream=upstream, target=target, q=search, since=since, until=until, rule=rule, shadow=shadow,
        caller=caller, callee=callee, failures=failures, ineffective=ineffective, repaired=repaired,
        fleet=fleet,
    )  # fmt: skip
    if as_json and as_csv:
        fail("use either --json or --csv, not both", BAD_USAGE)
    form = Form.JSON if as_json else Form.CSV if as_csv else Form.TEXT
    if from_log:
        if follow:
            fail("--follow cannot be combined with --from-log: tail -f the log instead", BAD_USAGE)
        if fleet:
            fail("--fleet cannot be combined with --from-log: name the logs of all gateways", BAD_USAGE)
        _search_log(from_log, filters, request_id, limit, form)
        return
    with gateway_at(admin, token_file, config) as gateway:
        if request_id is not None:
            _show_one(gateway, request_id, fleet=fleet, as_json=as_json)
            return
        printer = _Printer(form)
        # What is not new when following begins is known, whether it is shown or not.
        found = _find(gateway, filters, max(limit, _AT_ONCE) if follow else limit)
        printer.show(found, limit)
        if not follow and not found["decisions"]:
            for line in nothing_found(found):
                print_note(line)
        if follow:
            try:
                _follow(gateway, filters, printer)
            except KeyboardInterrupt:
                sys.exit(130)


def _find(gateway: Gateway, filters: _Filters, limit: int) -> Json:
    """The newest *limit* decisions, of as many pages as it takes; the first page says the rest."""
    with gateway.or_fail():
        page: dict[str, Any] = gateway.search("/api/decisions", limit=min(limit, _AT_ONCE), **filters.parameters())
        found = page
        while page["next"] is not None and len(found["decisions"]) < limit:
            left = limit - len(found["decisions"])
            page = gateway.search(
                "/api/decisions", limit=min(left, _AT_ONCE), cursor=page["next"], **filters.parameters()
            )
            found["decisions"] += page["decisions"]
            found["history"]["error"] = found["history"]["error"] or page["history"]["error"]
            found["replicas"] = page.get("replicas")
    return found


class _Printer:
    """Prints each decision once."""

    def __init__(self, form: Form) -> None:
        self._print = decision_printer(form)
        self._order: deque[str] = deque()
        self._shown: set[str] = set()
        self._missing: set[str] = set()
        """Whose decisions were missing in the last answer."""
        self.newest = ""
        """When the newest decision began, as RFC 3339."""
        self._error: str | None = None
        """Why the history was missing in the last answer."""

    def show(self, found: Json, limit: int) -> int:
        """Print the new decisions, the newest last, and at most *limit* of them; returns how many there were."""
        new = [decision for decision in reversed(found["decisions"]) if decision["request_id"] not in self._shown]
        for number, decision in enumerate(new, 1):
            self._remember(decision)
            if number > len(new) - limit:
                self._print(decision)
        sys.stdout.flush()
        missing = dict(_missing(found))
        for who in missing.keys() - self._missing:
            print_note(f"{who} {missing[who]}: its decisions are missing here")
        self._missing = set(missing)
        error = found["history"]["error"]
        if error is not None and error != self._error:
            print_note(f"the history is missing here: {plain(error)}")
        self._error = error
        return len(new)

    def _remember(self, decision: Json) -> None:
        request_id = decision["request_id"]
        self.newest = max(self.newest, decision["time"])
        self._shown.add(request_id)
        self._order.append(request_id)
        if len(self._order) > _REMEMBERED:
            self._shown.discard(self._order.popleft())


def _missing(found: Json) -> Iterable[tuple[str, str]]:
    """Whose decisions are missing in an answer, and why."""
    for pid in found["incomplete"]:
        yield f"worker {pid}", "did not answer in time"
    for replica in found.get("replicas") or ():
        if replica["error"] is not None:
            yield f"gateway {plain(replica['name'])}", f"gave no answer ({_reason(replica['error'])})"
        for pid in replica["incomplete"]:
            yield f"worker {pid} of gateway {plain(replica['name'])}", "did not answer in time"


def _reason(error: str) -> str:
    """The error of a gateway without figures that change from one answer to the next."""
    return plain(error.partition(" for ")[0] if error.startswith("lost") else error)


def nothing_found(found: Json) -> Iterable[str]:
    """How far back was looked where nothing matches, and what to do."""
    history = found["history"]
    journal = _back_to("the journal", found["journal_oldest"])
    if not history["configured"]:
        yield f"no decision matches; {journal}, and there is no history"
        yield "configure store and history to keep decisions longer, or search the log: --from-log FILE"
    elif history["error"] is not None:
        yield f"no decision matches in the journal; {journal}"
    else:
        yield f"no decision matches; {journal}, {_back_to('the history', history['oldest'])}"
        yield "older ones are in the log only: --from-log FILE"


def _back_to(name: str, oldest: str | None) -> str:
    return f"{name} is empty" if oldest is None else f"{name} goes back to {clock(oldest, date=True)}"


def _follow(gateway: Gateway, filters: _Filters, printer: _Printer) -> None:
    earliest = parse_filter([("since", filters.since or "")], time.time()).since
    connected = True
    while True:
        time.sleep(_LOOK_EVERY)
        parameters = {**filters.parameters(), "since": _since(printer.newest, earliest)}
        try:
            found = (gateway.search if filters.fleet else gateway.get)("/api/decisions", limit=_AT_ONCE, **parameters)
        except NoAnswer as exc:
            if connected:
                print_note(f"no connection to {gateway.url} ({exc}), retrying")
            connected = False
            continue
        except AdminError as exc:
            gateway.fail_for(exc)
        if not connected:
            print_note("connected again")
        connected = True
        if printer.show(found, _AT_ONCE) >= _AT_ONCE:
            print_note("too many decisions to show all of them: some are missing; use filters")


def _since(newest: str, earliest: float | None) -> str | None:
    """From when on a decision can be new: hooks end in another order than they begin."""
    times = [] if earliest is None else [earliest]
    if newest:
        times.append(datetime.fromisoformat(newest).timestamp() - _LONGEST_HOOK)
    return f"{max(times):.3f}" if times else None


def _show_one(gateway: Gateway, request_id: str, *, fleet: bool, as_json: bool) -> None:
    wanted = fleet_parameter(fleet)
    with gateway.or_fail():
        found = gateway.search("/api/decisions", request_id=request_id, limit=1, **wanted)
        for who, why in _missing(found):
            print_note(f"{who} {why}")
        if not found["decisions"]:
            raise AdminError(404, _not_found(request_id, found))
        decision = gateway.search(f"/api/decisions/{quote(found['decisions'][0]['request_id'], safe='')}", **wanted)
    _print_one(decision, as_json=as_json)


def _not_found(request_id: str, found: Json) -> str:
    history = found["history"]
    kept = "it keeps the last ~2,000 hooks per worker"
    if not history["configured"]:
        return f"request {plain(request_id)} is not in the journal ({kept}); search the log"
    if history["error"] is not None:
        return f"request {plain(request_id)} is not in the journal ({kept}); the history is missing: {history['error']}"
    where = _back_to("the history", history["oldest"])
    return f"request {plain(request_id)} is neither in the journal nor in the history; {where}; search the log"


def _print_one(decision: Json, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(decision, indent=2))
        return
    console = render.console()
    for part in details(decision):
        console.print(part, soft_wrap=True)


# --- the log ---


def _search_log(names: Sequence[str], filters: _Filters, request_id: str | None, limit: int, form: Form) -> None:
    if filters.shadow is not None:
        fail("--shadow: the log has no results of shadow copies", BAD_USAGE)
    given = [(name, str(value)) for name, value in filters.parameters().items() if value is not None]
    if request_id is not None:
        given.append(("request_id", request_id))
    try:
        wanted = parse_filter(given, time.time())
        found = search_logs(_expand(names), wanted, limit)
    except ValueError as exc:
        fail(plain(exc), BAD_USAGE)
    except LogUnreadable as exc:
        fail(str(exc), BAD_USAGE)
    except KeyboardInterrupt:
        sys.exit(130)
    decisions: list[dict[str, Any]] = [msgspec.to_builtins(decision_view(each)) for each in reversed(found.decisions)]
    _note_bad_lines(found)
    if request_id is not None:
        if not decisions:
            fail(f"request {plain(request_id)} is not in the log; {_log_scope(found)}")
        _print_one(decisions[-1], as_json=form is Form.JSON)
        return
    show = decision_printer(form)
    for decision in decisions:
        show(decision)
    sys.stdout.flush()
    if found.matched > len(decisions):
        print_note(f"{plural(found.matched, 'decision')} match: these are the newest {len(decisions):,}; use --limit")
    if not decisions:
        print_note(f"no decision matches; {_log_scope(found)}")
        if filters.ask_for_number and found.hides_numbers:
            print_note("the log has masked numbers (log.mask): whole ones are found only with store and history.key")


def _log_scope(found: LogSearch) -> str:
    if not found.read:
        return "the log has no decisions: is log.access off, or log.format not json?"
    newest = clock(found.newest, date=True)
    return f"the log has {plural(found.read, 'decision')}, from {clock(found.oldest, date=True)} to {newest}"


def _note_bad_lines(found: LogSearch) -> None:
    if found.bad:
        print_note(f"{plural(found.bad, 'line')} skipped: not JSON, or damaged")
    for name in found.cut:
        print_note(f"{name}: ends in the midst of what is compressed: the rest of it is missing")


def _expand(names: Iterable[str]) -> list[str]:
    """The files that names and globs select; a name of an existing file is not a glob."""
    found: list[str] = []
    for name in names:
        is_plain = name == "-" or not glob.has_magic(name) or os.path.exists(name)
        found += [name] if is_plain else sorted(glob.glob(name)) or [name]
    return found


def print_note(message: str) -> None:
    """Print a message that is not part of the output, on standard error."""
    print(f"gateway: {message}", file=sys.stderr)
