"""``gateway replay``: plays recorded hooks against a backend and reports whether it decides as recorded."""

from __future__ import annotations

import asyncio
import glob
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gateway.cli.commands.send import check_url, printable_url
from gateway.cli.common import BAD_USAGE, FAILED, fail
from gateway.cli.render_replay import is_delivered, print_report, top_counts
from gateway.model.hooks import MethodType
from gateway.model.text import printable
from gateway.policy.comparison import Compare
from gateway.recording.replay import (
    MAX_HOOKS,
    HookFilter,
    Options,
    Player,
    Recording,
    Report,
    Tally,
    UnreadableError,
)

_INTERRUPTED: Final = 130
_MAX_TIMEOUT: Final = 3600.0
_MAX_RATE: Final = 100_000.0
_MAX_CONCURRENCY: Final = 256
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC
_is_rate = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(?:/s)?", re.ASCII).fullmatch


def replay(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Files of a recording, in any order; globs such as 'hooks.jsonl*'."),
    ],
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The backend's URL, without the method.")],
    rate: Annotated[
        str | None, typer.Option(metavar="N/s", help="Hooks per second (default: as fast as possible).")
    ] = None,
    as_recorded: Annotated[
        bool, typer.Option("--as-recorded", help="Keep the recorded intervals between hooks.")
    ] = False,
    concurrency: Annotated[
        int, typer.Option(min=1, max=_MAX_CONCURRENCY, help="Hooks in flight at the same time, of different sessions.")
    ] = 8,
    compare: Annotated[
        Compare, typer.Option(help="What to compare: verdicts, or the bodies of answers too.")
    ] = Compare.VERDICT,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="A field that may differ: its name or its path a.b; can be repeated."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="APP/METHOD|failed",
            help="Only these hooks: globs such as 'tenant-*/OnCallEvent', or failed (no backend decided them); can be "
            "repeated.",
        ),
    ] = None,
    methods: Annotated[
        list[MethodType] | None,
        typer.Option("--methods", help="Only methods of this type, which may have side effects; can be repeated."),
    ] = None,
    all_methods: Annotated[
        bool,
        typer.Option(
            "--all-methods", help="Also play connect, events and direct methods, which may have side effects."
        ),
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer; the media server waits 15.")] = 15.0,
    limit: Annotated[
        int | None, typer.Option(min=1, max=MAX_HOOKS, help="Only the first N hooks.", metavar="N")
    ] = None,
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write the report as JSON to this file; - prints it.")
    ] = None,
) -> None:
    """Play recorded hooks against a backend. Compares its answers with the recorded ones.

    --only failed --methods event delivers the events that a backend missed while it was down.

    Exit status: 0 if all answers agree (with --only failed: if all are answered), 1 if any differ or fail, 2 for wrong
    usage or unusable files.
    """
    check_url(to)
    if not 0 < timeout <= _MAX_TIMEOUT:
        fail(f"--timeout must be above 0 and at most {_MAX_TIMEOUT:g} seconds", BAD_USAGE)
    if rate is not None and as_recorded:
        fail("use either --rate or --as-recorded, not both", BAD_USAGE)
    options = Options(
        url=to, rate=_parse_rate(rate), as_recorded=as_recorded, concurrency=concurrency, compare=compare,
        ignore=frozenset(ignore or ()), timeout=timeout,
    )  # fmt: skip
    try:
        hook_filter = HookFilter(only or (), types=methods or (), all_methods=all_methods)
        recording = Recording(_expand(files), hook_filter, limit)
    except UnreadableError as exc:
        fail(printable(str(exc)), BAD_USAGE)
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    try:
        for broken in recording.broken:
            print(f"gateway: {printable(broken.where)}: skipped: {printable(broken.reason)}", file=sys.stderr)
        if (more := recording.broken_count - len(recording.broken)) > 0:
            print(f"gateway: and {more} more lines skipped", file=sys.stderr)
        if not len(recording):
            fail(_nothing_to_play(recording), BAD_USAGE)
        report, interrupted = _play(recording, options)
    finally:
        recording.close()
    _write_report(report, json, delivers=hook_filter.only_failed)
    if interrupted is not None:
        raise typer.Exit(interrupted)
    if not (is_delivered(report) if hook_filter.only_failed else report.agreed):
        raise typer.Exit(FAILED)


def _parse_rate(text: str | None) -> float | None:
    if text is None:
        return None
    found = _is_rate(text)
    if found is None or not 0 < float(found[1]) <= _MAX_RATE:
        fail(f"--rate must be a number such as 50/s, above 0 and at most {_MAX_RATE:g}", BAD_USAGE)
    return float(found[1])


def _expand(names: Iterable[str]) -> list[str]:
    """The files that names and globs select; a name of an existing file is not a glob."""
    found: list[str] = []
    for name in names:
        is_plain = not glob.has_magic(name) or os.path.exists(name)
        found += [name] if is_plain else sorted(glob.glob(name)) or [name]
    return found


def _nothing_to_play(recording: Recording) -> str:
    methods = [f"{count} {name}" for name, count in top_counts(recording.left_out)]
    if methods:
        return f"nothing to play: {', '.join(methods)} may have side effects; use --only or --all-methods"
    if recording.not_wanted:
        return f"nothing to play: --only and --methods match none of {recording.not_wanted} hooks"
    return "nothing to play: no hooks in these files"


def _play(recording: Recording, options: Options) -> tuple[Report, int | None]:
    """Play until the end or Ctrl-C. Returns the report, and the exit status if it was interrupted."""
    tally = Tally()
    interrupted = None
    with ExitStack() as stack:
        show = None
        if sys.stderr.isatty():
            show = _progress(stack, len(recording), tally)
        player = Player(recording, options, tally, show)
        try:
            asyncio.run(player.play())
        except KeyboardInterrupt:
            interrupted = _INTERRUPTED
        except UnreadableError as exc:
            print(f"gateway: {printable(str(exc))}", file=sys.stderr)
            interrupted = BAD_USAGE
    report = tally.report(
        printable_url(options.url),
        options.compare,
        len(recording),
        finished=interrupted is None,
        left_out=dict(recording.left_out.most_common()),
        not_wanted=recording.not_wanted,
        beyond_limit=recording.beyond_limit,
        broken_lines=recording.broken_count,
        paced=options.rate is not None or options.as_recorded,
    )
    return report, interrupted


def _progress(stack: ExitStack, hooks: int, tally: Tally) -> Callable[[], None]:
    """Show a progress bar on standard error; the function returned is to be called after each hook."""
    columns = (
        TextColumn("replay"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[disagreed]} disagreed, {task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    progress = stack.enter_context(Progress(*columns, console=Console(stderr=True)))
    task = progress.add_task("", total=hooks, disagreed=0, failed=0)
    return lambda: progress.update(task, advance=1, disagreed=tally.disagreed, failed=tally.failed)


# --- the report ---


def _write_report(report: Report, json: str | None, *, delivers: bool) -> None:
    if json is not None:
        data = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
        if json == "-":
            sys.stdout.flush()
            sys.stdout.buffer.write(data)  # always UTF-8 (RFC 8259)
            return
        try:
            # Does not wait for a reader if the file is a named pipe.
            with open(os.open(json, _WRITE, 0o666), "wb") as file:
                os.set_blocking(file.fileno(), True)
                file.write(data)
        except (OSError, ValueError) as exc:
            print(f"gateway: {printable(json)}: {getattr(exc, 'strerror', None) or exc}", file=sys.stderr)
            print_report(report, delivers=delivers)
            raise typer.Exit(BAD_USAGE) from exc
    print_report(report, delivers=delivers)
