"""``gateway replay``: recorded hooks played against a backend, and a report on whether it decides as was recorded."""

from __future__ import annotations

import asyncio
import glob
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gateway.cli.commands.send import check_url, shown_url
from gateway.cli.common import BAD_USAGE, FAILED, fail
from gateway.cli.render import milliseconds, plain
from gateway.model.text import printable
from gateway.policy.comparison import Compare, Difference
from gateway.recording.replay import (
    BODIES_DIFFER,
    MAX_HOOKS,
    Example,
    HookFilter,
    Options,
    Player,
    Recording,
    Report,
    Tally,
    UnreadableError,
)

_INTERRUPTED: Final = 130
_WIDE: Final = 2000
"""Columns where the output is no terminal: nothing is cut or wrapped."""
_MAX_TIMEOUT: Final = 3600.0
_MAX_RATE: Final = 100_000.0
_MAX_CONCURRENCY: Final = 256
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC
_SHOWN: Final = 8
"""Names in a row, and differences of one hook."""
_is_rate = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(?:/s)?", re.ASCII).fullmatch


def replay(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Files of a recording, in any order; globs such as 'hooks.jsonl*'."),
    ],
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The backend's URL, without the method.")],
    rate: Annotated[
        str | None, typer.Option(metavar="N/s", help="So many hooks a second; else as fast as they are answered.")
    ] = None,
    as_recorded: Annotated[bool, typer.Option("--as-recorded", help="As far apart as they were.")] = False,
    concurrency: Annotated[
        int, typer.Option(min=1, max=_MAX_CONCURRENCY, help="Hooks under way at once, of different sessions.")
    ] = 8,
    compare: Annotated[Compare, typer.Option(help="The verdicts, or the answers' bodies too.")] = Compare.VERDICT,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="May differ: a field's name, or its path a.b; can be repeated."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="APP/METHOD", help="Only these; globs, as in 'tenant-*/OnCallEvent'; can be repeated."),
    ] = None,
    all_methods: Annotated[
        bool,
        typer.Option("--all-methods", help="Also connect, events and direct invocations: they may have side effects."),
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for an answer; the media server waits 15.")] = 15.0,
    limit: Annotated[
        int | None, typer.Option(min=1, max=MAX_HOOKS, help="The first N hooks only.", metavar="N")
    ] = None,
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write the report there as JSON; - prints it.")
    ] = None,
) -> None:
    """Play recorded hooks against a backend and compare its answers with those of then.

    The exit status is 0 if it agreed in all of them, 1 if it did not or failed, 2 for wrong usage or files.
    """
    check_url(to)
    if not 0 < timeout <= _MAX_TIMEOUT:
        fail(f"--timeout must be above 0 and at most {_MAX_TIMEOUT:g} seconds", BAD_USAGE)
    if rate is not None and as_recorded:
        fail("--rate and --as-recorded exclude each other", BAD_USAGE)
    options = Options(
        to, _rate(rate), as_recorded, concurrency, compare, frozenset(ignore or ()), timeout
    )  # fmt: skip
    try:
        recording = Recording(_expanded(files), HookFilter(only or (), all_methods=all_methods), limit)
    except UnreadableError as exc:
        fail(printable(str(exc)), BAD_USAGE)
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    try:
        for broken in recording.broken:
            print(f"gateway: {printable(broken.where)}: skipped: {printable(broken.why)}", file=sys.stderr)
        if (more := recording.broken_count - len(recording.broken)) > 0:
            print(f"gateway: and {more} more lines skipped", file=sys.stderr)
        if not len(recording):
            fail(_nothing(recording), BAD_USAGE)
        report, broken_off = _played(recording, options)
    finally:
        recording.close()
    _tell(report, json)
    if broken_off is not None:
        raise typer.Exit(broken_off)
    if not report.agreed:
        raise typer.Exit(FAILED)


def _rate(text: str | None) -> float | None:
    if text is None:
        return None
    found = _is_rate(text)
    if found is None or not 0 < float(found[1]) <= _MAX_RATE:
        fail(f"--rate must be a number such as 50/s, above 0 and at most {_MAX_RATE:g}", BAD_USAGE)
    return float(found[1])


def _expanded(names: Iterable[str]) -> list[str]:
    """The files that are meant: a name that is one is no glob."""
    found: list[str] = []
    for name in names:
        is_plain = not glob.has_magic(name) or os.path.exists(name)
        found += [name] if is_plain else sorted(glob.glob(name)) or [name]
    return found


def _nothing(recording: Recording) -> str:
    why = [f"{count} {name}" for name, count in _few(recording.left_out)]
    if why:
        return f"nothing to play: {', '.join(why)} may have side effects; name them with --only, or --all-methods"
    if recording.not_wanted:
        return f"nothing to play: --only takes none of {recording.not_wanted} hooks"
    return "nothing to play: there is no hook in these files"


def _played(recording: Recording, options: Options) -> tuple[Report, int | None]:
    """Play it, until the end or Ctrl-C; what is known, and the exit status where it was broken off."""
    tally = Tally()
    broken_off = None
    with ExitStack() as stack:
        show = None
        if sys.stderr.isatty():
            show = _progress(stack, len(recording), tally)
        player = Player(recording, options, tally, show)
        try:
            asyncio.run(player.play())
        except KeyboardInterrupt:
            broken_off = _INTERRUPTED
        except UnreadableError as exc:
            print(f"gateway: {printable(str(exc))}", file=sys.stderr)
            broken_off = BAD_USAGE
    report = tally.report(
        shown_url(options.url),
        options.compare,
        len(recording),
        finished=broken_off is None,
        left_out=dict(recording.left_out.most_common()),
        not_wanted=recording.not_wanted,
        beyond_limit=recording.beyond_limit,
        broken_lines=recording.broken_count,
        paced=options.rate is not None or options.as_recorded,
    )
    return report, broken_off


def _progress(stack: ExitStack, hooks: int, tally: Tally) -> Callable[[], None]:
    """Show a bar on standard error; call what is returned after each hook."""
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


def _tell(report: Report, json: str | None) -> None:
    if json is not None:
        data = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
        if json == "-":
            sys.stdout.flush()
            sys.stdout.buffer.write(data)  # UTF-8 (RFC 8259), whatever the terminal takes
            return
        try:
            # Without waiting for somebody who reads, should it be a named pipe.
            with open(os.open(json, _WRITE, 0o666), "wb") as file:
                os.set_blocking(file.fileno(), True)
                file.write(data)
        except (OSError, ValueError) as exc:
            print(f"gateway: {printable(json)}: {getattr(exc, 'strerror', None) or exc}", file=sys.stderr)
            _print(report)
            raise typer.Exit(BAD_USAGE) from exc
    _print(report)


def _print(report: Report) -> None:
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)
    console.print(
        Text(f"played {report.played} of {report.hooks} hooks to {plain(report.to)} in {report.seconds:.1f} s")
    )
    if report.behind_seconds > 1.0:
        console.print(Text(f"it did not keep up: hooks went out up to {report.behind_seconds:.1f} s late"))
    console.print()
    console.print(_counts(report))
    kinds: dict[str, list[Example]] = {}
    for example in report.examples:
        kinds.setdefault(example.kind, []).append(example)
    counts = {**report.disagreements, **report.failures}
    for kind, examples in kinds.items():
        console.print()
        console.print(Text(f"{kind}: {_hooks(counts[kind])}{_paths(report, kind)}", style="bold"))
        for example in examples:
            _print_example(console, example)
    if report.candidate_ms is not None:
        console.print()
        console.print(_latencies(report))
    console.print()
    for hint in _hints(report):
        console.print(Text(hint))
    console.print(_conclusion(report))


def _counts(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    rows = [
        ("agreed", report.agreements, f"of {report.compared} compared by {report.compare}"),
        ("disagreed", sum(report.disagreements.values()), _named(report.disagreements)),
        ("failed", sum(report.failures.values()), _named(report.failures)),
        ("not compared", sum(report.not_compared.values()), f"no backend had decided: {_named(report.not_compared)}"),
        ("left out", sum(report.left_out.values()),
         f"they may have side effects, --all-methods plays them: {_named(report.left_out)}"),
        ("not wanted", report.not_wanted, "by --only"),
        ("beyond limit", report.beyond_limit, "by --limit"),
        ("broken lines", report.broken_lines, "skipped"),
        ("overwritten", report.fields_not_compared,
         "answers: both set a field anew that is a pseudonym in the recording, which cannot be compared"),
    ]  # fmt: skip
    for number, (name, count, why) in enumerate(rows):
        if count or number < 3:
            table.add_row(name, str(count), Text(why if count or not number else ""))
    return table


def _few(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    few = [(plain(name), count) for name, count in list(counts.items())[:_SHOWN]]
    rest = sum(counts.values()) - sum(count for _, count in few)
    return [*few, ("others", rest)] if rest else few


def _named(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in _few(counts))


def _hooks(count: int) -> str:
    return f"{count} hook{'' if count == 1 else 's'}"


def _paths(report: Report, kind: str) -> str:
    return f", in {_named(report.paths)}" if kind == BODIES_DIFFER else ""


def _print_example(console: Console, example: Example) -> None:
    where = f"  {plain(example.where)}  {plain(example.app)} {plain(example.method)}  {plain(example.request_id)}"
    console.print(Text(f"{where}  {plain(example.error)}".rstrip()))
    for difference in example.differences[:_SHOWN]:
        if difference.path != "verdict":
            console.print(Text(f"      {plain(difference.path)}: {_values(difference)}"))
    if (more := len(example.differences) - _SHOWN) > 0:
        console.print(Text(f"      and {more} more"))


def _values(difference: Difference) -> str:
    then, now = ("missing" if value is None else plain(value) for value in (difference.ours, difference.theirs))
    return f"{then} became {now}"


def _hints(report: Report) -> Iterable[str]:
    """What figures and disagreements may come from that are nobody's fault."""
    if report.candidate_ms is not None and not report.paced:
        yield (
            "These latencies are of hooks played as fast as they were answered, waiting for this program included: "
            "--as-recorded or --rate 50/s shows what a caller would notice."
        )
    if report.paths:
        yield "Fields that may differ, such as times, are left out by --ignore FIELD."
    if report.masked and set(report.disagreements) - {BODIES_DIFFER}:
        names = ", ".join(map(plain, report.masked[:_SHOWN]))
        yield (
            f"Pseudonyms stand in the recording for {names}: a backend that decides by particular values decides "
            "otherwise. A recording with mask: [] has them as they were."
        )
    if report.starred and set(report.disagreements) - {BODIES_DIFFER}:
        yield (
            f"Stars stand in the recording of {_hooks(report.starred)} where a field's secret was, a token say, which "
            "is never recorded: a backend that asks for it refuses them."
        )


def _latencies(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("latency of those compared", style="dim", no_wrap=True)
    for name in ("p50", "p95", "p99", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, latency in (("this backend", report.candidate_ms), ("as recorded", report.recorded_ms)):
        if latency is not None:
            table.add_row(name, *map(milliseconds, (latency.p50, latency.p95, latency.p99, latency.max)))
    return table


def _conclusion(report: Report) -> Text:
    if report.agreed:
        return Text("It decides as was recorded.", style="bold green")
    if not report.finished:
        return Text("It was interrupted: what is told is of the hooks that were answered so far.", style="bold yellow")
    if not report.disagreements and not report.failures:
        return Text("Nothing could be compared: no backend had decided any of these hooks.", style="bold yellow")
    return Text("It does NOT decide as was recorded.", style="bold red")
