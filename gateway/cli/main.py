"""The command line with all subcommands."""

from __future__ import annotations

from gateway.cli.commands import check, decisions, demo, explain, fleet, info, replay, send, serve, spool, status, store
from gateway.cli.common import new_app
from gateway.cli.top import top

app = new_app()
app.command("run")(serve.run)
app.command("check")(check.check)
app.command("explain")(explain.explain)
app.command("send")(send.send)
app.command("replay")(replay.replay)
app.command("demo")(demo.demo)
app.command("status")(status.status)
app.command("decisions")(decisions.decisions)
app.command("top")(top)
app.command("fleet")(fleet.fleet)
app.command("schema")(info.schema)
app.command("version")(info.version)
app.add_typer(spool.app, name="spool")
app.add_typer(store.app, name="store")
