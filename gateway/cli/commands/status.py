"""``gateway status``: what a running gateway does, for people on its host."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from gateway.cli import render, render_fleet, render_insights, render_spool
from gateway.cli.client import (
    AdminOption,
    FleetOption,
    Gateway,
    JsonOption,
    TokenOption,
    WatchedConfig,
    fleet_parameter,
    gateway_at,
)
from gateway.cli.describe_state import limits_line, state_line
from gateway.cli.render import Json, clock, milliseconds, plain, rate
from gateway.model.text import plural

_APPS_SHOWN = 20
_WINDOW = 2.0
"""Seconds that rates should cover at least."""


def status(
    fleet: FleetOption = False,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    config: WatchedConfig = None,
    as_json: JsonOption = False,
) -> None:
    """Show the status of a running gateway. Prints hooks, failing apps, targets, the store and the configuration."""
    with gateway_at(admin, token_file, config) as gateway:
        wanted = fleet_parameter(fleet)
        seen = gateway.get_or_fail("/api/activity", apps=0, **wanted)["window_seconds"]
        time.sleep(min(_WINDOW, max(0.0, _WINDOW - seen)))  # the first request gets the rates of a moment only
        answers = {
            "activity": gateway.get_or_fail("/api/activity", apps=_APPS_SHOWN, **wanted),
            "status": gateway.get_or_fail("/api/status", **wanted),
            "upstreams": gateway.get_or_fail("/api/upstreams", **wanted),
            **(_of_fleet(gateway) if fleet else _of_one(gateway)),
        }
    if as_json:
        print(json.dumps(answers, indent=2))
        return
    console = render.console()
    for part in (_fleet_status if fleet else _status)(**answers):
        console.print(part)


def _of_one(gateway: Gateway) -> dict[str, Json]:
    return {
        "insights": gateway.get_or_fail("/api/insights", apps=_APPS_SHOWN),
        "spool": gateway.get_or_fail("/api/spool"),
    }


def _of_fleet(gateway: Gateway) -> dict[str, Json]:
    return {"fleet": gateway.get_or_fail("/api/fleet")}


def _fleet_status(activity: Json, status: Json, upstreams: Json, fleet: Json) -> Iterable[Text | Table]:
    replicas = fleet["replicas"]
    yield render_fleet.headline(replicas)
    yield render.hooks(status)
    yield _line("times", render_fleet.quantiles(activity["total"]))
    for line in dict.fromkeys(render_fleet.missing([*replicas, *status["replicas"]])):
        yield Text(line, style="bold red")
    yield from render_fleet.order_lines(fleet["orders"], fleet["more_orders"])
    yield Text()
    yield render_fleet.replicas_table(replicas)
    yield Text()
    yield render_fleet.statuses_table(status["replicas"])
    yield from _apps_and_targets(activity, upstreams)


def _status(activity: Json, status: Json, upstreams: Json, insights: Json, spool: Json) -> Iterable[Text | Table]:
    yield render.headline(status)
    yield render.hooks(status)
    yield _line("hooks on", ", ".join(map(plain, status["listen"])))
    yield _line("admin on", plain(status["admin"]))
    config = status["config"]
    loaded = clock(config["loaded"], date=True)
    size = f"{plural(config['apps'], 'app')}, {plural(config['upstreams'], 'upstream')}"
    yield _line("config", f"{plain(config['path'])}: {size}, loaded {loaded}")
    yield Text.assemble((f"{'store':9} ", "dim"), render_spool.summary(spool))
    if (state := state_line(status)) is not None:
        yield Text.assemble((f"{'state':9} ", "dim"), state)
    if (limits := limits_line(status)) is not None:
        yield Text.assemble((f"{'limits':9} ", "dim"), limits)
    for problem in render.problems(status):
        yield Text(problem, style="bold red")
    for warning in status["warnings"]:
        yield Text(f"warning: {plain(warning)}", style="yellow")
    if notes := render_insights.notes(insights):
        yield Text()
        yield from notes
    yield from _apps_and_targets(activity, upstreams)


def _apps_and_targets(activity: Json, upstreams: Json) -> Iterable[Text | Table]:
    yield Text()
    yield apps_table(activity["apps"])
    if (more := activity["app_count"] - len(activity["apps"])) > 0:
        yield Text(f"and {plural(more, 'more app')}", style="dim")
    yield Text()
    targets = render.targets(upstreams)
    yield targets_table(targets)
    for upstream, target in targets:
        if reason := "; ".join(filter(None, (render.state_reason(target), render_fleet.not_up_at(target)))):
            style = "dim" if target["state"] == "up" else "red"
            yield Text(f"{upstream} {plain(target['target'])}: {reason}", style=style)


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
