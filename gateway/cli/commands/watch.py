"""``gateway status`` and ``gateway calls``: what a running gateway does, for people on its host."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterable
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.cli import render, render_insights
from gateway.cli.client import (
    AdminOption,
    Gateway,
    JsonOption,
    NoAnswer,
    Refusal,
    TokenOption,
    WatchedConfig,
    gateway_at,
)
from gateway.cli.render import Json, clock, milliseconds, plain, rate

_WIDE: Final = 2000
"""Columns where the output is no terminal: nothing is cut or wrapped."""
_APPS_SHOWN: Final = 20
_WINDOW: Final = 2.0
"""Seconds of which rates are wanted at least."""
_LOOK_EVERY: Final = 0.5
"""Seconds between two looks for new calls."""
_AT_ONCE: Final = 1000
"""Calls asked for at each; more in between are not seen."""
_REMEMBERED: Final = 20_000
"""Calls known to be shown already; more than all workers' journals together tell in one answer."""


def status(
    admin: AdminOption = None, token_file: TokenOption = None, config: WatchedConfig = None, as_json: JsonOption = False
) -> None:
    """Say what a running gateway does: hooks, apps in trouble, targets and their state, its configuration."""
    with gateway_at(admin, token_file, config) as gateway:
        seen = gateway.get_or_fail("/api/activity", apps=0)["window_seconds"]
        time.sleep(min(_WINDOW, max(0.0, _WINDOW - seen)))  # who asks first gets rates of a moment only
        answers = {
            "activity": gateway.get_or_fail("/api/activity", apps=_APPS_SHOWN),
            "status": gateway.get_or_fail("/api/status"),
            "upstreams": gateway.get_or_fail("/api/upstreams"),
            "insights": gateway.get_or_fail("/api/insights", apps=_APPS_SHOWN),
        }
    if as_json:
        print(json.dumps(answers, indent=2))
        return
    console = _console()
    for part in _status(**answers):
        console.print(part)


def _status(activity: Json, status: Json, upstreams: Json, insights: Json) -> Iterable[Text | Table]:
    yield render.headline(status)
    yield render.hooks(status)
    yield _line("hooks on", ", ".join(map(plain, status["listen"])))
    yield _line("admin on", plain(status["admin"]))
    config = status["config"]
    loaded = clock(config["loaded"], date=True)
    yield _line(
        "config", f"{plain(config['path'])}: {config['apps']} apps, {config['upstreams']} upstreams, of {loaded}"
    )
    for trouble in render.troubles(status):
        yield Text(trouble, style="bold red")
    for warning in status["warnings"]:
        yield Text(f"warning: {plain(warning)}", style="yellow")
    if notes := render_insights.notes(insights):
        yield Text()
        yield from notes
    yield Text()
    yield apps_table(activity["apps"])
    if (more := activity["app_count"] - len(activity["apps"])) > 0:
        yield Text(f"and {more} more apps", style="dim")
    yield Text()
    targets = render.targets(upstreams)
    yield targets_table(targets)
    for upstream, target in targets:
        if why := render.why(target):
            style = "dim" if target["state"] == "up" else "red"
            yield Text(f"{upstream} {plain(target['target'])}: {why}", style=style)


def _line(name: str, text: str) -> Text:
    return Text.assemble((f"{name:9} ", "dim"), text)


def apps_table(apps: Iterable[Json]) -> Table:
    """Apps with their rates."""
    table = Table(box=None, pad_edge=False, expand=False, header_style="dim")
    table.add_column("app", no_wrap=True)
    for name in ("hooks/s", "allow", "reject", "error", "p50", "p99"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("reasons, per second")
    for app in apps:
        table.add_row(
            Text(plain(app["app"])),
            *(rate(app[key]) for key in ("per_second", "allow", "reject", "error")),
            *(milliseconds(app[key]) for key in ("p50_ms", "p99_ms")),
            Text(render.reasons(app), style="red"),
        )
    return table


def targets_table(targets: Iterable[tuple[str, Json]]) -> Table:
    """Targets with their state."""
    table = Table(box=None, pad_edge=False, expand=False, header_style="dim")
    for name in ("upstream", "target", "state", "since"):
        table.add_column(name, no_wrap=True)
    for name in ("in flight", "p50", "p99"):
        table.add_column(name, justify="right", no_wrap=True)
    for upstream, target in targets:
        table.add_row(
            Text(upstream),
            Text(plain(target["target"]) + (" (backup)" if target["backup"] else "")),
            render.state(target),
            clock(target["since"]),
            plain(target["in_flight"]),
            milliseconds(target["p50_ms"]),
            milliseconds(target["p99_ms"]),
        )
    return table


# --- calls ---


def calls(
    request_id: Annotated[
        str | None, typer.Argument(metavar="REQUEST_ID", help="Tell this one hook's whole story.", show_default=False)
    ] = None,
    app: Annotated[str | None, typer.Option(help="Of this app.")] = None,
    method: Annotated[str | None, typer.Option("--method", "-m", help="Of this REST method.")] = None,
    verdict: Annotated[str | None, typer.Option(help="allow, reject or error.")] = None,
    source: Annotated[str | None, typer.Option(help="backend, fallback, duplicate, static, rule or gateway.")] = None,
    reason: Annotated[str | None, typer.Option(help="ok, denied, timeout, unreachable, bad_answer, …")] = None,
    call_id: Annotated[str | None, typer.Option(help="Of this call.")] = None,
    session_id: Annotated[str | None, typer.Option(help="Of this session.")] = None,
    upstream: Annotated[str | None, typer.Option(help="Decided by this upstream.")] = None,
    target: Annotated[str | None, typer.Option(help="Decided by this target.")] = None,
    search: Annotated[
        str | None, typer.Option("--search", "-q", metavar="TEXT", help="With this in an id, a number or the error.")
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="From then on: 90s, 5m, 2h ago, or a time.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Until then.")] = None,
    failures: Annotated[bool, typer.Option("--failures", help="Only what no backend decided as it meant to.")] = False,
    rule: Annotated[str | None, typer.Option(help="That met this rule.")] = None,
    shadow: Annotated[
        str | None,
        typer.Option(help="By what a candidate said: differs, match, verdict_differs, body_differs, candidate_failed."),
    ] = None,
    ineffective: Annotated[
        bool, typer.Option("--ineffective", help="Only refusals and changed answers that the media server ignores.")
    ] = False,
    repaired: Annotated[bool, typer.Option("--repaired", help="Only answers that had to be repaired.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="So many at most.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as new ones come, until Ctrl-C.")] = False,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    config: WatchedConfig = None,
    as_json: JsonOption = False,
) -> None:
    """List the hooks that a running gateway decided last, the newest at the end."""
    asked: dict[str, str | int | None] = {
        "app": app, "method": method, "verdict": verdict, "source": source, "reason": reason, "call_id": call_id,
        "session_id": session_id, "upstream": upstream, "target": target, "q": search, "since": since, "until": until,
        "failures": 1 if failures else None, "rule": rule, "shadow": shadow,
        "ineffective": 1 if ineffective else None, "repaired": 1 if repaired else None,
    }  # fmt: skip
    with gateway_at(admin, token_file, config) as gateway:
        if request_id is not None:
            _tell_story(gateway, request_id, as_json=as_json)
            return
        printer = _Printer(as_json=as_json)
        printer.show(gateway.get_or_fail("/api/calls", limit=limit, **asked))
        if follow:
            try:
                _follow(gateway, asked, printer)
            except KeyboardInterrupt:
                sys.exit(130)


class _Printer:
    """Prints each call once, one a line."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = _console()
        self._order: deque[str] = deque()
        self._shown: set[str] = set()
        self._missing: list[int] = []
        """Workers whose calls the last answer lacked."""

    def show(self, found: Json) -> int:
        """Print the calls that are new, the newest last; how many these were."""
        new = [call for call in reversed(found["calls"]) if call["request_id"] not in self._shown]
        for call in new:
            self._remember(call["request_id"])
            if self._as_json:
                print(json.dumps(call))
            else:
                self._console.print(line_of(call), soft_wrap=True)
        sys.stdout.flush()
        for pid in found["incomplete"]:
            if pid not in self._missing:
                say(f"worker {pid} did not answer in time: its calls are missing here")
        self._missing = found["incomplete"]
        return len(new)

    def _remember(self, request_id: str) -> None:
        self._shown.add(request_id)
        self._order.append(request_id)
        if len(self._order) > _REMEMBERED:
            self._shown.discard(self._order.popleft())


def line_of(call: Json) -> Text:
    """A call on one line."""
    where = plain(call["target"] or call["upstream"] or "")
    line = Text.assemble(
        (clock(call["time"], fraction=True), "dim"), "  ",
        render.verdict(call), " " * (8 - len(call["verdict"])),
        f"{render.reason(call):20} {plain(call['app']):16} {plain(call['method']):16} "
        f"{milliseconds(call['duration_ms']):>8}  {where:21}",
    )  # fmt: skip
    for name, value in (("call", call["call_id"]), ("id", call["request_id"])):
        if value:
            line.append(f"  {name}={plain(value)}")
    if remarks := render_insights.remarks(call):
        line.append("  ").append_text(remarks)
    if call["error"]:
        line.append(f"  {plain(call['error'])}", style="red")
    return line


def _follow(gateway: Gateway, asked: dict[str, str | int | None], printer: _Printer) -> None:
    connected = True
    while True:
        time.sleep(_LOOK_EVERY)
        try:
            found = gateway.get("/api/calls", limit=_AT_ONCE, **asked)
        except NoAnswer as exc:
            if connected:
                say(f"no connection to {gateway.url} ({exc}), trying again")
            connected = False
            continue
        except Refusal as refusal:
            gateway.fail_for(refusal)
            return
        if not connected:
            say("connected again")
        connected = True
        if printer.show(found) >= _AT_ONCE:
            say("more calls came than can be followed: some are not shown; filters make them fewer")


def _tell_story(gateway: Gateway, request_id: str, *, as_json: bool) -> None:
    found = gateway.get_or_fail("/api/calls", request_id=request_id, limit=1)
    if not found["calls"]:
        gateway.fail_for(Refusal(404, f"no hook with the request id {plain(request_id)} is held any more"))
        return
    call = found["calls"][0]
    if as_json:
        print(json.dumps(call, indent=2))
        return
    console = _console()
    for part in _story(call):
        console.print(part, soft_wrap=True)


def _story(call: Json) -> Iterable[Text]:
    for name in ("request_id", "time", "app", "method", "node_id", "session_id", "call_id", "caller", "callee"):
        if call[name] is not None:
            yield _fact(name.replace("_", " "), plain(call[name]))
    budget = "" if call["budget_ms"] is None else f" of a budget of {milliseconds(call['budget_ms'])}"
    took = f"{milliseconds(call['duration_ms'])}{budget}, {milliseconds(call['upstream_ms'])} of it on backends"
    yield _fact("took", took)
    for number, attempt in enumerate(call["attempts"], 1):
        yield _fact("attempts" if number == 1 else "", _attempt(number, attempt))
    yield Text.assemble((f"{'verdict':11} ", "dim"), render.verdict(call), f" ({call['source']}, {call['reason']})")
    if call["error"]:
        yield _fact("because", plain(call["error"]))
    for name, words in render_insights.story(call):
        yield _fact(name, words)
    yield _fact("answer", f"{call['status']}: {plain(call['means'])}")


def _attempt(number: int, attempt: Json) -> str:
    waited = f", {milliseconds(attempt['queued_ms'])} of it in the queue" if attempt["queued_ms"] else ""
    error = f": {plain(attempt['error'])}" if attempt["error"] else ""
    return (
        f"{number}. {plain(attempt['upstream'])} {plain(attempt['target'])} after {milliseconds(attempt['began_ms'])}, "
        f"took {milliseconds(attempt['duration_ms'])}{waited}: {plain(attempt['outcome'])}{error}"
    )


def _fact(name: str, text: str) -> Text:
    return Text.assemble((f"{name:11} ", "dim"), text)


def say(message: str) -> None:
    """Tell the user something that is no part of the output."""
    print(f"gateway: {message}", file=sys.stderr)


def _console() -> Console:
    options: dict[str, Any] = {} if sys.stdout.isatty() else {"width": _WIDE}
    return Console(markup=False, emoji=False, highlight=False, **options)
