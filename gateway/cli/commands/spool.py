"""``gateway spool``: the events that are kept for later delivery, and what an operator does about them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, Final

import typer

from gateway.cli import render, render_spool
from gateway.cli.client import (
    AdminOption,
    Gateway,
    JsonOption,
    Parameter,
    TokenOption,
    WatchedConfig,
    gateway_at,
)
from gateway.cli.common import BAD_USAGE, FAILED, fail
from gateway.cli.render import Json
from gateway.model.text import plural, printable

app = typer.Typer(
    help="Show the events kept for later delivery, and retry, drop, export or pause them.", no_args_is_help=True
)

_PAGE: Final = 1000
"""Events in one answer, at most."""
_MAX_LIMIT: Final = 1_000_000
_RATE_AFTER: Final = 1.0
"""Seconds between two readings: their difference is the rate."""
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

AppOption = Annotated[str | None, typer.Option("--app", metavar="APP", help="Only events of this app.")]
UpstreamOption = Annotated[
    str | None, typer.Option("--upstream", metavar="UPSTREAM", help="Only events that were for this upstream.")
]
EventMethodOption = Annotated[
    str | None, typer.Option("--method", "-m", metavar="METHOD", help="Only events of this REST method.")
]
CallOption = Annotated[str | None, typer.Option("--call-id", metavar="ID", help="Only events of this SIP call.")]
DeadOption = Annotated[
    bool | None, typer.Option("--dead/--waiting", help="Only dead letters; only those that wait.", show_default=False)
]
IdsArgument = Annotated[
    list[int] | None, typer.Argument(metavar="ID…", help="Only these events, by their ids.", show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="Everything that is kept.")]


@dataclass(frozen=True)
class _Filters:
    """The events that a command is for."""

    app: str | None = None
    upstream: str | None = None
    method: str | None = None
    call_id: str | None = None
    dead: bool | None = None
    ids: tuple[int, ...] = ()

    def parameters(self) -> dict[str, Parameter]:
        """As a query has them."""
        return {
            "app": self.app,
            "upstream": self.upstream,
            "method": self.method,
            "call_id": self.call_id,
            "dead": None if self.dead is None else int(self.dead),
            "id": list(self.ids) or None,
        }

    @property
    def chooses(self) -> bool:
        """Whether they choose some of the events; those that wait are nearly all."""
        return bool(self.app or self.upstream or self.method or self.call_id or self.dead or self.ids)


@app.command()
def status(
    admin: AdminOption = None, token_file: TokenOption = None, config: WatchedConfig = None, as_json: JsonOption = False
) -> None:
    """Show how many events wait, for whom, since when, and when they will be delivered."""
    with gateway_at(admin, token_file, config) as gateway:
        seen = read_spool(gateway)
    if as_json:
        print(json.dumps(seen, indent=2))
    else:
        console = render.console()
        for part in render_spool.status(seen):
            console.print(part)
    if seen["store"]["configured"] and not seen["store"]["up"]:
        raise typer.Exit(FAILED)


def read_spool(gateway: Gateway) -> Json:
    """The state of the spool, with rates: an answer without them is asked for once more."""
    with gateway.or_fail():
        seen: Json = gateway.search("/api/spool")
        if seen["events"] and seen["change_per_second"] is None:
            time.sleep(_RATE_AFTER)
            seen = gateway.search("/api/spool")
    return seen


@app.command("list")
def list_events(
    app: AppOption = None,
    upstream: UpstreamOption = None,
    method: EventMethodOption = None,
    call_id: CallOption = None,
    dead: DeadOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=_MAX_LIMIT, help="Maximum number of events.")] = 100,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    config: WatchedConfig = None,
    as_json: JsonOption = False,
) -> None:
    """List kept events, the oldest first. Numbers and bodies are not shown."""
    filters = _Filters(app=app, upstream=upstream, method=method, call_id=call_id, dead=dead)
    console = render.console()
    with gateway_at(admin, token_file, config) as gateway:
        shown, is_cut = 0, False
        for event, is_followed in _events(gateway, filters, limit):
            shown += 1
            is_cut = is_followed
            if as_json:
                print(json.dumps(event))
            else:
                console.print(render_spool.event_line(event), soft_wrap=True)
        sys.stdout.flush()
        if not shown:
            _note("no kept event matches" if filters != _Filters() else "no event is kept")
        elif is_cut:
            _note(f"there are more: these are the first {plural(shown, 'event')}; use filters or --limit")


def _events(gateway: Gateway, filters: _Filters, limit: int) -> Iterator[tuple[Json, bool]]:
    """At most *limit* events, and with each whether there are more after it."""
    left, cursor = limit, None
    while True:
        with gateway.or_fail():
            page = gateway.search("/api/spool/events", **filters.parameters(), limit=min(left, _PAGE), cursor=cursor)
        cursor = page["next"]
        for number, event in enumerate(page["events"], 1):
            yield event, cursor is not None or number < len(page["events"])
        left -= len(page["events"])
        if cursor is None or left <= 0:
            return


@app.command()
def show(
    event_id: Annotated[int, typer.Argument(metavar="ID", min=1, help="The event's id, as spool list shows it.")],
    unmasked: Annotated[
        bool, typer.Option("--unmasked", help="Show numbers and body as they came; needs the token, if one is set.")
    ] = False,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    config: WatchedConfig = None,
    as_json: JsonOption = False,
) -> None:
    """Show one kept event with its header fields and its body."""
    with gateway_at(admin, token_file, config) as gateway, gateway.or_fail():
        event = gateway.search(f"/api/spool/events/{event_id}", unmasked=1 if unmasked else None)
    if as_json:
        print(json.dumps(event, indent=2))
        return
    console = render.console()
    for line in render_spool.event_details(event):
        console.print(line, soft_wrap=True)


@app.command()
def retry(
    ids: IdsArgument = None,
    app: AppOption = None,
    upstream: UpstreamOption = None,
    method: EventMethodOption = None,
    call_id: CallOption = None,
    dead: DeadOption = None,
    everything: AllOption = False,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    config: WatchedConfig = None,
    as_json: JsonOption = False,
) -> None:
    """Try events again now, dead letters too: these get all their attempts again."""
    filters = _Filters(app=app, upstream=upstream, method=method, call_id=call_id, dead=dead, ids=tuple(ids or ()))
    _check_choice(filters, everything, "retry")
    with gateway_at(admin, token_file, config) as gateway:
        events = _act(gateway, "/api/spool/retry", filters, everything)
    _report(events, "retried now", as_json=as_json)


@app.command()
def drop(
    ids: IdsArgument = None,
    app: AppOption = None,
    upstream: UpstreamOption = None,
    method: EventMethodOption = None,
    call_id: CallOption = None,
    dead: DeadOption = None,
    everything: AllOption = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    config: WatchedConfig = None,
    as_json: JsonOption = False,
) -> None:
    """Delete events without delivering them. Asks first."""
    filters = _Filters(app=app, upstream=upstream, method=method, call_id=call_id, dead=dead, ids=tuple(ids or ()))
    _check_choice(filters, everything, "drop")
    with gateway_at(admin, token_file, config) as gateway:
        if not yes and not _confirm(gateway, filters):
            fail("nothing was dropped")
        events = _act(gateway, "/api/spool/drop", filters, everything)
    _report(events, "dropped", as_json=as_json)


def _check_choice(filters: _Filters, everything: bool, command: str) -> None:
    if filters.chooses and everything:
        fail("use either --all or filters, not both", BAD_USAGE)
    if not filters.chooses and not everything:
        fail(
            f"spool {command}: say which events: ids, --app, --upstream, --method, --call-id or --dead; --all for all",
            BAD_USAGE,
        )


def _confirm(gateway: Gateway, filters: _Filters) -> bool:
    """Whether a person at the terminal wants that. Ends the program where there is none."""
    if not sys.stdin.isatty():
        fail("spool drop deletes events without delivering them: confirm with --yes", BAD_USAGE)
    with gateway.or_fail():
        page = gateway.search("/api/spool/events", **filters.parameters(), limit=_PAGE)
    found = len(page["events"])
    if not found:
        fail("no kept event matches")
    count = plural(found, "event") if page["next"] is None else f"more than {found:,} events"
    return typer.confirm(f"Delete {count} without delivering {'it' if found == 1 else 'them'}?", err=True)


def _act(gateway: Gateway, path: str, filters: _Filters, everything: bool) -> int:
    """Carry out an action on all events that match, in as many requests as it takes."""
    events = 0
    cursor: int | None = None
    while True:
        with gateway.or_fail():
            done = gateway.post(path, **filters.parameters(), all=1 if everything else None, cursor=cursor)
        events += int(done["events"])
        cursor = done["next"]
        if cursor is None:
            return events


def _report(events: int, what: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"result": what.split()[0], "events": events}))
    elif events:
        print(f"{plural(events, 'event')} {what}")
    else:
        fail("no kept event matches")


@app.command()
def export(
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE|-", help="Where to write; - is standard output.")
    ] = "-",
    app: AppOption = None,
    upstream: UpstreamOption = None,
    method: EventMethodOption = None,
    call_id: CallOption = None,
    dead: DeadOption = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    config: WatchedConfig = None,
) -> None:
    """Write kept events as JSON lines, whole numbers and bodies included. gateway replay can send them."""
    filters = _Filters(app=app, upstream=upstream, method=method, call_id=call_id, dead=dead)
    events = 0
    with (
        gateway_at(admin, token_file, config) as gateway,
        _open_new(output) as file,
        gateway.or_fail(),
        gateway.stream("/api/spool/export", **filters.parameters()) as parts,
    ):
        for part in parts:
            file.write(part)
            events += part.count(b"\n")
    _note(f"{plural(events, 'event')} written")


@contextmanager
def _open_new(name: str) -> Iterator[BinaryIO]:
    """A new file that only its owner reads, or standard output. What is incomplete is removed."""
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    shown = printable(name)
    try:
        file = open(os.open(name, _WRITE, 0o600), "wb")  # noqa: SIM115 - closed below
    except FileExistsError:
        fail(f"{shown}: exists already; nothing was written", BAD_USAGE)
    except (OSError, ValueError) as exc:
        fail(f"{shown}: {_reason(exc)}", BAD_USAGE)
    try:
        with file:
            yield file
    except OSError as exc:
        os.unlink(name)
        fail(f"{shown}: {_reason(exc)}; nothing was kept of it")
    except BaseException:
        os.unlink(name)
        raise


def _reason(exc: Exception) -> str:
    return (getattr(exc, "strerror", None) or str(exc)).lower()


PausedUpstream = Annotated[
    str | None, typer.Option("--upstream", metavar="UPSTREAM", help="Only redelivery to this upstream.")
]
PausedApp = Annotated[str | None, typer.Option("--app", metavar="APP", help="Only redelivery of this app's events.")]


@app.command()
def pause(
    upstream: PausedUpstream = None,
    app: PausedApp = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    config: WatchedConfig = None,
    as_json: JsonOption = False,
) -> None:
    """Pause redelivery until it is resumed, over restarts too. Events are still kept."""
    with gateway_at(admin, token_file, config) as gateway:
        _set_paused(gateway, "pause", upstream, app, as_json=as_json)


@app.command()
def resume(
    upstream: PausedUpstream = None,
    app: PausedApp = None,
    admin: AdminOption = None,
    token_file: TokenOption = None,
    config: WatchedConfig = None,
    as_json: JsonOption = False,
) -> None:
    """Resume redelivery that was paused."""
    with gateway_at(admin, token_file, config) as gateway:
        _set_paused(gateway, "resume", upstream, app, as_json=as_json)


def _set_paused(gateway: Gateway, action: str, upstream: str | None, app: str | None, *, as_json: bool) -> None:
    if upstream is not None and app is not None:
        fail("use either --upstream or --app, not both", BAD_USAGE)
    with gateway.or_fail():
        done: dict[str, Any] = gateway.post(f"/api/spool/{action}", upstream=upstream, app=app)
    if as_json:
        print(json.dumps(done))
        return
    what = f"to {printable(upstream)}" if upstream else f"of app {printable(app)}" if app else "of all events"
    state = "paused" if action == "pause" else "resumed"
    print(f"redelivery {what} {'was not changed: it is' if done['result'] == 'unchanged' else 'is'} {state}")


def _note(message: str) -> None:
    print(f"gateway: {message}", file=sys.stderr)
