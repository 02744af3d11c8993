"""``gateway fleet``: the gateways that work as one, and who of them is behind."""

from __future__ import annotations

import json

from rich.text import Text

from gateway.cli import render, render_fleet
from gateway.cli.client import AdminOption, JsonOption, TokenOption, WatchedConfig, gateway_at
from gateway.cli.common import fail
from gateway.cli.render import plain


def fleet(
    admin: AdminOption = None, token_file: TokenOption = None, config: WatchedConfig = None, as_json: JsonOption = False
) -> None:
    """List the gateways of the fleet, as one of them sees it: what runs, who is behind or silent, orders in force."""
    with gateway_at(admin, token_file, config) as gateway:
        found = gateway.get_or_fail("/api/fleet")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found["configured"]:
        fail("no state is configured: this gateway knows no others; see docs/fleet.md")
    console = render.console()
    console.print(render_fleet.headline(found["replicas"]))
    state = found["state"]
    if not state["up"]:
        words = (
            f"the state {plain(state['url'])} is down here: {plain(state['error'])}; the list is what was known last"
        )
        console.print(Text(words, style="bold red"))
    console.print(render_fleet.replicas_table(found["replicas"]))
    for line in render_fleet.missing(found["replicas"]):
        console.print(Text(line, style="red"))
    for text in render_fleet.order_lines(found["orders"], found["more_orders"]):
        console.print(text)
