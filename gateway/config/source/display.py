"""Values as the file has them, for screens and labels: what a reference brings in may be a secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

from gateway.config.source.references import REFERENCE

_UNKNOWN: Final = "…"
_MASK: Final = "***"


def mask_text(text: str) -> str:
    """The references of a secret as the file has it, with everything between them as ``***``."""
    parts: list[str] = []
    end = 0
    for match in REFERENCE.finditer(text):
        if match.group(1) is None:
            continue
        parts += [_MASK] if match.start() > end else []
        parts.append(match.group())
        end = match.end()
    return "".join(parts) + (_MASK if end < len(text) or not text else "")


def display_value(value: str, shown: Mapping[str, Any], *path: str) -> str:
    """The value, or what the file has at its path where that holds a reference."""
    written = display_secret(shown, *path)
    return written if written == _UNKNOWN or REFERENCE.search(written) else value


def display_secret(shown: Mapping[str, Any], *path: str) -> str:
    """What the file has at a path, its secrets masked."""
    node: Any = shown
    for segment in path:
        node = node.get(segment) if isinstance(node, Mapping) else None
    return node if isinstance(node, str) else _UNKNOWN


def display_urls(shown: Mapping[str, Any], upstream: str, count: int) -> Sequence[str]:
    """The URLs of an upstream's targets as the file has them."""
    try:
        section = shown["upstreams"][upstream]
        urls = [target["url"] for target in section["targets"]] if "targets" in section else [section["url"]]
    except (KeyError, TypeError):
        urls = []
    return [str(url) for url in islice(urls, count)] if len(urls) == count else [_UNKNOWN] * count
