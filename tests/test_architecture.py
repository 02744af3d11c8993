"""docs/architecture.md names files, functions and rooms that are there, and stays short."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import pytest

from gateway.config import reference_sections
from gateway.model.hooks import CATALOGUE
from gateway.model.verdicts import Verdict
from tests.test_habits import make_targets
from tests.test_layers import ROOMS

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = ROOT / "gateway"
TEXT: Final = (ROOT / "docs/architecture.md").read_text("utf-8")
QUOTED: Final = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))
MAX_WORDS: Final = 1500

is_path: Final = re.compile(r"[\w.-]+(?:/[\w.-]+)*/?").fullmatch
is_name: Final = re.compile(r"_*[A-Za-z]\w*(?:\.\w+)*").fullmatch


def find_file(path: str) -> Path | None:
    """The file or folder of this path, below ``gateway/`` or at the top."""
    return next((place for place in (PACKAGE / path, ROOT / path) if place.exists()), None)


def paths() -> list[str]:
    return [it for it in QUOTED if is_path(it) and ("/" in it or Path(it).suffix in (".md", ".yaml", ".py", ".toml"))]


def names() -> list[str]:
    placed = {name for name, _ in pairs()}
    return [it for it in QUOTED if is_name(it) and it not in paths() and it not in placed]


def pairs() -> list[tuple[str, str]]:
    """Names with the file that is said to define them: `name` in `file`, or `name` (`file`)."""
    return re.findall(r"`([A-Za-z_][\w.]*)`\s+(?:in\s+|\()`([\w./]+\.(?:py|js))`", TEXT)


def defined(source: str) -> Iterator[str]:
    """What a module defines, with ``Class.method`` for what is in a class."""

    def inside(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield prefix + node.name
                if isinstance(node, ast.ClassDef):
                    yield from inside(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))

    yield from inside(ast.parse(source).body, "")


def defined_in(path: Path) -> set[str]:
    source = path.read_text("utf-8")
    if path.suffix == ".js":
        return set(re.findall(r"\b(?:const|function|class) (\w+)", source))
    return set(defined(source))


@functools.cache
def everything() -> set[str]:
    """What all our sources define; read when asked for, for every process of the tests imports this module."""
    return set().union(*map(defined_in, PACKAGE.rglob("*.py")), *map(defined_in, PACKAGE.rglob("*.js")))


KEYS: Final = {key.name for section in reference_sections().values() for key in section.keys}
"""The configuration's."""
WORDS: Final = {*KEYS, *ROOMS, *CATALOGUE, *Verdict}


def is_known(name: str) -> bool:
    """Whether a name is defined somewhere, or is a key of the configuration, or a word of ours."""
    section, _, key = name.rpartition(".")
    return name in everything() or name in WORDS or (section in KEYS and key in KEYS)


def rows(*header: str) -> Iterator[list[str]]:
    """The rows of the tables whose last columns are these, those cells only."""
    for head, body in re.findall(r"^(\|.*\|)\n\|[-|]+\|\n((?:\|.*\|\n)+)", TEXT, re.MULTILINE):
        columns = [cell.strip() for cell in head.strip("|").split("|")]
        if columns[-len(header) :] == list(header):
            for line in body.splitlines():
                yield [cell.strip() for cell in line.strip("|").split("|")][-len(header) :]


def test_the_reader_of_sources_sees_functions_methods_and_constants() -> None:
    found = set(defined("A = 1\nB: int = 2\nclass C:\n    d = 3\n    def e(self): ...\nasync def f(): ...\n"))
    assert found == {"A", "B", "C", "C.d", "C.e", "f"}


@pytest.mark.parametrize("path", dict.fromkeys(paths()))
def test_every_file_that_is_named_exists(path: str) -> None:
    assert find_file(path) is not None


@pytest.mark.parametrize("name", dict.fromkeys(names()))
def test_every_name_is_defined(name: str) -> None:
    assert is_known(name), f"renamed? there are {get_close_matches(name, everything())}"


@pytest.mark.parametrize(("name", "file"), pairs())
def test_every_name_with_a_file_is_defined_there(name: str, file: str) -> None:
    path = find_file(file)
    assert path is not None
    assert name in defined_in(path)


@pytest.mark.parametrize("row", [*rows("file", "names"), *rows("file", "name")], ids=lambda row: row[0].strip("`"))
def test_every_name_in_a_table_is_defined_in_the_file_beside_it(row: list[str]) -> None:
    (file,) = re.findall(r"`([^`]+)`", row[0])
    path = find_file(file)
    assert path is not None
    assert set(re.findall(r"`([^`]+)`", row[1])) <= defined_in(path)


@pytest.mark.parametrize("command", [it for it in QUOTED if it.startswith("make ")])
def test_every_make_target_that_is_named_exists(command: str) -> None:
    assert command.split()[1] in make_targets()


def test_the_rooms_are_those_of_the_layer_test_in_its_order() -> None:
    (table,) = re.findall(r"^\| room \| owns \|\n.*\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(ROOMS)


def test_the_hops_are_eight() -> None:
    assert len(list(rows("file", "names"))) == 8


def test_it_is_read_in_ten_minutes() -> None:
    assert len(TEXT.split()) <= MAX_WORDS
