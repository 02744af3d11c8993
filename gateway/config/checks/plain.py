"""The file's plain data, of which any part may have the wrong type: the model reports that, the checks pass over it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

from gateway.config.source.problems import Path


def is_mapping(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether it is a mapping."""
    return isinstance(value, dict)


def as_list(value: object) -> list[Any]:
    """The list, or an empty one for anything else."""
    return value if isinstance(value, list) else []


def mappings(value: object) -> list[dict[str, Any]]:
    """The items of a list that are mappings."""
    return [item for item in as_list(value) if is_mapping(item)]


def texts(path: Path, value: object) -> Iterator[tuple[Path, str]]:
    """The texts of one, or of a list, each with its place."""
    if isinstance(value, str):
        yield path, value
    for index, item in enumerate(as_list(value)):
        if isinstance(item, str):
            yield (*path, index), item
