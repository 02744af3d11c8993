"""The gateways of a fleet as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from gateway.cli.render import UNKNOWN, Json, clock, milliseconds, plain, rate
from gateway.model.text import plural

_UP_OR_DOWN: Final = {True: Text("up", style="green"), False: Text("down", style="bold red")}


def headline(replicas: Sequence[Json]) -> Text:
    """How many gateways there are, and how many give no answer."""
    silent = sum(replica["error"] is not None for replica in replicas)
    text = Text.assemble(("fleet", "bold"), f" of {plural(len(replicas), 'gateway')}")
    if silent:
        text.append(f", {silent} without an answer", style="bold red")
    return text


def missing(replicas: Iterable[Json]) -> list[str]:
    """Which gateways are missing in an answer, each with the reason."""
    return [f"gateway {plain(each['name'])}: {plain(each['error'])}" for each in replicas if each["error"] is not None]


def replicas_table(replicas: Iterable[Json]) -> Table:
    """The gateways side by side, this one marked."""
    table = Table(box=None, pad_edge=False, expand=False, header_style="dim")
    for name in ("gateway", "version", "revision", "since", "phase", "store", "state", "behind"):
        table.add_column(name, no_wrap=True)
    for replica in replicas:
        table.add_row(
            Text(plain(replica["name"]) + (" (this one)" if replica["here"] else "")),
            plain(replica["version"]),
            plain(replica["revision"]) or UNKNOWN,
            clock(replica["since"], date=True),
            _phase(replica),
            _up_or_down(replica["store"], none="none" if replica["error"] is None else UNKNOWN),
            _up_or_down(replica["state"], none=UNKNOWN),
            Text(", ".join(map(plain, replica["behind"])), style="yellow"),
        )
    return table


def statuses_table(replicas: Iterable[Json]) -> Table:
    """What each gateway does; *replicas*: of ``/api/status?fleet=true``."""
    table = Table(box=None, pad_edge=False, expand=False, header_style="dim")
    table.add_column("gateway", no_wrap=True)
    for name in ("hooks/s", "rejected", "by fallback", "in flight"):
        table.add_column(name, justify="right", no_wrap=True)
    for replica in replicas:
        hooks: dict[str, Any] = (replica["status"] or {}).get("hooks", {})
        fallback = [hooks.get(f"{verdict}_by_fallback_per_second") for verdict in ("rejected", "allowed")]
        known = [value for value in fallback if value is not None]
        in_flight = hooks.get("in_flight")
        table.add_row(
            Text(plain(replica["name"]) + (" (this one)" if replica["here"] else "")),
            rate(hooks.get("per_second")),
            rate(hooks.get("rejected_per_second")),
            rate(sum(known) if known else None),
            UNKNOWN if in_flight is None else plain(in_flight),
        )
    return table


def order_lines(orders: Iterable[Json], more: int) -> Iterable[Text]:
    """The operators' orders in force."""
    for order in orders:
        if order["order"] == "eject":
            what = f"{plain(order['upstream'])}: {plain(order['target'])} is ejected"
        elif order["upstream"] is not None:
            what = f"redelivery to {plain(order['upstream'])} is paused"
        else:
            what = f"redelivery of {plain(order['app'])} is paused" if order["app"] else "all redelivery is paused"
        said = f"{what} by an operator since {clock(order['time'], date=True)}, ordered at {plain(order['by'])}"
        yield Text(said, style="magenta")
    if more:
        yield Text(f"and {plural(more, 'more order')}", style="dim")


def not_up_at(target: Json) -> str:
    """At how many of the gateways a target is not up; nothing where it is up at all."""
    names = target.get("not_up_at") or []
    return "" if not names else f"at {len(names)} of {target['replicas']}: {', '.join(map(plain, names))}"


def quantiles(total: Json) -> str:
    """The times of all gateways' hooks."""
    return f"p50 {milliseconds(total['p50_ms'])}, p99 of the slowest gateway {milliseconds(total['p99_ms'])}"


def _phase(replica: Json) -> Text:
    if replica["lost"] is not None:
        return Text("lost", style="bold red")
    if replica["error"] is not None:
        return Text("no answer", style="bold red")
    if replica["drained"]:
        return Text("drained", style="bold yellow")
    phase = plain(replica["phase"])
    return Text(phase, style="green" if phase == "ready" else "yellow")


def _up_or_down(up: bool | None, *, none: str) -> Text:
    return Text(none, style="dim") if up is None else _UP_OR_DOWN[up]
