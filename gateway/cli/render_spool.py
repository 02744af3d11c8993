"""The spool and the store as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from gateway.cli.render import UNKNOWN, Json, ago, clock, plain
from gateway.model.text import plural


def size(count: int | None) -> str:
    """Bytes with a unit."""
    if count is None:
        return UNKNOWN
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def moment(seconds: float | None) -> str:
    """Unix time as local time with its date."""
    return clock(None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(), date=True)


def summary(spool: Json) -> Text:
    """Store and spool in one line."""
    store = spool["store"]
    if not store["configured"]:
        return Text("none is configured: no event is kept, decisions are found for about a minute", style="dim")
    if spool["events"] is None:
        return Text(f"DOWN: {plain(store['error'])}", style="bold red")
    line = Text() if store["up"] else Text(f"DOWN: {plain(store['error'])} · ", style="bold red")
    line.append(plural(spool["events"], "event") + (" waits" if spool["events"] == 1 else " wait"))
    if spool["events"]:
        line.append(f" ({size(spool['bytes'])}), the oldest for {ago(spool['oldest_age_seconds'])}")
    if spool["dead"]:
        line.append(f" · {plural(spool['dead'], 'dead letter')}", style="red")
    if is_paused(spool):
        line.append(" · paused", style="bold magenta")
    return line


def is_paused(spool: Json) -> bool:
    """Whether redelivery is paused, of all events or of some."""
    return bool(spool["paused"]) or any(each["paused"] for each in (*spool["upstreams"], *spool["apps"]))


def status(spool: Json) -> Iterator[Text | Table]:
    """All that is known of the spool."""
    store = spool["store"]
    yield Text.assemble(("spool    ", "dim"), summary(spool))
    if not store["configured"]:
        return
    if store["engine"] is not None:
        history = "" if store["history_oldest"] is None else f" back to {clock(store['history_oldest'], date=True)}"
        sizes = f"spool {size(store['spool_bytes'])}, history {size(store['history_bytes'])}{history}"
        yield Text.assemble(
            ("store    ", "dim"),
            f"{plain(store['engine'])}, ",
            ("up", "green") if store["up"] else ("down", "bold red"),
            f"; {sizes}",
        )
    if spool["paused"]:
        yield Text("all redelivery is paused: gateway spool resume", style="bold magenta")
    elif spool["events"]:
        yield Text.assemble(("forecast ", "dim"), forecast(spool))
    if spool["upstreams"]:
        yield Text()
        yield _upstreams(spool["upstreams"], all_paused=bool(spool["paused"]))
    for app in spool["apps"]:
        count = app["events"] + app["dead"]
        if not app["configured"] and count:
            yield Text(
                f"app {plain(app['app'])} is not in the configuration: {plural(count, 'event')} not delivered; "
                f"gateway spool drop --app {plain(app['app'])} deletes them",
                style="yellow",
            )
        if app["paused"]:
            yield Text(f"app {plain(app['app'])} is paused: gateway spool resume --app {plain(app['app'])}", "magenta")


def forecast(backlog: Json) -> Text:
    """When nothing waits any more, if that goes on."""
    change = backlog["change_per_second"]
    if change is None:
        return Text("unknown yet")
    if backlog["empty_in_seconds"] is None:
        return Text("it grows" if change > 0 else "it does not shrink", style="red" if change > 0 else "yellow")
    return Text(f"empty in {ago(backlog['empty_in_seconds'])}, at {-change:.1f} events/s")


def _upstreams(backlogs: Iterable[Json], *, all_paused: bool) -> Table:
    table = Table(box=None, pad_edge=False, expand=False, header_style="dim")
    table.add_column("upstream", no_wrap=True)
    for name in ("events", "size", "dead"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("oldest", "next attempt", "forecast"):
        table.add_column(name, no_wrap=True)
    for each in backlogs:
        oldest = each["oldest_age_seconds"]
        outlook = forecast(each) if each["events"] else Text()
        if all_paused or each["paused"]:
            outlook = Text("paused", "bold magenta")
        table.add_row(
            Text(plain(each["upstream"])),
            f"{each['events']:,}",
            size(each["bytes"]),
            Text(f"{each['dead']:,}", style="red" if each["dead"] else ""),
            UNKNOWN if oldest is None else ago(oldest),
            clock(each["next_attempt"]),
            outlook,
        )
    return table


def event_line(event: Json) -> Text:
    """A kept event on one line."""
    styles = {"dead": "red", "queued": "dim"}
    line = Text.assemble(
        f"{event['id']:>8}  ",
        (clock(event["received"]), "dim"),
        "  ",
        (f"{event['state']:8}", styles.get(event["state"], "")),
        f"{plain(event['upstream']):16} {plain(event['app']):16} {plain(event['method']):22} ",
        f"{plain(event['cause']):12} {plural(event['attempts'], 'failure'):>11}",
    )
    if event["call_id"]:
        line.append(f"  call={plain(event['call_id'])}")
    if event["last_error"] or event["error"]:
        line.append(f"  {plain(event['last_error'] or event['error'])}", style="red")
    return line


_STATES = {
    "waiting": "waits for its next attempt",
    "queued": "queued: an earlier event of its call is first",
    "dead": "dead letter: not tried again by itself",
}


def event_details(event: Json) -> Iterator[Text]:
    """A kept event in full."""
    facts = [
        ("id", str(event["id"])),
        ("state", _STATES.get(event["state"], plain(event["state"]))),
        ("app", plain(event["app"])),
        ("method", plain(event["method"])),
        ("upstream", plain(event["upstream"])),
        ("request id", plain(event["request_id"])),
        ("call id", plain(event["call_id"])),
        ("session id", plain(event["session_id"])),
        ("caller", plain(event["caller"])),
        ("callee", plain(event["callee"])),
        ("received", f"{clock(event['received'], date=True)}, {ago(event['age_seconds'])} ago"),
        ("expires", clock(event["expires"], date=True)),
        ("first try", f"{plain(event['cause'])}: {plain(event['error'])}".removesuffix(": ")),
        ("failures", str(event["attempts"])),
        ("last error", plain(event["last_error"]) if event["last_error"] != event["error"] else ""),
        ("next", "" if event["next_attempt"] is None else clock(event["next_attempt"], date=True)),
        ("from", plain(event["client"])),
        ("query", plain(event["query"])),
        ("size", size(event["size"])),
    ]
    for name, text in facts:
        if text:
            yield _fact(name, text)
    for number, (name, value) in enumerate(event["headers"]):
        yield _fact("" if number else "headers", f"{plain(name)}: {plain(value)}")
    if event["body"] is None:
        yield _fact("body", "too large to be masked; --unmasked shows it")
        return
    if event["masked"]:
        yield _fact("body", "numbers are pseudonyms, secrets ***; --unmasked shows it as it came")
    yield Text(plain(event["body"]))


def _fact(name: str, text: str) -> Text:
    return Text.assemble((f"{name:11} ", "dim"), text)
