"""What the subcommands share: the -c option, exit statuses, error messages, reading a hook's file."""

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
"""Exit status: failed at run time."""
BAD_USAGE: Final = 2
"""Exit status: wrong usage or configuration."""

_MAX_HOOK: Final = 64 * 2**20
"""Bytes of a hook's file; the largest possible server.max_body."""
_FIRST: Final = 64 * 1024

ConfigOption = Annotated[
    Path, typer.Option("-c", "--config", metavar="FILE", help="The configuration file.", show_default=True)
]
DEFAULT_CONFIG: Final = Path("gateway.yaml")

HookFile = Annotated[
    str, typer.Argument(metavar="FILE|-", help="File with a hook's JSON body; - reads standard input.")
]
MethodOption = Annotated[
    str, typer.Option("--method", "-m", metavar="METHOD", help="REST method: the last segment of the hook's path.")
]


def new_app() -> typer.Typer:
    """A command line without commands."""
    return typer.Typer(
        name="gateway",
        help="A gateway between Flashphoner Web Call Server and the web backends that answer its REST hooks.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def fail(message: str, status: int = FAILED) -> NoReturn:
    """Print an error on standard error and end with this exit status."""
    print(f"gateway: {message}", file=sys.stderr)
    raise typer.Exit(status)


def load_or_fail(path: Path) -> Loaded:
    """The configuration; if it has errors, all are printed and the exit status is 2."""
    try:
        return load(path)
    except ConfigError as exc:
        for problem in exc.problems:
            print(problem, file=sys.stderr)
        raise typer.Exit(BAD_USAGE) from exc


def is_usable(url: httpx.URL) -> bool:
    """Whether a request can be sent to the URL. Raises ValueError for an invalid host name."""
    host = url.raw_host.decode("ascii", "replace").partition("%")[0].removesuffix(".")
    # url.host would decode a name that begins with xn--.
    return url.scheme in ("http", "https") and bool(url.host) and is_host(host) and 0 < (url.port or 80) < 65536


def read_hook_file(name: str) -> bytes:
    """The bytes of a hook's file, or of standard input. An unreadable file ends the program with exit status 2."""
    if name == "-" and sys.stdin is None:
        fail("standard input is closed", BAD_USAGE)
    try:
        data = sys.stdin.buffer.read(_MAX_HOOK + 1) if name == "-" else _read(name)
    except (OSError, ValueError) as exc:
        fail(f"{printable(name)}: {getattr(exc, 'strerror', None) or exc}", BAD_USAGE)
    if len(data) > _MAX_HOOK:
        fail(f"{printable(name)}: is larger than {_MAX_HOOK >> 20} MiB, the maximum for a hook", BAD_USAGE)
    return data


def _read(name: str) -> bytes:
    """The bytes of a file, or of a pipe with a writer; bounded, and never waiting for a writer."""
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            data: bytes | None = file.read(_MAX_HOOK + 1)
            if data is None:  # some files in /proc block like a pipe
                raise OSError(errno.EAGAIN, "no data to read")
            return data
        if not stat.S_ISFIFO(mode):
            raise OSError(errno.EINVAL, "is a directory" if stat.S_ISDIR(mode) else "is neither a file nor a pipe")
        try:
            first = os.read(fd, _FIRST)
        except BlockingIOError:
            first = None  # there is a writer, but no data yet
        if first == b"":
            raise OSError(errno.EPIPE, "is a pipe without a writer")
        os.set_blocking(fd, True)
        return (first or b"") + file.read(_MAX_HOOK + 1)
