"""The rooms of the house: who may import whom, read from the source itself."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final, TypeGuard

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gateway"
MODULES = sorted(PACKAGE.rglob("*.py"))

ROOMS: Final = (
    "cli",
    "server",
    "admin",
    "proxy",
    "fleet",
    "upstreams",
    "telemetry",
    "store",
    "config",
    "recording",
    "http",
    "policy",
    "model",
)
"""Each imports only those after it; ``recording`` and ``http`` do not know each other."""

STRANGERS: Final = {("recording", "http")}
"""Rooms side by side: the first does not import the second either."""

MAX_LINES: Final = 500


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def room_of(module: str) -> str:
    name = module.split(".")[1]
    return "cli" if name == "__main__" else name


def resolved(module: str, node: ast.ImportFrom) -> str:
    """The module that a ``from`` names, relative ones included."""
    if not node.level:
        return node.module or ""
    package = module.split(".") if NAMES[module].name == "__init__.py" else module.split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(NAMES[module].read_text("utf-8"))


@functools.cache
def nodes_of(module: str) -> list[tuple[ast.AST, bool]]:
    """Every node of a module, and whether it is inside a function."""
    found: list[tuple[ast.AST, bool]] = [(tree_of(module), False)]
    for node, inside in found:  # which grows meanwhile
        below = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        found += [(child, below) for child in ast.iter_child_nodes(node)]
    return found


def imports_of(module: str) -> Iterator[str]:
    """The gateway's own modules that a module imports, the submodules that ``from`` takes included."""
    for node, _ in nodes_of(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in NAMES)
        elif isinstance(node, ast.ImportFrom):
            source = resolved(module, node)
            submodules = {f"{source}.{alias.name}" for alias in node.names} & NAMES.keys()
            yield from submodules
            if source in NAMES and len(submodules) < len(node.names):
                yield source


@functools.cache
def edges() -> dict[str, set[str]]:
    return {module: set(imports_of(module)) - {module} for module in NAMES}


def test_the_reader_sees_absolute_and_relative_imports_and_submodules() -> None:
    found = edges()
    assert "gateway.model.verdicts" in found["gateway.proxy.endpoint"]
    assert "gateway.config.sections.root" in found["gateway.config.load"]
    assert "gateway.cli.commands.serve" in found["gateway.cli.main"]


def test_every_folder_is_one_of_the_rooms() -> None:
    assert {room_of(module) for module in NAMES if module != "gateway"} == set(ROOMS)


def test_each_room_imports_only_those_after_it() -> None:
    order = {room: place for place, room in enumerate(ROOMS)}
    wrong = [
        f"{module} imports {target}"
        for module, targets in edges().items()
        for target in sorted(targets)
        if module != "gateway" and target != "gateway"
        if order[room_of(target)] < order[room_of(module)] or (room_of(module), room_of(target)) in STRANGERS
    ]
    assert wrong == []


def test_the_package_itself_imports_no_room() -> None:
    assert edges()["gateway"] == set()


def test_no_import_goes_in_a_circle() -> None:
    # A package's __init__ that gathers its modules' names is imported before each of them without needing it.
    try:
        TopologicalSorter(edges()).prepare()
    except CycleError as exc:
        pytest.fail(f"circle: {' -> '.join(exc.args[1])}")


def is_import(node: ast.AST) -> TypeGuard[ast.Import | ast.ImportFrom | ast.Call]:
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) in {"__import__", "importlib.import_module"}
    return isinstance(node, ast.Import | ast.ImportFrom)


@pytest.mark.parametrize("module", NAMES)
def test_no_module_imports_inside_a_function(module: str) -> None:
    assert [f"line {node.lineno}" for node, inside in nodes_of(module) if inside and is_import(node)] == []


@pytest.mark.parametrize("module", NAMES)
def test_no_module_is_longer_than_a_reader_s_patience(module: str) -> None:
    assert len(NAMES[module].read_text("utf-8").splitlines()) <= MAX_LINES
