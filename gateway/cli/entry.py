"""Where the command line begins. A gateway that serves carries none of the other commands with it."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module

import typer

from gateway.cli.common import FAILED


def main() -> None:
    """Run the command line; the exit status is 0, 1 (failed at run time) or 2 (usage or configuration)."""
    _open_standard_streams()
    try:
        _app()()
        sys.stdout.flush()
    except OSError as exc:  # nobody reads the output, or the disk is full
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        sys.stderr.write(f"gateway: standard output: {(exc.strerror or str(exc)).lower()}\n")
        sys.exit(FAILED)


def _app() -> typer.Typer:
    """All commands, or the one that serves: the others' tables, bars and replays take 3 MB, which it would keep."""
    name = "run_only" if sys.argv[1:2] == ["run"] else "main"
    app: typer.Typer = import_module(f"gateway.cli.{name}").app
    return app


def _open_standard_streams() -> None:
    """Give a closed standard stream /dev/null, lest its number be taken by a socket that is then written to."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # workers have it too
    # Python has left out what was closed when it began; standard input stays so, for nothing can be read from it.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the end
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a dash shows a question mark
