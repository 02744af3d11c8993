"""Assembles the subcommands."""

from __future__ import annotations

import typer

from gateway.cli import inspecting, sending, serving

app = typer.Typer(
    name="gateway",
    help="A gateway between Flashphoner Web Call Server and the web backends that decide its calls.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(serving.run)
app.command("check")(inspecting.check)
app.command("explain")(inspecting.explain)
app.command("send")(sending.send)
app.command("demo")(serving.demo)
app.command("schema")(inspecting.schema)
app.command("version")(inspecting.version)


def main() -> None:
    """Run the command line; the exit status is 0, 1 (failed at run time) or 2 (usage or configuration)."""
    app()
