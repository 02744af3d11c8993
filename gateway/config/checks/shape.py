"""The configuration's shape as the model declares it: which keys each mapping has, and where secrets may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, SecretStr

from gateway.config.sections.root import Config
from gateway.config.sections.types import ReadAs
from gateway.config.source.document import Document, Node, Scalar, Sequence
from gateway.config.source.problems import Path
from gateway.config.source.references import REFERENCE

_ANY: Final = "*"
_MASK: Final = "***"


def keys_at(path: Path) -> tuple[str, ...]:
    """The keys that the mapping at a path may have; empty where they are the user's own names."""
    below: Any = Config
    for segment in path:
        keys = _child_annotations(below)
        below = keys.get(segment) if isinstance(segment, str) and segment in keys else keys.get(_ANY)
    return tuple(key for key in _child_annotations(below) if key != _ANY)


def may_hold_secret(path: Path) -> bool:
    """Whether a value at this path is a secret, or is written where a secret, or what contains it, is expected."""
    return any(
        len(path) >= nearest and all(wanted in (_ANY, got) for wanted, got in zip(secret, path, strict=False))
        for secret, nearest in _NEAREST
    )


def mask_secrets(document: Document) -> dict[str, Any]:
    """The file as written, references unexpanded, literal secrets as ``***``: fit for an operator's screen."""
    whole: dict[str, Any] = _mask_node(document.root, SECRET_PATHS)
    return whole


def _child_annotations(annotation: Any) -> dict[str, Any]:
    if isinstance(annotation, ReadAs):
        annotation = annotation.model
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {name: field.rebuild_annotation() for name, field in annotation.model_fields.items()}
    if get_origin(annotation) is dict:
        return {_ANY: get_args(annotation)[1]}
    if get_origin(annotation) is tuple:
        return {_ANY: get_args(annotation)[0]}
    for argument in get_args(annotation):
        if below := _child_annotations(argument):
            return below
    return {}


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(map(_is_secret, get_args(annotation)))


def _secret_paths(annotation: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    below = _child_annotations(annotation)
    if not below and _is_secret(annotation):
        yield above
    for key, inner in below.items():
        yield from _secret_paths(inner, (*above, key))


SECRET_PATHS: Final = tuple(_secret_paths(Config))
"""Key paths of the model's secrets, with ``*`` for any key and for a list's items."""
_NEAREST: Final = tuple((path, len(path) - (2 if path[-1] == _ANY else 1)) for path in SECRET_PATHS)
"""Each with the length of the path of the section that it is in."""


def _mask_node(node: Node, secrets: tuple[tuple[str, ...], ...]) -> Any:
    """*secrets* are the paths, from this node down, of secrets in it."""
    if isinstance(node, Scalar):
        return _mask_scalar(node) if () in secrets else _source_value(node)
    if isinstance(node, Sequence):
        return [_mask_node(item, _inside(secrets, _ANY)) for item in node.items]
    if not secrets:
        return {key: _mask_node(entry.node, ()) for key, entry in node.entries.items()}
    return {key: _mask_node(entry.node, _inside(secrets, key)) for key, entry in node.entries.items()}


def _inside(secrets: tuple[tuple[str, ...], ...], key: str) -> tuple[tuple[str, ...], ...]:
    return tuple(path[1:] for path in secrets if path and path[0] in (_ANY, key))


def _source_value(node: Scalar) -> Any:
    return node.text if isinstance(node.value, str) else node.value


def _mask_scalar(node: Scalar) -> Any:
    """The secret's references, with everything between them masked."""
    references = [match.group() for match in REFERENCE.finditer(node.text) if match.group(1) is not None]
    if not references or not isinstance(node.value, str):
        return _MASK
    parts: list[str] = []
    end = 0
    for match in REFERENCE.finditer(node.text):
        if match.group(1) is None:
            continue
        parts += [_MASK] if match.start() > end else []
        parts.append(match.group())
        end = match.end()
    return "".join(parts) + (_MASK if end < len(node.text) else "")
