"""What several gateways share, in words: for ``check`` and ``status``."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from gateway.cli.render import Json, plain
from gateway.config import Loaded, display_secret
from gateway.config.sections.types import format_duration
from gateway.model.text import plural


def state_summary(loaded: Loaded) -> Iterator[str]:
    """What is shared with the other replicas; nothing where no state is configured."""
    state = loaded.config.state
    if state is None:
        return
    yield ""
    yield f"state: {display_secret(loaded.masked, 'state', 'url')}"
    yield "  shared        rate_limit, max_in_flight and max_connections hold for all replicas together; sessions; what"
    yield "                operators eject, restore, pause and resume"
    if state.dedupe:
        yield (
            f"  duplicates    of connect and OnCallEvent are found at all replicas; each waits up to "
            f"{format_duration(state.timeout)} for the server"
        )
    else:
        yield "  duplicates    are found within one replica only (dedupe: off)"


def limits_line(status: Json) -> Text | None:
    """This gateway's shares of the limits that hold for a fleet; None where there is no fleet."""
    limits = (status.get("state") or {}).get("limits")
    if limits is None:
        return None
    divisor = limits["divided_by"]
    line = Text("not divided: it is the only replica" if divisor == 1 else f"1/{divisor} of each")
    if limits["degraded"]:
        line = Text.assemble((f"the last shares are kept while the state is away: {line.plain}", "yellow"))
    for share in limits["shares"]:
        unit = "/s" if share["setting"] == "rate_limit" else " in flight"
        line.append(
            f" · {plain(share['app'])}: {share['share']:.4g}{unit}, of {share['limit']:.4g}{unit} for the fleet"
        )
    return line


def state_line(status: Json) -> Text | None:
    """The state in one line, from ``/api/status``; None where none is configured."""
    state = status.get("state")  # a gateway of an earlier version has none
    if state is None:
        return None
    members = plural(state["replicas"], "replica")
    if not state["up"]:
        return Text(f"AWAY: {plain(state['error'])}; hooks are decided without it, {members} as last known", "bold red")
    line = Text(f"up, {members}")
    if state["error"]:
        line.append(f" · slow: {plain(state['error'])}", style="yellow")
    return line
