"""Validation errors in plain words, at the place of the file that they are about."""

from __future__ import annotations

from typing import Final

from pydantic_core import ErrorDetails

from gateway.config.checks.shape import keys_at, may_hold_secret
from gateway.config.sections.types import INVALID, INVALID_VALUE
from gateway.config.source.document import Document, Mapping, Node, Scalar, Unresolved, is_from_reference
from gateway.config.source.problems import MAX_QUOTED, NameSuggester, Path, Problem, quote

_KEY_MARK: Final = "[key]"
_FORMS: Final = {
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "tuple_type": "must be a list",
    "frozen_set_type": "must be a list",
    "too_long": "must be a shorter list: each once",
}


def explain(document: Document, error: ErrorDetails, suggester: NameSuggester) -> Problem | None:
    """One of pydantic's errors as a Problem; None where another problem has been reported of the same value."""
    kind, path = error["type"], error["loc"]
    if kind == "missing":
        return document.problem(path, "is required")
    if kind == "extra_forbidden":
        return document.problem(path, f"unknown key{suggester.suggest(str(path[-1]), keys_at(path[:-1]))}")
    path, is_key = _locate(document, path)
    node = document.node(path)
    if isinstance(node, Unresolved) and not is_key:
        return None
    context = error.get("ctx", {})
    if kind == INVALID:
        return document.problem(path, context["text"])
    if kind == INVALID_VALUE:
        form = context["text"]
        if not is_from_reference(node):
            form += context.get("hint", "")
    elif kind in {"literal_error", "enum"}:
        form = "must be " + context["expected"].replace("'", "")
    else:
        form = _FORMS.get(kind, "is not valid here")
    if is_key or kind == "too_long" or node is None or may_hold_secret(path):
        return document.problem(path, form)
    return document.problem(path, f"{form}, not {_quote_node(node)}")


def _locate(document: Document, path: Path) -> tuple[Path, bool]:
    """The part of pydantic's location that the file has, and whether the key itself is meant."""
    if path and path[-1] == _KEY_MARK and document.node(path) is None:
        return path[:-1], True
    while document.node(path) is None:  # one value that stands for a list of one
        path = path[:-1]
    return path, False


def _quote_node(node: Node) -> str:
    """The value as the file has it, bounded; references stay unexpanded."""
    if not isinstance(node, Scalar):
        return "a mapping" if isinstance(node, Mapping) else "a list"
    if isinstance(node.value, str):
        return quote(node.text)
    return node.text[:MAX_QUOTED] or "empty"
