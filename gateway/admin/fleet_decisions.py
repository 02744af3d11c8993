"""The decisions of all gateways of a fleet as one list, page by page, without gap and without double.

All gateways order decisions alike, by time and request id, so one cursor serves them all: the next page begins after
the last decision shown, at each of them. A gateway whose page ended early (it had more, or read its history only so
far) bounds what may be shown of the others. A decision that several know, from the history that they share in
PostgreSQL, is shown once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from gateway.admin.decision_search import read_cursor, write_cursor
from gateway.telemetry.decision_view import Position

_START: Final[Position] = (-1, "")


class ReplicaPage(NamedTuple):
    """One gateway's page: the JSON of ``GET /api/decisions`` with ``places``."""

    replica: str
    content: Mapping[str, Any]


def merge_pages(pages: Sequence[ReplicaPage], limit: int) -> dict[str, Any]:
    """One page of all, the newest first. Raises ValueError for a page whose cursors are none."""
    rows: dict[Position, dict[str, Any]] = {}
    in_journals: set[Position] = set()
    bound = _START
    for replica, content in pages:
        if content["next"] is not None:
            bound = max(bound, read_cursor(content["next"]))
        for cursor, decision, here in zip(content["places"], content["decisions"], content["in_journal"], strict=True):
            place = read_cursor(cursor)
            if here:
                rows[place] = {**decision, "replica": replica}
                in_journals.add(place)
            elif place not in rows:
                rows[place] = {**decision, "replica": replica}
            elif place not in in_journals:
                rows[place]["replica"] = None  # several have it from their history, which does not say whose it is
    complete = sorted((place for place in rows if place >= bound), reverse=True)
    shown = complete[:limit]
    after: Position | None = None
    if len(complete) > len(shown):
        after = shown[-1]
    elif bound != _START:
        after = bound
    contents = [content for _, content in pages]
    return {
        "decisions": [rows[place] for place in shown],
        "next": None if after is None else write_cursor(after),
        "matched": sum(content["matched"] for content in contents),
        "held": sum(content["held"] for content in contents),
        "oldest": _first(contents, "oldest"),
        "journal_oldest": _first(contents, "journal_oldest"),
        "history": _history(pages),
        "incomplete": [],
    }


def _history(pages: Sequence[ReplicaPage]) -> dict[str, Any]:
    scopes = [(replica, content["history"]) for replica, content in pages]
    errors = [f"{replica}: {scope['error']}" for replica, scope in scopes if scope["error"] is not None]
    return {
        "configured": any(scope["configured"] for _, scope in scopes),
        "oldest": _first([scope for _, scope in scopes], "oldest"),
        "error": "; ".join(errors) or None,
    }


def _first(parts: Sequence[Mapping[str, Any]], name: str) -> str | None:
    """The earliest of RFC 3339 times in one form."""
    return min((part[name] for part in parts if part[name] is not None), default=None)
