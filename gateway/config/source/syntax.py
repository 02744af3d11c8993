"""What is wrong with a text that is not YAML, in plain words: the parser's own are about its states, not the text.

No message contains anything of the text but single characters of YAML's syntax: a line may contain a secret.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import yaml

from gateway.config.source.problems import Problem

_CLOSES: Final = {"[": "]", "{": "}"}
_CLOSED_BY: Final = {closing: opening for opening, closing in _CLOSES.items()}
_has_colon = re.compile(r"(?s).*:(?:\s|$)").match
_has_key = re.compile(r"\s*(?:- +)*[^\s#].*?:\s").match
_lacks_space = re.compile(r"\s*(?:- +)*[\w-]+:[^\s/]").match
_KEY: Final = "write KEY: VALUE"


class _Place(NamedTuple):
    """A place in the text."""

    line: int
    """1-based, as *column*."""
    column: int
    text: str
    """The whole line."""

    @property
    def char(self) -> str:
        """The character here; empty at the line's end."""
        return self.text[self.column - 1 : self.column]

    @property
    def before(self) -> str:
        """What is in front of it on its line."""
        return self.text[: self.column - 1]


class _Found(NamedTuple):
    place: _Place
    message: str


def syntax_problem(exc: yaml.YAMLError, text: str, file: str) -> Problem:
    """The problem for an error of YAML's parser, where the mistake was probably made."""
    if not isinstance(exc, yaml.MarkedYAMLError) or not (exc.problem_mark or exc.context_mark):
        return Problem(file, 1, 1, "", "not valid YAML")
    lines = text.splitlines()
    at = _place(exc.problem_mark or exc.context_mark, lines)
    start = _place(exc.context_mark or exc.problem_mark, lines)
    found = _explain(exc.problem or "", start, at, lines)
    if found is None:
        words = ", ".join(part for part in (exc.context, exc.problem) if part)
        found = _Found(at, f"not valid YAML: {words}")
    return Problem(file, found.place.line, found.place.column, "", found.message)


def _place(mark: Any, lines: list[str]) -> _Place:
    if mark.line < len(lines):
        return _Place(mark.line + 1, mark.column + 1, lines[mark.line])
    last = lines[-1] if lines else ""  # the parser counts a line after the last one
    return _Place(max(1, len(lines)), len(last) + 1, last)


def _explain(said: str, start: _Place, at: _Place, lines: list[str]) -> _Found | None:
    """*start* is where the part begins that the parser was reading, *at* where it could not go on."""
    if at.char == "\t" and ("any token" in said or "tab" in said):
        return _Found(at, f"line {at.line} is indented with a tab; YAML allows spaces only")
    if "mapping values are not allowed" in said:
        return _explain_colon(at, lines)
    if "could not find expected ':'" in said:
        return _Found(start, _missing_colon(start))
    if "unexpected end of stream" in said:
        return _Found(start, f"a quote ({start.char}) is opened here and never closed")
    if match := re.search(r"expected ',' or '([]}])'", said):
        return _explain_bracket(start, at, match[1])
    return _explain_value(said, start, at) or _explain_place(said, at, lines)


def _explain_value(said: str, start: _Place, at: _Place) -> _Found | None:
    """A value that needs quotes, or whose escapes or line breaks are wrong."""
    if "any token" in said and at.char in ("@", "`", "%"):
        return _Found(at, f"a value cannot begin with {at.char}: put it in quotes")
    if start.char == "%" and start.column == 1:
        return _Found(start, "a line cannot begin with %: put the key in quotes")
    if "alphabetic or numeric character" in said and start.char in ("*", "&"):
        return _Found(start, f'a value that begins with {start.char} must be in quotes, such as "{start.char}"')
    if "unknown escape character" in said:
        return _Found(at, r"in double quotes, a \ begins an escape such as \n: write \\, or use single quotes")
    if (start.char in ("|", ">") and "line break" in said) or "chomping" in said:
        return _Found(at, f"text after {start.char}: begin it on the next line, or put the whole value in quotes")
    return None


def _explain_place(said: str, at: _Place, lines: list[str]) -> _Found | None:
    """Something complete in a place where it cannot be."""
    if not at.char and "node content" in said:
        return _Found(at, "the text ends inside [ ] or { }: close it")
    if at.char in _CLOSED_BY:
        message = f"a {at.char} without a {_CLOSED_BY[at.char]} before it: remove it, or put the value in quotes"
        return _Found(at, message)
    if "'-' indicator" in said:
        return _Found(at, f"line {at.line} must begin with - like the list's items above it, or be indented otherwise")
    if "expected key" in said or "block end" in said:
        return _explain_indent(at, lines)
    if "document start" in said:
        return _Found(at, "the YAML document has ended before this line: remove the line ...")
    return None


def _explain_colon(at: _Place, lines: list[str]) -> _Found | None:
    """A colon where none may be: a value with a colon of its own, or a line above that is no complete entry."""
    if _has_key(at.before):
        return _Found(at, "a second colon in a value: put the value in quotes")
    above = _line_above(at, lines)
    if above is None:
        return None
    if not _has_colon(above.text):
        return _Found(above, _missing_colon(above))
    return _Found(at, f"line {at.line} is indented more than line {above.line}, which has a value: indent both alike")


def _line_above(at: _Place, lines: list[str]) -> _Place | None:
    """Where the text begins on the nearest line above that has any, comments apart."""
    for line in range(at.line - 1, 0, -1):
        text = lines[line - 1]
        if (content := text.lstrip()) and content[0] != "#":
            return _Place(line, len(text) - len(content) + 1, text)
    return None


def _missing_colon(place: _Place) -> str:
    if _lacks_space(place.text):
        return f"line {place.line} lacks a space after the colon: {_KEY}"
    return f"line {place.line} lacks a colon after its key: {_KEY}"


def _explain_bracket(start: _Place, at: _Place, closing: str) -> _Found:
    if at.before.endswith("$") and at.char == "{":
        return _Found(at, "a value with ${ must be in quotes inside [ ] and { }")
    if at.line > start.line or not at.char:
        return _Found(start, f"a {start.char} is opened here and not closed, or a comma is missing: add {closing} or ,")
    return _Found(at, f"a comma or {closing} is missing here, before column {at.column}")


def _explain_indent(at: _Place, lines: list[str]) -> _Found:
    if at.before.rstrip().endswith(('"', "'")):
        return _Found(at, "text after a closing quote: put the whole value in one pair of quotes")
    if at.before.strip():
        return _Found(at, "a value ends before this text: put the whole value in quotes")
    if at.char == "-":
        return _Found(at, f"line {at.line} begins a list where a key is expected: check how it is indented")
    above = _line_above(at, lines)
    if above is not None and above.column == at.column and not _has_colon(above.text):
        return _Found(above, _missing_colon(above))
    return _Found(at, f"line {at.line} is indented unlike the lines above it: keys of one mapping begin in one column")
