"""``gateway run`` by itself, for a process that is to serve and nothing else."""

from __future__ import annotations

from gateway.cli.commands import serve
from gateway.cli.common import new_app

app = new_app()
app.callback()(lambda: None)  # else the one command would be the program itself
app.command("run")(serve.run)
