"""Every place of a configuration at which a value can stand, found in the JSON Schema, and documents that have it.

A key that the schema gains is found here by itself, with values that it takes: the schema's own examples, its words and
bounds, or one of ``PLAUSIBLE``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

Document = dict[str, Any]
Node = dict[str, Any]
Path = tuple[str | int, ...]
Takes = Callable[[Document], bool]

ANY: Final = "*"
"""Stands in a path for a name that is the user's own."""
PLAUSIBLE: Final[tuple[Any, ...]] = (
    "u", "v", "off", "allow", "reject", "3s", "1MiB", "caller", "OnCallEvent", "connect", "X", "Sat,Sun UTC", "FAIL",
    "certificate.pem", "key.pem", "hooks.jsonl", "50/s", "10%", ":0", "10.0.0.0/8", "http://127.0.0.1:1/x", "text",
    1, 2, 0.5, True, False,
)  # fmt: skip
"""Values of which some key that has no example may take one."""
_NAMES: Final = ("OnCallEvent", "ErrorEvent", "restOnError", "X-Key", "timeout", "callee", "fresh")
"""Names of the user's own, for mappings in which the document has none."""
_MOST_VALUES: Final = 8
_MOST_DOCUMENTS: Final = 4


class Raw(str):
    """A scalar that is written without quotes, as it stands here."""

    __slots__ = ()


@dataclass
class Place:
    """Somewhere a value can stand."""

    path: Path
    """With ``*`` for a name of the user's own, and 0 for an item of a list."""
    nodes: list[Node]
    """What the schema says of it: one node, or alternatives."""
    valid: list[tuple[Path, Document]] = field(default_factory=list)
    """Documents that load and have a value there, each with the path at which it stands in that document."""

    def __str__(self) -> str:
        return ".".join(map(str, self.path))

    @property
    def values(self) -> list[Any]:
        """What is known to be taken there."""
        return [value_at(document, path) for path, document in self.valid]

    @property
    def takes_names(self) -> bool:
        """Whether it is a mapping whose names are the user's own."""
        return any(_named(node) is not None for node in self.nodes)


def places(schema: Node) -> Iterator[Place]:
    """Every place that the schema knows, sections before what is in them."""
    yield from _places(schema, Place((), [schema]))


def fill(place: Place, schema: Node, base: Document, takes: Takes) -> None:
    """Find documents that have a valid value at the place: *base* with one put there."""
    paths = _written_out(base, place.path)
    for path in paths:
        if value_at(base, path) is not None:
            place.valid.append((path, base))
            paths = [path]
            break
    likely = list(_distinct(value for node in place.nodes for value in _values(schema, node)))
    for value in (*likely, *PLAUSIBLE):
        for path in paths:
            document = put(base, path, value, schema)
            if takes(document):
                place.valid.append((path, document))
                paths = [path]
                break
        if len(place.valid) >= (_MOST_VALUES if value in likely[:-1] else 1):
            return


def put(base: Document, path: Path, value: Any, schema: Node | None = None) -> Document:
    """A copy of the document with a value at this path; sections that it lacks are made, with what they require."""
    document = copy.deepcopy(base)
    holder: Any = document
    nodes = [] if schema is None else [schema]
    for segment, following in zip(path, (*path[1:], None), strict=True):
        over = nodes
        nodes = [below for node in nodes for below in _below(schema or {}, node, segment)]
        if following is None:
            _leave_room(holder, segment, over)
            _set(holder, segment, value)
        elif not isinstance(_get(holder, segment), dict | list):
            fresh: Any = {} if isinstance(following, str) else []
            for node in nodes:
                if isinstance(following, str) and node.get("type") == "object":
                    fresh = _least(schema or {}, node, following)
            _set(holder, segment, fresh)
        holder = _get(holder, segment)
    return document


def value_at(document: Document, path: Path) -> Any:
    """What stands there."""
    value: Any = document
    for segment in path:
        value = _get(value, segment)
    return value


def written(document: Document, *, ascii_only: bool) -> str:
    """The document as YAML, each section on lines of its own."""
    return "".join(f"{_scalar(key, ascii_only)}: {_flow(value, ascii_only)}\n" for key, value in document.items())


# --- the schema ---


def _places(schema: Node, place: Place) -> Iterator[Place]:
    if place.path:
        yield place
    below: dict[str | int, list[Node]] = {}
    for node in place.nodes:
        for key, inner in node.get("properties", {}).items():
            below.setdefault(key, []).extend(_alternatives(schema, inner))
        if (named := _named(node)) is not None:
            below.setdefault(ANY, []).extend(_alternatives(schema, named))
        if isinstance(items := node.get("items"), dict):
            below.setdefault(0, []).extend(_alternatives(schema, items))
    for segment, nodes in below.items():
        yield from _places(schema, Place((*place.path, segment), nodes))


def _alternatives(schema: Node, node: Node) -> list[Node]:
    """One node, or those of which one must hold; references followed."""
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/$defs/")
        node = {**schema["$defs"][name], **{key: value for key, value in node.items() if key != "$ref"}}
    either: list[Node] = node.get("anyOf") or node.get("oneOf") or []
    choices = [choice for choice in either if choice.keys() - {"required"}]
    if not choices or "properties" in node:
        return [node]
    return [found for choice in choices for found in _alternatives(schema, choice)]


def _named(node: Node) -> Node | None:
    """What stands under names of the user's own."""
    for inner in node.get("patternProperties", {}).values():
        return dict(inner)
    more = node.get("additionalProperties")
    return more if isinstance(more, dict) else None


def _below(schema: Node, node: Node, segment: str | int) -> list[Node]:
    inner = node.get("items") if isinstance(segment, int) else node.get("properties", {}).get(segment, _named(node))
    return _alternatives(schema, inner) if isinstance(inner, dict) else []


# --- values ---


def _distinct(values: Iterator[Any]) -> Iterator[Any]:
    seen = set()
    for value in values:
        mark = json.dumps(value, sort_keys=True)
        if mark not in seen:
            seen.add(mark)
            yield value


def _values(schema: Node, node: Node) -> Iterator[Any]:
    yield from node.get("examples", ())
    yield from node.get("enum", ())
    if "const" in node:
        yield node["const"]
    yield from (node[bound] for bound in ("default", "minimum", "maximum") if bound in node)
    if node.get("type") == "object":
        yield _least(schema, node, None)
        if (named := _named(node)) is not None:
            yield {_NAMES[0]: _sample(schema, named)}
    elif node.get("type") == "array" and isinstance(node.get("items"), dict):
        yield [_sample(schema, node["items"])]
        yield []


def _sample(schema: Node, node: Node) -> Any:
    for alternative in _alternatives(schema, node):
        for value in _values(schema, alternative):
            return value
    return PLAUSIBLE[0]


def _least(schema: Node, node: Node, wanted: str | None) -> Node:
    """A mapping with what it requires, beside the *wanted* key: of alternatives the one that requires this."""
    required = [*node.get("required", ()), *node.get("dependentRequired", {}).get(wanted, ())]
    choices = [
        choice["required"] for choice in (*node.get("oneOf", ()), *node.get("anyOf", ())) if "required" in choice
    ]
    if choices and not any(wanted in choice for choice in choices):
        required += choices[0]
    properties = node.get("properties", {})
    return {key: _sample(schema, properties[key]) for key in required if key != wanted and key in properties}


def _written_out(base: Document, path: Path) -> list[Path]:
    """The path with names of this document, and with a fresh one, for each ``*``."""
    found: list[Path] = [()]
    for segment in path:
        longer: list[Path] = []
        for begun in found:
            holder = value_at(base, begun)
            if segment != ANY:
                longer.append((*begun, segment))
                continue
            names = list(holder) if isinstance(holder, dict) else []
            names += [name for name in _NAMES if name not in names][: 1 if names else None]
            longer += ((*begun, name) for name in names)
        found = longer
    # Those that the document has come first, for nothing is missing around them.
    return sorted(found, key=lambda it: value_at(base, it) is None)[: _MOST_DOCUMENTS * len(_NAMES)]


def _leave_room(holder: Any, segment: str | int, nodes: list[Node]) -> None:
    """Take away what the key excludes: of alternatives, the others."""
    for node in nodes if isinstance(holder, dict) else ():
        choices = [choice["required"] for choice in node.get("oneOf", ()) if "required" in choice]
        if any(segment in choice for choice in choices):
            for key in {key for choice in choices if segment not in choice for key in choice}:
                holder.pop(key, None)


def _get(holder: Any, segment: str | int) -> Any:
    if isinstance(holder, dict):
        return holder.get(segment)
    if isinstance(holder, list) and isinstance(segment, int) and segment < len(holder):
        return holder[segment]
    return None


def _set(holder: Any, segment: str | int, value: Any) -> None:
    if isinstance(holder, list):
        holder[:1] = [value]
    else:
        holder[segment] = value


# --- YAML ---


def _flow(value: Any, ascii_only: bool) -> str:
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{_scalar(key, ascii_only)}: {_flow(it, ascii_only)}" for key, it in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item, ascii_only) for item in value) + "]"
    return _scalar(value, ascii_only)


def _scalar(value: Any, ascii_only: bool) -> str:
    if isinstance(value, Raw):
        return value
    if isinstance(value, float):
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(value), repr(value))
    return json.dumps(value, ensure_ascii=ascii_only)
