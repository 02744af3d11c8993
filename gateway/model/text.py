"""Text for people and logs: bounded, printable, masked; times as RFC 3339."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

MAX_TEXT: Final = 512
"""Characters of any one text in a line."""
_MILLISECONDS: Final = [f".{number:03d}Z" for number in range(1000)]


def masked(number: str) -> str:
    """A phone number with all but its last two characters hidden; a short one is hidden whole."""
    return "*" * (len(number) - 2) + number[-2:] if len(number) > 4 else "*" * len(number)


def timestamp(seconds: float) -> str:
    """Unix time as RFC 3339 in UTC with milliseconds."""
    second, milliseconds = divmod(int(seconds * 1000), 1000)
    return _second(second) + _MILLISECONDS[milliseconds]


@lru_cache(4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def bounded(text: str, limit: int = MAX_TEXT) -> str:
    """The text, cut where it is too long for a log line."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def printable(text: str) -> str:
    """The text with every character that could move a terminal's cursor or forge a line escaped."""
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    )
