"""Assembles the subcommands."""

from __future__ import annotations

from gateway.cli.commands import demo, inspect, replay, send, serve, watch
from gateway.cli.common import new_app
from gateway.cli.top import top

app = new_app()
app.command("run")(serve.run)
app.command("check")(inspect.check)
app.command("explain")(inspect.explain)
app.command("send")(send.send)
app.command("replay")(replay.replay)
app.command("demo")(demo.demo)
app.command("status")(watch.status)
app.command("calls")(watch.calls)
app.command("top")(top)
app.command("schema")(inspect.schema)
app.command("version")(inspect.version)
