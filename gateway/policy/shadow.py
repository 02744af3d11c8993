"""An app's shadow: which candidate gets copies of which hooks, and how its answers are compared.

A copy carries ``X-Gateway-Shadow: 1``. A backend that sees it must not act: the real hook has been decided already, by
another. No media server sends that field; one that a client sends is passed on like any other, so that a copy stays
one behind a second gateway too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from gateway.model.hooks import Hook, MethodType
from gateway.policy.comparison import Compare, Difference
from gateway.policy.rules.globs import compile_glob, fold, is_glob
from gateway.policy.sampling import Sample

DEFAULT_METHODS: Final = ("OnCallEvent", "OnMessageEvent", "OnTransferEvent")
"""The incoming methods: questions without side effects. An event writes CDRs, ``connect`` begins a session."""
PREFIX: Final = "shadow:"
"""Begins the name that a candidate has as an upstream of its own; the configuration's names cannot."""
MARK: Final = b"x-gateway-shadow: 1\r\n"
"""The header line that marks a copy."""
DROPPED: Final = "dropped"
"""The outcome of a copy that came to nothing for the gateway's own reasons: no room, too old, or the end of it all."""


class ShadowSettings(NamedTuple):
    """A candidate that gets copies of hooks after they were answered."""

    upstream: str
    sample: float = 1.0
    """Share of the sessions whose hooks are copied: above 0, up to 1."""
    methods: tuple[str, ...] = DEFAULT_METHODS
    """Names, globs or types, in upper or lower case; ``*`` is all of them."""
    compare: Compare = Compare.VERDICT
    ignore: frozenset[str] = frozenset()
    """Fields, or dotted paths of fields, that may differ."""


class ShadowResult(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a copy, for the journal."""

    upstream: str
    outcome: str
    """A comparison's Finding."""
    status: int | None
    """Of the candidate's answer; None where there was none."""
    error: str
    """Why the candidate gave no verdict."""
    duration_ms: float
    differences: tuple[Difference, ...]


class Shadow:
    """The same, ready for use: whether a hook is copied costs less than a microsecond."""

    __slots__ = ("_all", "_names", "_patterns", "_sample", "candidate", "settings", "upstream")

    def __init__(self, settings: ShadowSettings, kind: MethodType | None = None) -> None:
        """*kind*: the type of the methods that it is asked about, where they have one in common."""
        self.settings = settings
        self.upstream = settings.upstream
        self.candidate = candidate_name(settings.upstream)
        methods = [fold(method) for method in settings.methods]
        self._all = kind is not None and kind.value in methods
        self._names = frozenset((*settings.methods, *(method for method in methods if not is_glob(method))))
        self._patterns = [compile_glob(method).fullmatch for method in methods if is_glob(method)]
        self._sample = Sample(settings.sample)

    def __repr__(self) -> str:
        return f"<Shadow {self.settings}>"

    def covers(self, method: str) -> bool:
        """Whether hooks of this method are copied."""
        if self._all or method in self._names:
            return True
        method = fold(method)
        return method in self._names or any(matches(method) for matches in self._patterns)

    def takes(self, hook: Hook, request_id: str, method: str = "") -> bool:
        """Whether the hook is in the sample."""
        return self._sample.takes(hook, request_id, method)


@lru_cache(1024)
def find_shadow(
    settings: ShadowSettings | None, method: str | None = None, kind: MethodType | None = None
) -> Shadow | None:
    """A route's shadow, one object for all that are alike; None where there is none for this method.

    *kind*: the type of the route's methods.
    """
    if settings is None:
        return None
    shadow = Shadow(settings, kind)
    return None if method is not None and not shadow.covers(method) else shadow


def candidate_name(upstream: str) -> str:
    """The name under which a shadow's candidate is an upstream of its own."""
    return PREFIX + upstream
