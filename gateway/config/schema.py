"""The configuration's JSON Schema (draft 2020-12), for editors."""

from __future__ import annotations

from typing import Any, Final

from gateway.config.sections.root import Config

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema of a configuration file; what crosses sections (references, budgets) only ``check`` can see."""
    schema = _tidy(Config.model_json_schema())
    return {"$schema": DIALECT, **schema, "title": "wcs-gateway configuration"}


def _tidy(node: Any) -> Any:
    """Without the titles that repeat the keys, and without defaults that only mean *left out*."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "patternProperties" in node:  # names that match no pattern are errors, as the loader says
        node = {**node, "additionalProperties": False}
    return {
        key: {name: _tidy(inner) for name, inner in value.items()} if key == "properties" else _tidy(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
    }
