"""``gateway store``: checks, prunes, backs up and restores the configured store, and forgets a person's number.

These commands open the store themselves, whether a gateway runs or not. What needs SQLAlchemy is loaded by name, and
only where a store is configured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from gateway.cli import render
from gateway.cli.client import JsonOption
from gateway.cli.common import BAD_USAGE, DEFAULT_CONFIG, FAILED, ConfigOption, fail, load_or_fail
from gateway.cli.render import UNKNOWN, plain
from gateway.cli.render_spool import moment, size
from gateway.config import Config
from gateway.model.text import plural, printable
from gateway.store.numbers import normalize_number

app = typer.Typer(
    help="Check, prune, back up and restore the configured store; forget a person's number.",
    no_args_is_help=True,
)

BackupFile = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.", show_default=False)]


@contextmanager
def _errors() -> Iterator[None]:
    """What is wrong with the store ends the program with a message."""
    error: type[Exception] = import_module("gateway.store.engine").StoreError
    try:
        yield
    except error as exc:
        fail(printable(str(exc)))
    except OSError as exc:  # of a file that the user named
        name = "" if exc.filename is None else f"{printable(str(exc.filename))}: "
        fail(f"{name}{(exc.strerror or str(exc)).lower()}")


def _configured(path: Path) -> tuple[Config, str]:
    """The configuration, and the URL of its store."""
    config = load_or_fail(path).config
    if config.store is None:
        fail(f"{printable(str(path))}: no store is configured; see store in the configuration reference", BAD_USAGE)
    return config, config.store.url.get_secret_value()


def _maintenance() -> Any:
    return import_module("gateway.store.maintenance")


@app.command()
def check(
    config: ConfigOption = DEFAULT_CONFIG,
    move_aside: Annotated[
        bool,
        typer.Option(
            "--move-aside", help="Rename damaged SQLite files, so that the next start makes new ones; gateway stopped."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Read the whole store: is it sound, how large is it, how far back does it go. Exit status 1 if it is not sound."""
    _, url = _configured(config)
    with _errors():
        found = _maintenance().check(url)
        damaged = [part for part in found.parts if part.problems]
        moved: list[str] = []
        if move_aside:
            part_of = import_module("gateway.store.engine").Part
            for part in damaged:
                moved += _maintenance().move_aside(url, part_of(part.part))
    if as_json:
        print(json.dumps({**msgspec.to_builtins(found), "sound": found.is_sound, "moved": moved}, indent=2))
    else:
        _print_check(found)
        for name in moved:
            print(f"moved aside: {printable(name)}")
        if move_aside and not damaged:
            print("nothing was moved aside: nothing is damaged")
    if damaged and not moved:
        raise typer.Exit(FAILED)


def _print_check(found: Any) -> None:
    console = render.console()
    table = Table(box=None, pad_edge=False, expand=False, header_style="dim")
    for name in ("part", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("entries", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("oldest", "schema", "place"):
        table.add_column(name, no_wrap=True)
    for part in found.parts:
        table.add_row(
            part.part,
            Text("DAMAGED", "bold red") if part.problems else Text("sound", "green"),
            UNKNOWN if part.rows is None else f"{part.rows:,}",
            size(part.size),
            moment(part.oldest),
            UNKNOWN if part.schema is None else str(part.schema),
            plain(part.place),
        )
    console.print(table)
    for part in found.parts:
        for problem in part.problems:
            console.print(Text(f"{part.part}: {plain(problem)}", "red"), soft_wrap=True)
    if found.is_held:
        console.print(Text("a running gateway uses it", "dim"))


@app.command()
def prune(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Drop events and decisions that are too old, and give free room back to the file system.

    A running gateway does so by itself.
    """
    loaded, url = _configured(config)
    maintain = None
    if loaded.history is not None:
        maintain = import_module("gateway.store.history").History(loaded.history, loaded.log.mask).maintain
    with _errors():
        pruned = _maintenance().prune(url, frozenset(loaded.apps), maintain)
    if as_json:
        print(json.dumps(msgspec.to_builtins(pruned), indent=2))
        return
    print(f"{plural(pruned.events, 'event')} dropped, {size(pruned.bytes)} given back")
    if pruned.is_spool_left_out:
        _note("a running gateway owns the spool: it drops what is too old by itself")


@app.command()
def backup(file: BackupFile, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Write a consistent copy of spool and history to FILE, also while the gateway runs."""
    _, url = _configured(config)
    if file.exists():
        fail(f"{printable(str(file))}: exists already; nothing was written", BAD_USAGE)
    if not file.absolute().parent.is_dir():
        fail(f"{printable(str(file))}: its folder does not exist", BAD_USAGE)
    with _errors():
        done = _maintenance().backup(url, file)
    if as_json:
        print(json.dumps(msgspec.to_builtins(done), indent=2))
        return
    print(f"{printable(done.file)}: {size(done.bytes)}, {_contents(done)}")


@app.command()
def restore(
    file: BackupFile,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Put a backup in the place of spool and history. The gateway must be stopped; the files before are kept."""
    _, url = _configured(config)
    if not file.is_file():
        fail(f"{printable(str(file))}: {'is no file' if file.exists() else 'not found'}", BAD_USAGE)
    if not yes:
        if not sys.stdin.isatty():
            fail("store restore replaces spool and history: confirm with --yes", BAD_USAGE)
        if not typer.confirm("Replace spool and history? Events delivered since are delivered again.", err=True):
            fail("nothing was restored")
    with _errors():
        done = _maintenance().restore(url, file)
    if as_json:
        print(json.dumps(msgspec.to_builtins(done), indent=2))
        return
    print(f"restored: {_contents(done)}, as of {moment(done.time)}")
    for name in done.moved:
        print(f"kept: {printable(name)}")


def _contents(report: Any) -> str:
    return f"{plural(report.events, 'event')} and {plural(report.decisions, 'decision')}"


@app.command()
def forget(
    caller: Annotated[str | None, typer.Option(metavar="NUMBER", help="The whole number.")] = None,
    callee: Annotated[str | None, typer.Option(metavar="NUMBER", help="The same: both roles are meant.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Remove a person's number from the history, as caller and as callee, with bodies that contain it.

    The decisions stay without it. Log, recordings, backups and events that wait are not changed.
    """
    numbers = [number for number in (caller, callee) if number is not None]
    if not numbers:
        fail("store forget: name the number: --caller NUMBER", BAD_USAGE)
    for number in numbers:
        if not normalize_number(number):
            fail(f"{printable(number)}: is not a phone number", BAD_USAGE)
    loaded, url = _configured(config)
    history = loaded.history
    if history is None:
        fail(f"{printable(str(config))}: history is not configured: numbers are found with history.key", BAD_USAGE)
    forgotten = 0
    with _errors():
        for number in numbers:
            forgotten += import_module("gateway.store.forgetting").forget_number(url, history, loaded.log.mask, number)
    if as_json:
        print(json.dumps({"decisions": forgotten}))
        return
    print(f"removed from {plural(forgotten, 'decision')}")
    _note("log, recordings, backups and events that wait still have it, if they had it")


def _note(message: str) -> None:
    print(f"gateway: {message}", file=sys.stderr)
