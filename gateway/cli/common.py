"""What every subcommand shares: the -c option, exit statuses, and how a user's mistake is told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from gateway.config import ConfigError, Loaded
from gateway.proving import load

FAILED: Final = 1
"""Exit status: it could not be done."""
BAD_USAGE: Final = 2
"""Exit status: wrong usage or a wrong configuration."""

ConfigOption = Annotated[
    Path, typer.Option("-c", "--config", metavar="FILE", help="The configuration file.", show_default=True)
]
DEFAULT_CONFIG: Final = Path("gateway.yaml")

HookFile = Annotated[str, typer.Argument(metavar="FILE|-", help="A hook's JSON body; - reads standard input.")]
MethodOption = Annotated[
    str, typer.Option("--method", "-m", metavar="METHOD", help="The REST method, the last segment of the hook's path.")
]


def new_app() -> typer.Typer:
    """The command line without its commands."""
    return typer.Typer(
        name="gateway",
        help="A gateway between Flashphoner Web Call Server and the web backends that decide its calls.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def fail(message: str, status: int = FAILED) -> NoReturn:
    """Say what went wrong on standard error and end."""
    print(f"gateway: {message}", file=sys.stderr)
    raise typer.Exit(status)


def load_or_fail(path: Path) -> Loaded:
    """The configuration; every problem printed and exit status 2 where it has any."""
    try:
        return load(path)
    except ConfigError as exc:
        for problem in exc.problems:
            print(problem, file=sys.stderr)
        raise typer.Exit(BAD_USAGE) from exc


def read_hook_file(name: str) -> bytes:
    """The bytes of a hook's file, or of standard input."""
    try:
        if name == "-" and sys.stdin is None:
            fail("standard input is closed", BAD_USAGE)
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as exc:
        fail(f"{name}: {exc.strerror or exc}", BAD_USAGE)
