"""Records are made with names: two fields of a long positional call could be swapped, and nobody would see it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent / "gateway"
MOST: Final = 5
"""Positional arguments of a call that makes an object."""
BUILDERS: Final = {
    "model/decision DecisionBuilder.build Decision": "for every hook",
    "store/schema  Table": "once: SQLAlchemy takes the columns of a table that way",
    "telemetry/access_log AccessLog._make_line _AccessLine": "for every hook that is logged",
}
"""Functions that may pass more, as ``module function class``, and how often they run: naming the 20 fields of a msgspec
structure costs 10,000 instructions, more than 3 % of a hook. The tests of both compare each field with its value."""


def long_calls(node: ast.AST, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Calls of a capitalised name with more than MOST positional arguments, as ``function class``."""
    for child in ast.iter_child_nodes(node):
        inside = path
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inside = (*path, child.name)
        elif isinstance(child, ast.Call) and len(child.args) > MOST and (name := class_name(child.func)):
            yield f"{'.'.join(path)} {name}"
        yield from long_calls(child, inside)


def class_name(function: ast.expr) -> str | None:
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    return name if name.lstrip("_")[:1].isupper() else None


@functools.cache
def found() -> set[str]:
    return {
        f"{path.relative_to(ROOT).with_suffix('')} {call}"
        for path in ROOT.rglob("*.py")
        for call in long_calls(ast.parse(path.read_text("utf-8")))
    }


def test_objects_are_made_with_names_except_in_builders() -> None:
    assert found() - BUILDERS.keys() == set(), f"pass arguments past the {MOST}th by name"


def test_the_table_names_only_calls_that_are_there() -> None:
    assert BUILDERS.keys() - found() == set(), "take these out of the table"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(): return Record(1, 2, 3, 4, 5, 6)", ["f Record"]),
        ("class A:\n def f(self): return other._Record(1, 2, 3, 4, 5, 6)", ["A.f _Record"]),
        ("Record(1, 2, 3, 4, 5)", []),
        ("Record(1, 2, 3, 4, 5, six=6)", []),
        ("function(1, 2, 3, 4, 5, 6)", []),
    ],
)
def test_what_counts_as_a_long_call(code: str, expected: list[str]) -> None:
    assert list(long_calls(ast.parse(code))) == expected
