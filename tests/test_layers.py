"""The rooms of the house: who may import whom, read from the source itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gateway"
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS: Final = {
    "alarm": 0,
    "signals": 0,
    "changes": 0,
    "loops": 0,
    "console": 0,
    "headernames": 0,
    "hooks": 0,
    "methodkeys": 0,
    "delivery": 0,
    "repair": 0,
    "clientconfig": 0,
    "jsonedit": 0,
    "settingstore": 0,
    "tracecontext": 0,
    "verdicts": 0,
    "ratelimit": 0,
    "split": 0,
    "comparison": 0,
    "sampling": 0,
    "shadow": 0,
    "breaker": 0,
    "balance": 0,
    "latency": 0,
    "notify": 0,
    "retry": 0,
    "access": 0,
    "rules": 0,
    "tls": 0,
    "config": 1,
    "transport": 1,
    "metrics": 1,
    "log": 1,
    "forwarding": 1,
    "front": 1,
    "sharing": 1,
    "dedupe": 1,
    "recording": 1,
    "meaning": 1,
    "sessions": 1,
    "routing": 2,
    "tenants": 2,
    "shadownotes": 2,
    "shadowing": 2,
    "journal": 2,
    "activity": 2,
    "insights": 2,
    "upstreams": 2,
    "requests": 2,
    "proving": 3,
    "runtime": 3,
    "reloading": 3,
    "replay": 3,
    "tracing": 3,
    "documents": 3,
    "life": 4,
    "proxy": 4,
    "admin": 4,
    "lifecycle": 4,
    "app": 5,
    "server": 5,
    "demo": 6,
    "cli": 6,
    "__main__": 7,
}
"""A room imports rooms of lower layers only."""

NEIGHBOURS: Final = {
    ("config", "recording"),
    ("rules", "hooks"),
    ("methodkeys", "hooks"),
    ("methodkeys", "rules"),
    ("rules", "verdicts"),
    ("verdicts", "hooks"),
    ("verdicts", "tracecontext"),
    ("retry", "verdicts"),
    ("repair", "hooks"),
    ("clientconfig", "hooks"),
    ("clientconfig", "jsonedit"),
    ("verdicts", "jsonedit"),
    ("comparison", "verdicts"),
    ("shadow", "comparison"),
    ("shadow", "rules"),
    ("sampling", "hooks"),
    ("shadow", "sampling"),
    ("shadow", "hooks"),
    ("shadowing", "upstreams"),
    ("journal", "shadownotes"),
    ("activity", "insights"),
    ("dedupe", "sharing"),
    ("transport", "sharing"),
    ("proxy", "life"),
    ("reloading", "proving"),
    ("routing", "tenants"),
    ("admin", "lifecycle"),
    ("app", "admin"),
    ("server", "app"),
    ("cli", "demo"),
}
"""The imports within a layer, importer first."""

MAX_LINES: Final = 500


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def room_of(module: str) -> str:
    return module.split(".")[1]


def resolved(module: str, node: ast.ImportFrom) -> str:
    """The module that a ``from`` names, relative ones included."""
    if not node.level:
        return node.module or ""
    package = module.split(".") if NAMES[module].name == "__init__.py" else module.split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def imports_of(module: str) -> Iterator[str]:
    """The gateway's own modules that a module imports, the submodules that ``from`` takes included."""
    for node in ast.walk(ast.parse(NAMES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in NAMES)
        elif isinstance(node, ast.ImportFrom):
            source = resolved(module, node)
            submodules = {f"{source}.{alias.name}" for alias in node.names} & NAMES.keys()
            yield from submodules
            if source in NAMES and len(submodules) < len(node.names):
                yield source


def edges() -> dict[str, set[str]]:
    return {module: set(imports_of(module)) - {module} for module in NAMES}


def test_the_reader_sees_absolute_and_relative_imports_and_submodules() -> None:
    found = edges()
    assert "gateway.verdicts" in found["gateway.proxy"]
    assert "gateway.config.model" in found["gateway.config.load"]
    assert "gateway.cli.serving" in found["gateway.cli.main"]


def test_every_room_is_in_the_table_and_every_entry_of_it_is_a_room() -> None:
    assert {room_of(module) for module in NAMES if module != "gateway"} == set(LAYERS)


def test_the_rooms_below_import_nothing_from_those_above() -> None:
    wrong = [
        f"{module} (layer {LAYERS[room]}) imports {target} (layer {LAYERS[room_of(target)]})"
        for module, targets in edges().items()
        for target in sorted(targets)
        if module != "gateway" and target != "gateway"
        for room in [room_of(module)]
        if room != room_of(target)
        and LAYERS[room_of(target)] >= LAYERS[room]
        and (room, room_of(target)) not in NEIGHBOURS
    ]
    assert wrong == []


def test_every_neighbour_is_needed() -> None:
    crossed = {
        (room_of(module), room_of(target))
        for module, targets in edges().items()
        for target in targets
        if module != "gateway" and target != "gateway"
    }
    assert NEIGHBOURS - crossed == set()


def test_the_package_itself_imports_no_room() -> None:
    assert edges()["gateway"] == set()


def test_no_import_goes_in_a_circle() -> None:
    # A package's __init__ that gathers its modules' names is imported before each of them without needing it.
    try:
        TopologicalSorter(edges()).prepare()
    except CycleError as exc:
        pytest.fail(f"circle: {' -> '.join(exc.args[1])}")


@pytest.mark.parametrize("module", NAMES)
def test_no_module_imports_inside_a_function(module: str) -> None:
    tree = ast.parse(NAMES[module].read_text("utf-8"))
    inside = [
        f"line {node.lineno}"
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Call) and ast.unparse(node.func) in {"__import__", "importlib.import_module"})
    ]
    assert inside == []


@pytest.mark.parametrize("module", NAMES)
def test_no_module_is_longer_than_a_reader_s_patience(module: str) -> None:
    assert len(NAMES[module].read_text("utf-8").splitlines()) <= MAX_LINES
