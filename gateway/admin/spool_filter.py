"""The parameters of ``/api/spool…``: in the query of a GET; in the query or the JSON body of an action."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from gateway.model.text import shorten
from gateway.store.requests import MAX_PAGE, EventFilter

MAX_BODY: Final = 64 * 1024
"""Bytes of an action's body."""
MAX_IDS: Final = 1000
_MAX_TEXT: Final = 512
_TEXTS: Final = ("app", "upstream", "method", "call_id")
_FILTERS: Final = ("id", *_TEXTS, "dead")
LIST_NAMES: Final = (*_FILTERS, "cursor", "limit")
"""What a list of events takes."""
ACTION_NAMES: Final = (*_FILTERS, "all", "cursor")
"""What retrying and dropping take."""
EXPORT_NAMES: Final = _FILTERS
PAUSE_NAMES: Final = ("upstream", "app")
_is_id = re.compile(r"[0-9]{1,18}", re.ASCII).fullmatch


class SpoolQuery(NamedTuple):
    """What a request asks for."""

    wanted: EventFilter
    after: int = 0
    limit: int = 100
    everything: bool = False
    """Whether it says ``all``."""

    @property
    def names_events(self) -> bool:
        """Whether any condition chooses some of the events; waiting ones alone are still nearly all."""
        return self.wanted not in (EventFilter(), EventFilter(dead=False))


def parse_spool_query(parameters: Iterable[tuple[str, str]], names: Iterable[str]) -> SpoolQuery:
    """What the parameters say; *names* are those that the request takes.

    Raises ValueError with a message for the author of the request.
    """
    known = tuple(names)
    values: dict[str, str] = {}
    ids: list[int] = []
    for name, value in parameters:
        if name not in known:
            raise ValueError(f"unknown parameter {_quoted(name)}; known parameters: {', '.join(known)}")
        if name == "id":
            ids.append(_whole_number("id", value))
            continue
        if name in values:
            raise ValueError(f"duplicate parameter {name}")
        if len(value) > _MAX_TEXT:
            raise ValueError(f"{name} is longer than {_MAX_TEXT} characters")
        values[name] = value
    if len(ids) > MAX_IDS:
        raise ValueError(f"at most {MAX_IDS} ids at a time, not {len(ids)}")
    texts = {name: values[name] for name in _TEXTS if values.get(name)}
    dead = _flag("dead", values["dead"]) if values.get("dead") else None
    return SpoolQuery(
        EventFilter(ids=tuple(ids) if ids else None, dead=dead, **texts),
        after=_whole_number("cursor", values["cursor"]) if values.get("cursor") else 0,
        limit=_limit(values.get("limit") or "100"),
        everything=_flag("all", values.get("all") or "0"),
    )


def parse_spool_body(body: bytes, names: Iterable[str]) -> SpoolQuery:
    """The same for a JSON object such as ``{"app": "billing", "dead": true}`` or ``{"id": [17, 18]}``."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise ValueError("the body is not valid JSON") from exc
    if not isinstance(document, dict):
        raise ValueError('the body must be a JSON object such as {"dead": true}')
    return parse_spool_query(_parameters(document), names)


def _parameters(document: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for name, value in document.items():
        several = value if isinstance(value, list) and name == "id" else [value]
        for each in several:
            if each is None:
                continue
            if isinstance(each, bool):
                yield name, "1" if each else "0"
            elif isinstance(each, (str, int)):
                yield name, str(each)
            else:
                raise ValueError(f"{_quoted(name)} must be a text, a whole number, true or false")


def _flag(name: str, text: str) -> bool:
    if text not in ("0", "1", "false", "true"):
        raise ValueError(f"{name} must be 1 or 0, not {_quoted(text)}")
    return text in ("1", "true")


def _whole_number(name: str, text: str) -> int:
    if not _is_id(text):
        raise ValueError(f"{name} must be a whole number, not {_quoted(text)}")
    return int(text)


def _limit(text: str) -> int:
    if not _is_id(text) or not 1 <= int(text) <= MAX_PAGE:
        raise ValueError(f"limit must be a whole number from 1 to {MAX_PAGE}, not {_quoted(text)}")
    return int(text)


def _quoted(text: str) -> str:
    return repr(shorten(text, 80))
