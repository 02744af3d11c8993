"""Text for people and logs: shortened, printable, with phone numbers masked; times as RFC 3339."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

MAX_TEXT: Final = 512
"""Characters of any one text in a line."""
_MILLISECONDS: Final = [f".{number:03d}Z" for number in range(1000)]


def mask_number(number: str) -> str:
    """A phone number with all but its last two characters hidden; a short one is hidden whole."""
    return "*" * (len(number) - 2) + number[-2:] if len(number) > 4 else "*" * len(number)


def timestamp(seconds: float) -> str:
    """Unix time as RFC 3339 in UTC with milliseconds."""
    second, milliseconds = divmod(int(seconds * 1000), 1000)
    return _second(second) + _MILLISECONDS[milliseconds]


@lru_cache(4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def shorten(text: str, limit: int = MAX_TEXT) -> str:
    """The text, cut after *limit* characters with an ellipsis as the last one."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def printable(text: str, keep: str = "") -> str:
    """The text, its characters that could move a terminal's cursor or forge a line escaped, but not those to *keep*."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def plural(count: int, noun: str, plural_noun: str | None = None) -> str:
    """A count with its noun: ``1 hook``, ``2 hooks``, ``1,000 matches``."""
    return f"{count:,} {noun if count == 1 else plural_noun or noun + 's'}"
