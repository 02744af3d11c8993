"""Globs: ``*`` is any text, none included, and ``?`` is any one character; all else is itself."""

from __future__ import annotations

import re


def is_glob(text: str) -> bool:
    """Whether it is a pattern, and not the one text that it matches."""
    return "*" in text or "?" in text


def is_prefix(text: str) -> bool:
    """Whether it is the usual pattern, plain text with a ``*`` at its end: it can be looked up instead of tried."""
    return text.endswith("*") and not is_glob(text[:-1])


def fold(text: str) -> str:
    """What is the same for texts that differ in upper and lower case only; globs go through it like texts.

    Unicode's full case folding: of each character by itself, so that it can be done to a prefix. ``ß`` becomes two
    letters, of which a ``?`` matches only one.
    """
    return text.casefold()


def compile_glob(glob: str) -> re.Pattern[str]:
    """A pattern for ``fullmatch``; for every glob and text its time is proportional to the length of the text."""
    first, *rest = ("".join("." if c == "?" else re.escape(c) for c in part) for part in re.split(r"\*+", glob))
    if not rest:
        return re.compile(first, re.DOTALL)
    *middle, last = rest
    # Atomic groups (since Python 3.11): each part is sought once, from the left, and never again further on, where it
    # could allow nothing that the first place does not. Backtracking over several ``.*`` would let a long text stop
    # the event loop for minutes.
    return re.compile(first + "".join(f"(?>.*?{part})" for part in middle) + ".*" + last, re.DOTALL)
