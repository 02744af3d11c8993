"""The admin port's answers as text for a terminal. Nothing that a caller sent can control the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from gateway.model.text import plural, printable

Json = Mapping[str, Any]

UNKNOWN: Final = "–"
_VERDICT_STYLES: Final = {"allow": "green", "reject": "yellow", "error": "red"}
_WIDE: Final = 2000
"""Columns where the output is not a terminal, so that nothing is cut or wrapped."""
_STATE_STYLES: Final = {
    "up": "green",
    "ejected": "bold red",
    "ejected_by_operator": "bold magenta",
    "probing": "cyan",
    "partly": "yellow",
}


def rate(per_second: float | None) -> str:
    """A number per second."""
    if per_second is None:
        return UNKNOWN
    if per_second and per_second < 0.05:
        return "<0.1"
    return f"{per_second:.1f}" if 0 < per_second < 100 else f"{per_second:.0f}"


def milliseconds(value: float | None) -> str:
    """A duration with its unit, from milliseconds."""
    if value is None:
        return UNKNOWN
    if value >= 999.5:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 9.95 else f"{value:.1f} ms"


def ago(seconds: float) -> str:
    """A duration in its two largest units."""
    whole = max(0, int(seconds))
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def clock(time: str | None, *, date: bool = False, fraction: bool = False) -> str:
    """The local time of day of an RFC 3339 time; with the date if that is not today."""
    if time is None:
        return UNKNOWN
    try:
        local = datetime.fromisoformat(time).astimezone()
    except ValueError:
        return plain(time)
    of_day = local.strftime("%H:%M:%S") + (f".{local.microsecond // 1000:03d}" if fraction else "")
    today = local.date() == datetime.now(UTC).astimezone().date()
    return of_day if today and not date else f"{local.date()} {of_day}"


def plain(value: object) -> str:
    """A value of the gateway as text without control characters; empty for null."""
    return "" if value is None else printable(str(value))


def verdict(decision: Json) -> Text:
    """The verdict in its colour; an allow in spite of an error has a colour of its own."""
    word = plain(decision["verdict"])
    return Text(word, style="bold magenta" if word == "allow" and decision["error"] else _VERDICT_STYLES.get(word, ""))


def state(target: Json) -> Text:
    """A target's state in its colour; the colour tells who ejected it."""
    word = plain(target["state"])
    return Text("ejected" if word == "ejected_by_operator" else word, style=_STATE_STYLES.get(word, ""))


def reason(decision: Json) -> str:
    """The reason; with the source, if that is not the backend."""
    source, name = decision["source"], decision["reason"]
    return plain(name if source == "backend" else f"{source}/{name}")


def reasons(activity: Json) -> str:
    """The reasons of failures, the most frequent first."""
    return " ".join(f"{plain(name)} {rate(per_second)}" for name, per_second in activity["reasons"].items())


def state_reason(target: Json) -> str:
    """Why a target is not up and when it is probed; for a target that is up, its last error."""
    if target["state"] != "up":
        parts = [_without_name(target, target["reason"])] if target["reason"] else []
        if target["ejected_for"]:
            parts.append("ejected for " + ", ".join(map(plain, target["ejected_for"])))
        if target["retry_in_seconds"] is not None:
            parts.append(f"next probe in {target['retry_in_seconds']:.0f} s")
        return "; ".join(parts)
    error = target["last_error"]
    return "" if error is None else f"last error {clock(error['time'])}: {_without_name(target, error['text'])}"


def _without_name(target: Json, text: str) -> str:
    """A text about a target, without the target's name in front, which is already shown."""
    return plain(text.removeprefix(f"{target['target']}: "))


def targets(upstreams: Json) -> list[tuple[str, Json]]:
    """Every target with the name of its upstream, those that are not up first."""
    order = {"ejected": 0, "ejected_by_operator": 1, "probing": 2, "partly": 3}
    rows = [(plain(upstream["name"]), target) for upstream in upstreams["upstreams"] for target in upstream["targets"]]
    return sorted(rows, key=lambda row: order.get(row[1]["state"], 4))


def headline(status: Json) -> Text:
    """Version, phase, uptime and workers."""
    phase = "draining" if status["draining"] else plain(status["phase"])
    return Text.assemble(
        ("wcs-gateway ", "bold"),
        plain(status["version"]),
        " · ",
        (phase, "bold green" if phase == "ready" else "bold yellow"),
        f" · up {ago(status['uptime_seconds'])} · {plural(len(status['workers']), 'worker')}",
    )


def hooks(status: Json) -> Text:
    """Hooks per second, and how many the fallback decided."""
    counts = status["hooks"]
    allowed, rejected = counts["allowed_by_fallback_per_second"], counts["rejected_by_fallback_per_second"]
    return Text.assemble(
        (f"{rate(counts['per_second'])} hooks/s", "bold"),
        f", {rate(counts['rejected_per_second'])} rejected · by fallback: ",
        (f"{rate(rejected)} rejected", "red" if rejected else ""),
        ", ",
        (f"{rate(allowed)} allowed", "red" if allowed else ""),
        f" · {UNKNOWN if counts['in_flight'] is None else counts['in_flight']} in flight",
    )


def problems(status: Json) -> Sequence[str]:
    """What an operator must know about the configuration."""
    reload = status["last_reload"]
    if reload is None or reload["successful"]:
        return ()
    first = plain(reload["problems"][0]) if reload["problems"] else "see the log"
    directory = plain(status["config"]["path"]).rpartition("/")[0]
    return (f"the file on disk is NOT in use since {clock(reload['time'])}: {first.removeprefix(directory + '/')}",)


def console() -> Console:
    """Standard output without markup."""
    options: dict[str, Any] = {} if sys.stdout.isatty() else {"width": _WIDE}
    return Console(markup=False, emoji=False, highlight=False, **options)
