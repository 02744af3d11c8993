"""What is wrong with a configuration, where, and how both are written on one line."""

from __future__ import annotations

import difflib
import json
import os
import re
import traceback
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

Path = tuple[str | int, ...]
"""A key path: keys of mappings and indexes of lists."""

DEFECT: Final = "this is a defect of the gateway: please report it, and write the value another way until it is fixed"
MAX_QUOTED: Final = 60
MAX_PROBLEMS: Final = 1000
_MAX_COMPARISONS: Final = 20_000

_is_plain_segment = re.compile(r"[A-Za-z0-9_-]+").fullmatch


@dataclass(frozen=True)
class Problem:
    """One mistake, or one warning, at one place of the file."""

    file: str
    """The file's name as the user gave it."""
    line: int
    """1-based; 0 where there is no file."""
    column: int
    """1-based, in characters."""
    path: str
    """The key path as text; empty if the whole file is meant."""
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` holds all that is wrong with it, by position."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = _in_order(problems)
        super().__init__("\n".join(map(str, self.problems)))


def _in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Sorted by position, each once; past ``MAX_PROBLEMS`` one line says that there are more."""
    ordered = sorted(set(problems), key=lambda it: (it.line, it.column, it.path, it.message))
    if len(ordered) <= MAX_PROBLEMS:
        return tuple(ordered)
    last = ordered[MAX_PROBLEMS - 1]
    note = Problem(last.file, last.line, last.column, "", f"more than {MAX_PROBLEMS} problems: the rest is not listed")
    return (*ordered[:MAX_PROBLEMS], note)


def path_text(path: Path) -> str:
    """A key path as the user reads it: ``apps.defaultApp.timeout``, ``server.listen[0]``, ``apps."a.b"``."""
    parts: list[str] = []
    for segment in path:
        if isinstance(segment, int):
            parts.append(f"[{segment}]")
            continue
        if parts:
            parts.append(".")
        plain = len(segment) <= MAX_QUOTED and _is_plain_segment(segment)
        parts.append(segment if plain else quote(segment))
    return "".join(parts)


def quote(text: str, limit: int = MAX_QUOTED) -> str:
    """Text in double quotes on one line: odd characters escaped, cut after *limit* characters."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    quoted = json.dumps(text, ensure_ascii=False)
    if quoted.isprintable():
        return quoted
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in quoted)


def describe_defect(exc: Exception) -> str:
    """The message for a value whose check or use fails in an unforeseen way.

    The exception's own words are left out, since they may quote a secret.
    """
    frames = traceback.extract_tb(exc.__traceback__)
    place = f" in {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return f"cannot be used ({type(exc).__name__}{place}); {DEFECT}"


class NameSuggester:
    """Finds the name that was probably meant; bounded, so that a file full of typing errors does not take minutes."""

    def __init__(self) -> None:
        self._comparisons_left = _MAX_COMPARISONS

    def suggest(self, word: str, candidates: Collection[str]) -> str:
        """``; did you mean "…"?`` for the nearest candidate, or nothing."""
        if not word or len(word) > MAX_QUOTED or len(candidates) > self._comparisons_left:
            return ""
        self._comparisons_left -= len(candidates)
        by_folded = {candidate.casefold(): candidate for candidate in candidates}
        found = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.7)
        return f"; did you mean {quote(by_folded[found[0]])}?" if found else ""
