"""What every subcommand shares: the -c option, exit statuses, and how a user's mistake is told."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import httpx
import typer

from gateway.admin.dry_run import load
from gateway.config import ConfigError, Loaded
from gateway.config.sections.addresses import is_host
from gateway.model.text import printable

FAILED: Final = 1
"""Exit status: it could not be done."""
BAD_USAGE: Final = 2
"""Exit status: wrong usage or a wrong configuration."""

_MAX_HOOK: Final = 64 * 2**20
"""Bytes of a hook's file: server.max_body can be no larger."""
_FIRST: Final = 64 * 1024

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


def is_usable(url: httpx.URL) -> bool:
    """Whether a request can be sent there; raises ValueError for a host that only looks like a name."""
    host = url.raw_host.decode("ascii", "replace").partition("%")[0].removesuffix(".")
    # Read as people write it, a name that begins with xn-- is decoded, if it can be.
    return url.scheme in ("http", "https") and bool(url.host) and is_host(host) and 0 < (url.port or 80) < 65536


def read_hook_file(name: str) -> bytes:
    """The bytes of a hook's file, or of standard input."""
    if name == "-" and sys.stdin is None:
        fail("standard input is closed", BAD_USAGE)
    try:
        data = sys.stdin.buffer.read(_MAX_HOOK + 1) if name == "-" else _read(name)
    except (OSError, ValueError) as exc:
        fail(f"{printable(name)}: {getattr(exc, 'strerror', None) or exc}", BAD_USAGE)
    if len(data) > _MAX_HOOK:
        fail(f"{printable(name)}: is larger than {_MAX_HOOK >> 20} MiB, which no hook is", BAD_USAGE)
    return data


def _read(name: str) -> bytes:
    """A file's bytes, or those of a pipe that somebody writes to: never without end, nor waiting for nobody."""
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            data: bytes | None = file.read(_MAX_HOOK + 1)
            if data is None:  # some files of /proc wait as a pipe does
                raise OSError(errno.EAGAIN, "nothing can be read from it now")
            return data
        if not stat.S_ISFIFO(mode):
            raise OSError(errno.EINVAL, "is a directory" if stat.S_ISDIR(mode) else "is neither a file nor a pipe")
        try:
            first = os.read(fd, _FIRST)
        except BlockingIOError:
            first = None  # somebody is about to write
        if first == b"":
            raise OSError(errno.EPIPE, "is a pipe to which nobody writes")
        os.set_blocking(fd, True)
        return (first or b"") + file.read(_MAX_HOOK + 1)
