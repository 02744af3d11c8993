"""Assembles the subcommands."""

from __future__ import annotations

from gateway.cli import demoing, inspecting, replaying, sending, serving, watching
from gateway.cli.common import new_app
from gateway.cli.top import top

app = new_app()
app.command("run")(serving.run)
app.command("check")(inspecting.check)
app.command("explain")(inspecting.explain)
app.command("send")(sending.send)
app.command("replay")(replaying.replay)
app.command("demo")(demoing.demo)
app.command("status")(watching.status)
app.command("calls")(watching.calls)
app.command("top")(top)
app.command("schema")(inspecting.schema)
app.command("version")(inspecting.version)
