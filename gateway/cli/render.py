"""How the admin port's answers are worded for a terminal; nothing that a caller sent can steer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.text import Text

from gateway.model.text import printable

Json = Mapping[str, Any]

UNKNOWN: Final = "–"
_VERDICT_STYLES: Final = {"allow": "green", "reject": "yellow", "error": "red"}
_STATE_STYLES: Final = {
    "up": "green",
    "ejected": "bold red",
    "held": "bold magenta",
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
    """How long something has lasted, in its two largest units."""
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
    """The time of day of an RFC 3339 time, where this terminal is; with its date where it was another day."""
    if time is None:
        return UNKNOWN
    try:
        there = datetime.fromisoformat(time).astimezone()
    except ValueError:
        return plain(time)
    of_day = there.strftime("%H:%M:%S") + (f".{there.microsecond // 1000:03d}" if fraction else "")
    today = there.date() == datetime.now(UTC).astimezone().date()
    return of_day if today and not date else f"{there.date()} {of_day}"


def plain(value: object) -> str:
    """A text of the gateway's, without control characters; nothing for null."""
    return "" if value is None else printable(str(value))


def verdict(call: Json) -> Text:
    """Its verdict in its colour; a call that was let through though its backend failed has one of its own."""
    word = plain(call["verdict"])
    return Text(word, style="bold magenta" if word == "allow" and call["error"] else _VERDICT_STYLES.get(word, ""))


def state(target: Json) -> Text:
    """A target's state in its colour."""
    word = plain(target["state"])
    return Text(word, style=_STATE_STYLES.get(word, ""))


def reason(call: Json) -> str:
    """Who decided, where it was not the backend, and why."""
    return plain(call["reason"] if call["source"] == "backend" else f"{call['source']}/{call['reason']}")


def reasons(activity: Json) -> str:
    """What goes wrong, the most frequent first."""
    return " ".join(f"{plain(name)} {rate(per_second)}" for name, per_second in activity["reasons"].items())


def why(target: Json) -> str:
    """Why a target is not up, and since when; else its last error."""
    if target["state"] != "up":
        parts = [_of(target, target["why"])] if target["why"] else []
        if target["closed_to"]:
            parts.append("closed to " + ", ".join(map(plain, target["closed_to"])))
        if target["retry_in_seconds"] is not None:
            parts.append(f"again in {target['retry_in_seconds']:.0f} s")
        return "; ".join(parts)
    error = target["last_error"]
    return "" if error is None else f"last error {clock(error['time'])}: {_of(target, error['text'])}"


def _of(target: Json, text: str) -> str:
    """What is said of a target, without its name in front, which stands there already."""
    return plain(text.removeprefix(f"{target['target']}: "))


def targets(upstreams: Json) -> list[tuple[str, Json]]:
    """Every target by its upstream's name, those in trouble first."""
    order = {"ejected": 0, "held": 1, "probing": 2, "partly": 3}
    rows = [(plain(upstream["name"]), target) for upstream in upstreams["upstreams"] for target in upstream["targets"]]
    return sorted(rows, key=lambda row: order.get(row[1]["state"], 4))


def headline(status: Json) -> Text:
    """What runs, how it is, and since when."""
    phase = "draining" if status["draining"] else plain(status["phase"])
    workers = len(status["workers"])
    return Text.assemble(
        ("wcs-gateway ", "bold"),
        plain(status["version"]),
        " · ",
        (phase, "bold green" if phase == "ready" else "bold yellow"),
        f" · up {ago(status['uptime_seconds'])} · {workers} worker{'' if workers == 1 else 's'}",
    )


def hooks(status: Json) -> Text:
    """How many hooks, and how many were decided without a backend."""
    counts = status["hooks"]
    allowed, refused = counts["allowed_by_fallback_per_second"], counts["refused_by_fallback_per_second"]
    return Text.assemble(
        (f"{rate(counts['per_second'])} hooks/s", "bold"),
        f", {rate(counts['refused_per_second'])} refused · by fallback: ",
        (f"{rate(refused)} refused", "red" if refused else ""),
        ", ",
        (f"{rate(allowed)} allowed", "red" if allowed else ""),
        f" · {UNKNOWN if counts['in_flight'] is None else counts['in_flight']} in flight",
    )


def troubles(status: Json) -> Sequence[str]:
    """What an operator must know of the configuration."""
    reload = status["last_reload"]
    if reload is None or reload["successful"]:
        return ()
    first = plain(reload["problems"][0]) if reload["problems"] else "the log says more"
    directory = plain(status["config"]["path"]).rpartition("/")[0]
    return (f"the file on disk is NOT in force since {clock(reload['time'])}: {first.removeprefix(directory + '/')}",)
