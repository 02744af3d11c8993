"""Assembles the subcommands."""

from __future__ import annotations

from gateway.cli.commands import decisions, demo, inspect, replay, send, serve, status
from gateway.cli.common import new_app
from gateway.cli.top import top

app = new_app()
app.command("run")(serve.run)
app.command("check")(inspect.check)
app.command("explain")(inspect.explain)
app.command("send")(send.send)
app.command("replay")(replay.replay)
app.command("demo")(demo.demo)
app.command("status")(status.status)
app.command("decisions")(decisions.decisions)
app.command("top")(top)
app.command("schema")(inspect.schema)
app.command("version")(inspect.version)
