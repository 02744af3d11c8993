"""The start of the command line. ``gateway run`` does not load the other commands."""

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
    except OSError as exc:  # the reader is gone, or the disk is full
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        sys.stderr.write(f"gateway: standard output: {(exc.strerror or str(exc)).lower()}\n")
        sys.exit(FAILED)


def _app() -> typer.Typer:
    """The command line; for ``run`` with that command alone, because the others take 3 MB of memory."""
    name = "run_only" if sys.argv[1:2] == ["run"] else "main"
    app: typer.Typer = import_module(f"gateway.cli.{name}").app
    return app


def _open_standard_streams() -> None:
    """Open /dev/null for closed standard streams. Otherwise a socket could get their descriptor and be written to."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # workers inherit it
    # Python sets closed streams to None at start. Standard input stays None, because there is nothing to read.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the end
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without a character shows ?
