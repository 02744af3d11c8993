"""What README.md and docs/performance.md say about speed, made from a run's figures, missed targets included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

BEGIN: Final = "<!-- made by `make bench` -->\n"
END: Final = "<!-- end -->\n"

_ROWS: Final = {
    "keepalive-16": "16 connections, backend keeps them alive",
    "close-16": "16 connections, backend closes each",
    "keepalive-1": "1 connection",
    "keepalive-256": "256 connections on a backend limited to 64",
    "hook-32k": "hook and answer of 32 kB",
    "refuse": "the backend rejects",
    "breaker-open": "the backend is down, the breaker open",
    "tls": "TLS in front",
}
"""Scenarios with a row of their own, and what they are called."""

_README_ROWS: Final = ("keepalive-16", "close-16", "refuse", "breaker-open", "tls")
"""Those that README.md shows."""


def summary(data: Mapping[str, Any]) -> str:
    """The text between the marks in README.md; *data* is what a run left as JSON."""
    return "\n".join([*_speed_table(data, _README_ROWS), ""])


def section(data: Mapping[str, Any]) -> str:
    """The text between the marks in docs/performance.md; *data* is what a run left as JSON."""
    lines = [
        *_speed_table(data, _ROWS),
        "",
        *_others(data["outcomes"]),
        "",
        "| target | measured | must | |",
        "|---|---|---|---|",
        *(f"| {one['title']} | {one['measured']} | {one['target']} | {one['verdict']} |" for one in data["targets"]),
        "",
    ]
    return "\n".join(lines)


def insert(document: Path, text: str) -> None:
    """Replace the text between the marks."""
    before, rest = document.read_text("utf-8").split(BEGIN)
    document.write_text(before + BEGIN + text + END + rest.split(END, 1)[1], "utf-8")


def _speed_table(data: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    machine, versions = data["machine"], data["versions"]
    return [
        f"CPU time per hook of 3.6 kB, user and system. Measured on {data['date']}: {machine['cpus']} CPUs",
        f"({machine['processor']}), Python {versions['Python']}, HAProxy {versions['HAProxy']}, "
        f"{data['rounds']} rounds in turn.",
        "",
        "| | gateway | HAProxy | ratio |",
        "|---|---|---|---|",
        *_scenarios(data["outcomes"], names),
    ]


def _scenarios(outcomes: list[dict[str, Any]], names: Iterable[str]) -> Iterator[str]:
    by_name = {outcome["name"]: outcome for outcome in outcomes}
    for name in names:
        if name in by_name:
            title = _ROWS[name]
            gateway, haproxy = _cpu(by_name[name], "gateway"), _cpu(by_name[name], "haproxy")
            ratio = median(ours / theirs for ours, theirs in zip(gateway, haproxy, strict=True))
            yield f"| {title} | {median(gateway):.0f} µs | {median(haproxy):.0f} µs | {ratio:.1f} × |"


def _others(outcomes: list[dict[str, Any]]) -> Iterator[str]:
    base = next((outcome for outcome in outcomes if outcome["name"] == "keepalive-16"), None)
    if base is not None:
        aiohttp, tutorial = median(_cpu(base, "aiohttp")), median(_cpu(base, "tutorial"))
        yield f"An aiohttp proxy takes {aiohttp:.0f} µs in the same run,"
        yield f"Starlette with httpx as tutorials show it {tutorial:,.0f} µs."


def _cpu(outcome: Mapping[str, Any], kind: str) -> list[float]:
    result = next(one for one in outcome["results"] if one["kind"] == kind)
    return [each["cpu_us"] for each in result["rounds"]]
