"""Assembles the subcommands."""

from __future__ import annotations

import os
import sys

import typer

from gateway.cli import inspecting, replaying, sending, serving, watching
from gateway.cli.common import FAILED
from gateway.cli.top import top

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
app.command("replay")(replaying.replay)
app.command("demo")(serving.demo)
app.command("status")(watching.status)
app.command("calls")(watching.calls)
app.command("top")(top)
app.command("schema")(inspecting.schema)
app.command("version")(inspecting.version)


def main() -> None:
    """Run the command line; the exit status is 0, 1 (failed at run time) or 2 (usage or configuration)."""
    _open_standard_streams()
    try:
        app()
        sys.stdout.flush()
    except OSError as exc:  # nobody reads the output, or the disk is full
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        sys.stderr.write(f"gateway: standard output: {(exc.strerror or str(exc)).lower()}\n")
        sys.exit(FAILED)


def _open_standard_streams() -> None:
    """Give a closed standard stream /dev/null, lest its number be taken by a socket that is then written to."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
