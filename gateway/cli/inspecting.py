"""``gateway check``, ``explain``, ``schema`` and ``version``: everything that answers without serving."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import version as version_of

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from gateway import __version__, meaning
from gateway.access import BasicCredentials
from gateway.cli.common import (
    BAD_USAGE,
    DEFAULT_CONFIG,
    ConfigOption,
    HookFile,
    MethodOption,
    fail,
    load_or_fail,
    read_hook_file,
)
from gateway.config import Config, json_schema
from gateway.hooks import BadHookError, method_type, parse_hook
from gateway.retry import Retry
from gateway.routing import Route, Table
from gateway.verdicts import Cause, Verdict

_WIDE = 2000
"""Columns where the output is no terminal: nothing is cut or wrapped."""
_KEY_DEPENDENCIES = ("starlette", "uvicorn", "uvloop", "httptools", "httpx", "msgspec", "pydantic", "prometheus-client")


def check(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Validate the configuration; print every problem, or what each app's hooks would meet."""
    loaded = load_or_fail(config)
    for warning in loaded.warnings:
        print(f"{warning} (warning)", file=sys.stderr)
    print(f"{config}: valid")
    width = None if sys.stdout is not None and sys.stdout.isatty() else _WIDE
    Console(width=width, markup=False, emoji=False, highlight=False).print(_routes(loaded.config))


def explain(file: HookFile, method: MethodOption = "OnCallEvent", config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Say which app, upstream, budget and policy a hook would meet, and why."""
    loaded = load_or_fail(config)
    try:
        hook = parse_hook(read_hook_file(file))
    except BadHookError as exc:
        fail(f"{file}: {exc}; the gateway would answer 400", BAD_USAGE)
    kind = method_type(method, loaded.config.hook_types)
    print(f"method    {method} ({kind})")
    print(f"appKey    {hook.app_key!r}")
    match = Table(loaded.config).explain(hook.app_key, method)
    if match is None:
        print("app       none is configured for it: 403, reason unknown_app")
        return
    for line in _explained(loaded.config, match.route, match.why):
        print(line)
    print(f"a 403     {meaning.of_refusal(kind)}")


def schema() -> None:
    """Print the configuration's JSON Schema, for editors."""
    print(json.dumps(json_schema(), indent=2))


def version() -> None:
    """Print the version, Python's, and the key dependencies'."""
    print(f"wcs-gateway {__version__}")
    print(f"Python {platform.python_version()}")
    for name in _KEY_DEPENDENCIES:
        print(f"{name} {version_of(name)}")


def _routes(config: Config) -> RichTable:
    table = RichTable("app", "method", "upstream", "budget", *Cause, box=None, pad_edge=False)
    lookup = Table(config)
    for app, settings in config.apps.items():
        for method in (None, *settings.methods):
            route = lookup.route_of(app, method)
            table.add_row(Text(app), method or "(any)", *_row(route))
    if config.unknown_app == "reject":
        table.add_row("(any other)", "(any)", "none: 403")
    else:
        table.add_row("(any other)", "(any)", Text(f"as {config.unknown_app}"))
    return table


def _row(route: Route) -> Iterable[str | Text]:
    if route.upstream is None:
        return (f"none: always {route.static or Verdict.REJECT}",)
    return (Text(route.upstream), seconds(route.budget), *(route.fallback.verdict(cause) for cause in Cause))


def _explained(config: Config, route: Route, why: str) -> Iterable[str]:
    app = config.apps[route.app]
    by = f"apps.{route.app}" + (f".methods.{route.method}" if route.method in app.methods else "")
    yield f"app       {route.app} ({why})"
    if route.guard is not None:
        proof = "HTTP Basic credentials" if isinstance(route.guard, BasicCredentials) else "a WCS signature of its body"
        yield f"proof     {proof}, else 401"
    if route.upstream is None:
        yield f"verdict   always {route.static or Verdict.REJECT}: the app is static, no backend is asked"
        return
    targets = [
        target.url + (" (backup)" if target.backup else "") for target in config.upstreams[route.upstream].targets
    ]
    yield f"upstream  {route.upstream} ({', '.join(targets)})"
    yield f"budget    {seconds(route.budget)}, by {by} or what it inherits"
    yield f"retry     {_retry_in_words(route.retry)}"
    yield f"repeats   {_repeats_in_words(route.dedupe)}"
    if app.max_in_flight is not None:
        yield f"limit     {app.max_in_flight} hooks of the app at once"
    for cause in Cause:
        yield f"{'fallback' if cause is Cause.TIMEOUT else '':9} {cause}: {route.fallback.verdict(cause)}"


def _retry_in_words(retry: Retry) -> str:
    if retry.attempts == 1 or not retry.on:
        return "never"
    return f"{retry.attempts} attempts at most, after {', '.join(sorted(retry.on))}"


def _repeats_in_words(dedupe: float | None) -> str:
    if dedupe is None:
        return "each is asked again"
    return f"the same bytes within {seconds(dedupe)} get the same verdict; the backend sees one"


def seconds(value: float) -> str:
    """A duration as the configuration writes it."""
    return f"{value:g}s" if value >= 1 else f"{value * 1000:g}ms"
