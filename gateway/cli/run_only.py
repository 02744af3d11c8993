"""``gateway run`` alone, for a process that only serves."""

from __future__ import annotations

from gateway.cli.commands import serve
from gateway.cli.common import new_app

app = new_app()
app.callback()(lambda: None)  # otherwise typer makes a single command the program itself
app.command("run")(serve.run)
