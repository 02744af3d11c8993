"""``gateway check``: the configuration's errors, or what it does with each app's hooks."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.table import Table as RichTable
from rich.text import Text

from gateway.cli import render
from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    load_or_fail,
)
from gateway.cli.describe import (
    describe_fallback,
    describe_split,
    seconds,
    summary,
)
from gateway.cli.describe_state import state_summary
from gateway.cli.describe_store import store_summary
from gateway.config import Config, Settings
from gateway.model.verdicts import Cause, Verdict


def check(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Validate the configuration. Prints all errors, or a summary of each app."""
    loaded = load_or_fail(config)
    for warning in loaded.warnings:
        print(f"{warning} (warning)", file=sys.stderr)
    print(f"{config}: valid")
    render.console().print(_routes(loaded.config))
    for line in (*summary(loaded), *store_summary(loaded), *state_summary(loaded)):
        print(line)


def _routes(config: Config) -> RichTable:
    table = RichTable("app", "method", "upstream", "budget", *Cause, box=None, pad_edge=False)
    for app, settings in config.apps.items():
        # Each app lists the method keys of the defaults too, because they come before the app's general settings.
        for method in (None, *dict.fromkeys((*settings.methods, *config.defaults.methods))):
            row = _row(config.settings(app, method))
            if method is None or settings.static is None:
                table.add_row(Text(app), method or "(any)", *row)
    if config.unknown_app == "reject":
        table.add_row("(any other)", "(any)", "none: 403")
    else:
        table.add_row("(any other)", "(any)", Text(f"as {config.unknown_app}"))
    return table


def _row(settings: Settings) -> Iterable[str | Text]:
    if settings.upstream is None:
        return (f"none: always {settings.static or Verdict.REJECT}",)
    names = describe_split(settings.split) if settings.split else settings.upstream
    fallbacks = (Text(describe_fallback(settings.fallback, cause)) for cause in Cause)
    return (Text(names), seconds(settings.timeout), *fallbacks)
