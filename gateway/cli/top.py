"""``gateway top``: a live view of a running gateway, in a terminal of 80 columns and 24 lines or more."""

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

from gateway.cli import render, render_insights
from gateway.cli.client import AdminOption, Gateway, NoAnswer, Refusal, TokenOption, WatchedConfig, gateway_at
from gateway.cli.common import fail
from gateway.cli.render import Json, clock, milliseconds, plain, rate

_LOOK_EVERY: Final = 1.0
_KEY_EVERY: Final = 0.2
"""Seconds for which a key is waited for before the screen is looked at again."""
_MOST_APPS: Final = 100
_MOST_FAILURES: Final = 20
_QUIT: Final = frozenset((b"q", b"Q", b"\x03", b"\x1b"))
_HEADINGS: Final = 3
"""Lines of the tables' own."""
_SMALLEST: Final = (40, 10)
"""Columns and lines that are drawn at least; a smaller terminal shows the beginning."""


@dataclass(frozen=True)
class View:
    """What was learnt last; None before anything was."""

    status: Json | None = None
    activity: Json | None = None
    upstreams: Json | None = None
    failures: Json | None = None
    trouble: str | None = None
    """Why it is not of now."""
    seen: float = 0.0
    """Unix time of it."""
    insights: Json | None = None


def top(admin: AdminOption = None, token_file: TokenOption = None, config: WatchedConfig = None) -> None:
    """Watch a running gateway: hooks and apps, the most troubled first, targets, the last failures; q ends it."""
    console = Console(markup=False, emoji=False, highlight=False)
    with gateway_at(admin, token_file, config) as gateway:
        first = _look(gateway, View())
        if first.status is None:
            fail(first.trouble or "no answer")
        if not (console.is_terminal and sys.stdin.isatty()):
            console.print(screen(first, console.width, max(console.height, 24), gateway.url))
            return
        with contextlib.suppress(KeyboardInterrupt), _Looking(gateway, first) as looking, _keys() as keys:
            _watch(console, looking, keys, gateway.url)


def _watch(console: Console, looking: _Looking, keys: Iterator[bytes], url: str) -> None:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        drawn: object = None
        for key in keys:
            if key in _QUIT:
                return
            now = (looking.view, console.size)
            if now != drawn:
                live.update(screen(looking.view, console.width, console.height, url), refresh=True)
                drawn = now


class _Looking:
    """Looks again and again, in a thread: a gateway that does not answer must not keep the user from leaving."""

    def __init__(self, gateway: Gateway, first: View) -> None:
        self.view = first
        self._gateway = gateway
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Looking:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_EVERY):
            self.view = _look(self._gateway, self.view)


def _look(gateway: Gateway, last: View) -> View:
    try:
        return View(
            activity=gateway.get("/api/activity", apps=_MOST_APPS),
            status=gateway.get("/api/status"),
            upstreams=gateway.get("/api/upstreams"),
            failures=gateway.get("/api/calls", failures=1, limit=_MOST_FAILURES),
            insights=gateway.get("/api/insights", apps=0),
            seen=time.time(),
        )
    except NoAnswer as exc:
        return replace(last, trouble=f"no connection to {gateway.url} ({exc}), trying again")
    except Refusal as exc:
        token = " (--token-file)" if exc.status == 401 else ""
        return replace(last, trouble=f"{gateway.url}: {exc}{token}")


@contextlib.contextmanager
def _keys() -> Iterator[Iterator[bytes]]:
    """Keys as they are typed; empty ones in between, when none was for a while."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def typed() -> Iterator[bytes]:
        yield b""
        while True:
            ready, _, _ = select.select([fd], [], [], _KEY_EVERY)
            key = os.read(fd, 16) if ready else b""
            if ready and not key:
                return  # the terminal is gone
            yield key

    try:
        tty.setcbreak(fd)
        yield typed()
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


# --- the screen ---


def screen(view: View, width: int, height: int, url: str) -> ConsoleRenderable:
    """The whole screen; pure."""
    width, height = max(width, _SMALLEST[0]), max(height, _SMALLEST[1])
    status, activity, upstreams, failures = view.status, view.activity, view.upstreams, view.failures
    if status is None or activity is None or upstreams is None or failures is None:
        return Text(view.trouble or "…", style="bold red")
    head = list(_head(view, status, activity, url))
    targets = render.targets(upstreams)
    room = height - len(head) - _HEADINGS - 1
    for_targets = min(len(targets), max(2, room // 3))
    spare = room - for_targets - max(1, len(activity["apps"]))  # where all apps have room
    for_failures = min(max(1, len(failures["calls"])), max(2, room // 5, spare))
    for_apps = room - for_targets - for_failures
    body: list[ConsoleRenderable] = [
        _apps(activity, for_apps, width),
        _targets(targets, for_targets, width),
        _failures(failures["calls"][:for_failures], width),
    ]
    return Group(*head, *body, _foot(activity, targets, width))


def _head(view: View, status: Json, activity: Json, url: str) -> Iterable[Text]:
    title = render.headline(status)
    title.append(f" · {clock(activity['time'])}", style="dim" if view.trouble is None else "bold red")
    title.append(f" · p99 {milliseconds(activity['total']['p99_ms'])}")
    yield _cut(title)
    yield _cut(render.hooks(status))
    if view.trouble is not None:
        yield _cut(Text(f" {plain(view.trouble)} ", style="bold white on red"))
    if view.insights is not None and (notable := render_insights.at_a_glance(view.insights)) is not None:
        yield _cut(notable)
    for trouble in render.troubles(status):
        yield _cut(Text(f" {trouble} ", style="bold white on red"))


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


def _fitting(texts: Iterable[str], least: int, most: int) -> dict[str, Any]:
    """As wide as what stands in it, in bounds."""
    return {"width": max(least, min(most, max(map(cell_len, texts), default=0)))}


def _apps(activity: Json, lines: int, width: int) -> Table:
    apps = activity["apps"][:lines]
    table = _table(
        ("APP", _fitting([plain(app["app"]) for app in apps], 8, width // 3)),
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
        ("TARGET", _fitting(names, 12, width * 2 // 5)), ("STATE", {"width": 7}),
        ("SINCE", {"width": 8}), ("IN", _right(3)), ("P99", _right(6)), ("WHY", {"ratio": 1}),
    )  # fmt: skip
    for name, (_, target) in zip(names, targets[:lines], strict=True):
        table.add_row(
            Text(name),
            render.state(target),
            clock(target["since"])[-8:],
            plain(target["in_flight"]),
            milliseconds(target["p99_ms"]),
            Text(render.why(target), style="" if target["state"] == "up" else "red"),
        )
    _fill(table, lines - len(targets))
    return table


def _failures(calls: list[Json], width: int) -> Table:
    table = _table(
        ("FAILED", {"width": 8}), ("APP", _fitting([plain(call["app"]) for call in calls], 8, width // 5)),
        ("METHOD", _fitting([plain(call["method"]) for call in calls], 8, width // 5)), ("VERDICT", {"width": 7}),
        ("REASON", _fitting([plain(call["reason"]) for call in calls], 6, 12)), ("WHY", {"ratio": 1}),
    )  # fmt: skip
    for call in calls:
        table.add_row(
            clock(call["time"])[-8:],
            Text(plain(call["app"])),
            Text(plain(call["method"])),
            render.verdict(call),
            Text(plain(call["reason"])),
            Text(plain(call["error"])) or render_insights.remarks(call),
        )
    if not calls:
        table.add_row("", Text("none", style="dim"))
    return table


def _fill(table: Table, lines: int) -> None:
    for _ in range(lines):
        table.add_row("")


def _foot(activity: Json, targets: list[tuple[str, Json]], width: int) -> Text:
    down = sum(target["state"] != "up" for _, target in targets)
    left = "q quits · the most troubled first"
    right = f"{activity['app_count']} apps · {len(targets)} targets, {down} not up"
    return _cut(Text(f"{left}{right:>{max(0, width - len(left))}}", style="dim"))
