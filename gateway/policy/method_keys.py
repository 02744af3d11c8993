"""Keys that select methods: an exact name, a glob of names, or one of the four types. The most specific one first.

Pure. Names, globs and types are case-sensitive: the media server has ``sendDTMF`` and
``sendDtmf``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from gateway.model.hooks import CATALOGUE, MethodType
from gateway.policy.rules.globs import compile_glob, is_glob

TYPES: Final = frozenset(kind.value for kind in MethodType)
"""The words that stand for all methods of a type; ``connect`` is a method's name too."""


def is_name(key: str) -> bool:
    """Whether a key names exactly one method."""
    return not is_glob(key) and (key not in TYPES or key in CATALOGUE)


class MethodKeys:
    """The keys of one mapping, ready to be asked which of them a method meets."""

    __slots__ = ("_globs", "_keys")

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = frozenset(keys)
        # Of two that are equally long, the one that was written first.
        globs = sorted(filter(is_glob, keys), key=len, reverse=True)
        self._globs = [(glob, compile_glob(glob).fullmatch) for glob in globs]

    def __len__(self) -> int:
        return len(self._keys)

    def ranks(self, method: str, kind: MethodType) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """The keys that this method meets: its name, globs (the longest first), its type; each key once."""
        name = (method,) if method in self._keys and is_name(method) else ()
        if method in TYPES and not is_name(method):  # a key itself, which only a glob for all takes in
            globs = tuple(glob for glob, _ in self._globs if not glob.strip("*"))
        else:
            globs = tuple(glob for glob, matches in self._globs if matches(method) is not None or glob == method)
        return name, globs, (kind.value,) if kind.value in self._keys and kind.value not in name else ()

    def matching(self, method: str, kind: MethodType) -> tuple[str, ...]:
        """All of them, the most specific one first."""
        name, globs, types = self.ranks(method, kind)
        return name + globs + types


def known_methods(hook_types: Mapping[str, MethodType]) -> dict[str, MethodType]:
    """The methods of the catalogue and of ``hook_types``, with the types that count."""
    return {**CATALOGUE, **hook_types}
