"""``gateway run`` by itself, for a process that is to serve and nothing else."""

from __future__ import annotations

from gateway.cli import serving
from gateway.cli.common import new_app

app = new_app()
app.callback()(lambda: None)  # else the one command would be the program itself
app.command("run")(serving.run)
