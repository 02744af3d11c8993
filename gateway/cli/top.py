"""``gateway top``: a live view of a running gateway, for a terminal of at least 80 columns and 24 lines."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console, ConsoleRenderable, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.cli import render, render_fleet, render_insights
from gateway.cli.client import (
    AdminError,
    AdminOption,
    FleetOption,
    Gateway,
    NoAnswer,
    TokenOption,
    WatchedConfig,
    fleet_parameter,
    gateway_at,
)
from gateway.cli.common import fail
from gateway.cli.render import Json, clock, milliseconds, plain, rate
from gateway.model.text import plural

_POLL_EVERY: Final = 1.0
_KEY_EVERY: Final = 0.2
"""Seconds to wait for a key before the screen is updated."""
_MOST_APPS: Final = 100
_MOST_FAILURES: Final = 20
_QUIT: Final = frozenset((b"q", b"Q", b"\x03", b"\x1b"))
_HEADINGS: Final = 3
"""Lines of table headings."""
_SMALLEST: Final = (40, 10)
"""The smallest size that is drawn; a smaller terminal shows the top left part."""


@dataclass(frozen=True)
class View:
    """The latest answers; None before the first."""

    status: Json | None = None
    activity: Json | None = None
    upstreams: Json | None = None
    failures: Json | None = None
    problem: str | None = None
    """Why the answers are not current."""
    seen: float = 0.0
    """Unix time of the answers."""
    insights: Json | None = None


def top(
    fleet: FleetOption = False,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    config: WatchedConfig = None,
) -> None:
    """Watch a running gateway. Shows hooks, apps (failing ones first), targets and the latest failures; q quits."""
    console = Console(markup=False, emoji=False, highlight=False)
    with gateway_at(admin, token_file, config) as gateway:
        first = _poll(gateway, View(), fleet=fleet)
        if first.status is None:
            fail(first.problem or "no answer")
        if not (console.is_terminal and sys.stdin.isatty()):
            console.print(screen(first, console.width, max(console.height, 24), gateway.url))
            return
        with contextlib.suppress(KeyboardInterrupt), _Poller(gateway, first, fleet=fleet) as poller, _keys() as keys:
            _watch(console, poller, keys, gateway.url)


def _watch(console: Console, poller: _Poller, keys: Iterator[bytes], url: str) -> None:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        drawn: object = None
        for key in keys:
            if key in _QUIT:
                return
            now = (poller.view, console.size)
            if now != drawn:
                live.update(screen(poller.view, console.width, console.height, url), refresh=True)
                drawn = now


class _Poller:
    """Polls the gateway in a thread, so that the user can quit even if the gateway does not answer."""

    def __init__(self, gateway: Gateway, first: View, *, fleet: bool) -> None:
        self.view = first
        self._gateway = gateway
        self._fleet = fleet
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Poller:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(_POLL_EVERY):
            self.view = _poll(self._gateway, self.view, fleet=self._fleet)


def _poll(gateway: Gateway, last: View, *, fleet: bool) -> View:
    wanted = fleet_parameter(fleet)
    try:
        return View(
            activity=gateway.get("/api/activity", apps=_MOST_APPS, **wanted),
            status=gateway.get("/api/status", **wanted),
            upstreams=gateway.get("/api/upstreams", **wanted),
            failures=gateway.search("/api/decisions", failures=1, limit=_MOST_FAILURES, **wanted),
            insights=None if fleet else gateway.get("/api/insights", apps=0),
            seen=time.time(),
        )
    except NoAnswer as exc:
        return replace(last, problem=f"no connection to {gateway.url} ({exc}), retrying")
    except AdminError as exc:
        token = " (--token-file)" if exc.status == 401 else ""
        return replace(last, problem=f"{gateway.url}: {exc}{token}")


@contextlib.contextmanager
def _keys() -> Iterator[Iterator[bytes]]:
    """Keys as they are typed; an empty one when none was typed for a while."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def read_keys() -> Iterator[bytes]:
        yield b""
        while True:
            ready, _, _ = select.select([fd], [], [], _KEY_EVERY)
            key = os.read(fd, 16) if ready else b""
            if ready and not key:
                return  # the terminal is closed
            yield key

    try:
        tty.setcbreak(fd)
        yield read_keys()
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


# --- the screen ---


def screen(view: View, width: int, height: int, url: str) -> ConsoleRenderable:
    """The whole screen."""
    width, height = max(width, _SMALLEST[0]), max(height, _SMALLEST[1])
    status, activity, upstreams, failures = view.status, view.activity, view.upstreams, view.failures
    if status is None or activity is None or upstreams is None or failures is None:
        return Text(view.problem or "…", style="bold red")
    head = list(_head(view, status, activity, url))
    targets = render.targets(upstreams)
    room = height - len(head) - _HEADINGS - 1
    for_targets = min(len(targets), max(2, room // 3))
    spare = room - for_targets - max(1, len(activity["apps"]))  # if all apps fit
    for_failures = min(max(1, len(failures["decisions"])), max(2, room // 5, spare))
    for_apps = room - for_targets - for_failures
    body: list[ConsoleRenderable] = [
        _apps(activity, for_apps, width),
        _targets(targets, for_targets, width),
        _failures(failures["decisions"][:for_failures], width),
    ]
    return Group(*head, *body, _foot(activity, targets, width))


def _head(view: View, status: Json, activity: Json, url: str) -> Iterable[Text]:
    replicas = status.get("replicas")  # of a fleet
    title = render.headline(status) if replicas is None else render_fleet.headline(replicas)
    title.append(f" · {clock(activity['time'])}", style="dim" if view.problem is None else "bold red")
    title.append(f" · p99 {milliseconds(activity['total']['p99_ms'])}")
    yield _cut(title)
    yield _cut(render.hooks(status))
    if view.problem is not None:
        yield _cut(Text(f" {plain(view.problem)} ", style="bold white on red"))
    if view.insights is not None and (notable := render_insights.at_a_glance(view.insights)) is not None:
        yield _cut(notable)
    for problem in render.problems(status) if replicas is None else render_fleet.missing(replicas):
        yield _cut(Text(f" {problem} ", style="bold white on red"))


def _cut(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _table(*columns: tuple[str, dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, expand=True, header_style="bold reverse", padding=(0, 1, 0, 0))
    for name, options in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis", **options)
    return table


def _right(width: int) -> dict[str, Any]:
    return {"justify": "right", "width": width}


def _fitted(texts: Iterable[str], least: int, most: int) -> dict[str, Any]:
    """As wide as the texts, within bounds."""
    return {"width": max(least, min(most, max(map(cell_len, texts), default=0)))}


def _apps(activity: Json, lines: int, width: int) -> Table:
    apps = activity["apps"][:lines]
    table = _table(
        ("APP", _fitted([plain(app["app"]) for app in apps], 8, width // 3)),
        ("HOOKS/S", _right(7)), ("ALLOW", _right(6)), ("REJECT", _right(6)),
        ("ERROR", _right(5)), ("P50", _right(6)), ("P99", _right(6)), ("REASONS, PER SECOND", {"ratio": 1}),
    )  # fmt: skip
    for app in apps:
        quiet = "" if app["per_second"] or app["in_flight"] else "dim"
        table.add_row(
            Text(plain(app["app"])),
            *(rate(app[key]) for key in ("per_second", "allow", "reject", "error")),
            *(milliseconds(app[key]) for key in ("p50_ms", "p99_ms")),
            Text(render.reasons(app), style="red"),
            style=quiet,
        )
    _fill(table, lines - len(apps))
    return table


def _targets(targets: list[tuple[str, Json]], lines: int, width: int) -> Table:
    names = [f"{upstream} {plain(target['target'])}" for upstream, target in targets[:lines]]
    table = _table(
        ("TARGET", _fitted(names, 12, width * 2 // 5)), ("STATE", {"width": 7}),
        ("SINCE", {"width": 8}), ("IN", _right(3)), ("P99", _right(6)), ("REASON", {"ratio": 1}),
    )  # fmt: skip
    for name, (_, target) in zip(names, targets[:lines], strict=True):
        table.add_row(
            Text(name),
            render.state(target),
            clock(target["since"])[-8:],
            plain(target["in_flight"]),
            milliseconds(target["p99_ms"]),
            Text(_reason(target), style="" if target["state"] == "up" else "red"),
        )
    _fill(table, lines - len(targets))
    return table


def _reason(target: Json) -> str:
    return "; ".join(filter(None, (render_fleet.not_up_at(target), render.state_reason(target))))


def _failures(decisions: list[Json], width: int) -> Table:
    apps, methods, reasons = ([plain(each[key]) for each in decisions] for key in ("app", "method", "reason"))
    table = _table(
        ("FAILED", {"width": 8}), ("APP", _fitted(apps, 8, width // 5)), ("METHOD", _fitted(methods, 8, width // 5)),
        ("VERDICT", {"width": 7}), ("REASON", _fitted(reasons, 6, 12)), ("ERROR", {"ratio": 1}),
    )  # fmt: skip
    for decision in decisions:
        table.add_row(
            clock(decision["time"])[-8:],
            Text(plain(decision["app"])),
            Text(plain(decision["method"])),
            render.verdict(decision),
            Text(plain(decision["reason"])),
            Text(plain(decision["error"])) or render_insights.annotation_text(decision),
        )
    if not decisions:
        table.add_row("", Text("none", style="dim"))
    return table


def _fill(table: Table, lines: int) -> None:
    for _ in range(lines):
        table.add_row("")


def _foot(activity: Json, targets: list[tuple[str, Json]], width: int) -> Text:
    down = sum(target["state"] != "up" for _, target in targets)
    left = "q quits · failing first"
    right = f"{plural(activity['app_count'], 'app')} · {plural(len(targets), 'target')}, {down} not up"
    return _cut(Text(f"{left}{right:>{max(0, width - len(left))}}", style="dim"))
