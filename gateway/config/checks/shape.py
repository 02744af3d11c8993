"""The configuration's shape as the model declares it: which keys each mapping has, and where secrets may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, get_args, get_origin

from pydantic import BaseModel, SecretStr

from gateway.config.sections.root import Config
from gateway.config.sections.types import ReadAs, Value
from gateway.config.source.display import mask_text
from gateway.config.source.document import Document, Node, Scalar, Sequence
from gateway.config.source.problems import Path

_ANY: Final = "*"


class _Secret(NamedTuple):
    """Where a secret is."""

    path: tuple[str, ...]
    """With ``*`` for any key and for a list's items."""
    mask: Callable[[str], str]
    """Masks it in the text that the file has there."""


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
    whole: dict[str, Any] = _mask_node(document.root, _SECRETS)
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


def _mask_for(annotation: Any) -> Callable[[str], str] | None:
    """How a value of this type is masked; None where it is no secret."""
    if annotation is SecretStr:
        return mask_text
    if isinstance(annotation, Value):
        return annotation.mask
    return next(filter(None, map(_mask_for, get_args(annotation))), None)


def _secrets(annotation: Any, above: tuple[str, ...] = ()) -> Iterator[_Secret]:
    below = _child_annotations(annotation)
    if not below and (mask := _mask_for(annotation)) is not None:
        yield _Secret(above, mask)
    for key, inner in below.items():
        yield from _secrets(inner, (*above, key))


_SECRETS: Final = tuple(_secrets(Config))
_NEAREST: Final = tuple((path, len(path) - (2 if path[-1] == _ANY else 1)) for path, _ in _SECRETS)
"""Their paths, each with the length of the path of the section that it is in."""


def _mask_node(node: Node, secrets: tuple[_Secret, ...]) -> Any:
    """*secrets* are those in this node, with their paths from here down."""
    if isinstance(node, Scalar):
        mask = next((mask for path, mask in secrets if not path), None)
        return _source_value(node) if mask is None else mask(node.text if isinstance(node.value, str) else "")
    if isinstance(node, Sequence):
        return [_mask_node(item, _inside(secrets, _ANY)) for item in node.items]
    if not secrets:
        return {key: _mask_node(entry.node, ()) for key, entry in node.entries.items()}
    return {key: _mask_node(entry.node, _inside(secrets, key)) for key, entry in node.entries.items()}


def _inside(secrets: tuple[_Secret, ...], key: str) -> tuple[_Secret, ...]:
    return tuple(_Secret(path[1:], mask) for path, mask in secrets if path and path[0] in (_ANY, key))


def _source_value(node: Scalar) -> Any:
    return node.text if isinstance(node.value, str) else node.value
