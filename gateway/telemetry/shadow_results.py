"""What came of the last copies that candidates got, for the journal; bounded in number and bytes."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Final, Protocol

import msgspec

from gateway.model.text import shorten
from gateway.policy.comparison import Difference, Finding

MAX_NOTES: Final = 2000
"""Shadows' results that are remembered."""
MAX_NOTED: Final = 2 * 1024 * 1024
"""Bytes that they take at most, about."""
_OWN_NOTE: Final = 512
"""Bytes that a shadow's result takes besides its texts, about."""
DIFFERS: Final = "differs"
"""What a query writes for any shadow that answered otherwise."""
DIFFERING: Final = frozenset((Finding.VERDICT_DIFFERS, Finding.BODY_DIFFERS))


class ShadowResult(Protocol):
    """What came of a hook's copy that a candidate got."""

    @property
    def upstream(self) -> str:
        """The candidate."""

    @property
    def outcome(self) -> str:
        """A Finding, or a word of the shadow's own."""

    @property
    def status(self) -> int | None:
        """Of its answer."""

    @property
    def error(self) -> str:
        """Why it gave no verdict."""

    @property
    def duration_ms(self) -> float:
        """How long it took."""

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Where its answer differs from ours."""


class Shadow(msgspec.Struct, frozen=True, gc=False):
    """The same, as it is shown."""

    upstream: str
    outcome: str
    status: int | None
    error: str
    duration_ms: float
    differences: tuple[Difference, ...]


class _Notes:
    """The last ones of a kind."""

    __slots__ = ("bytes", "held", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.held: OrderedDict[str, tuple[Shadow, int]] = OrderedDict()
        self.bytes = 0

    def put(self, request_id: str, shadow: Shadow, size: int) -> None:
        self.held[request_id] = (shadow, size)
        self.bytes += size
        while self.bytes > MAX_NOTED // 2 or len(self.held) > self.most:
            self.drop(next(iter(self.held)))

    def drop(self, request_id: str) -> None:
        noted = self.held.pop(request_id, None)
        if noted is not None:
            self.bytes -= noted[1]


class ShadowResults:
    """What came of the last copies, by request id; those that were answered otherwise outlast those answered alike."""

    def __init__(self) -> None:
        self._differing = _Notes(MAX_NOTES // 4)
        self._others = _Notes(MAX_NOTES - MAX_NOTES // 4)

    @property
    def bytes(self) -> int:
        """What they take, about."""
        return self._differing.bytes + self._others.bytes

    def note(self, request_id: str, result: ShadowResult) -> None:
        """Remember it; the oldest make room."""
        shadow = Shadow(
            result.upstream,
            result.outcome,
            result.status,
            shorten(result.error),
            result.duration_ms,
            tuple(result.differences),
        )
        texts = [text for each in shadow.differences for text in (each.path, each.ours, each.theirs) if text]
        size = _OWN_NOTE + sum(map(sys.getsizeof, (request_id, shadow.error, *texts)))
        self._differing.drop(request_id)
        self._others.drop(request_id)
        (self._differing if shadow.outcome in DIFFERING else self._others).put(request_id, shadow, size)

    def of(self, request_id: str) -> Shadow | None:
        """What came of this hook's copy, if that is (still) known."""
        noted = self._differing.held.get(request_id) or self._others.held.get(request_id)
        return None if noted is None else noted[0]


def outcome_matches(wanted: str | None, shadow: Shadow | None) -> bool:
    """Whether a copy came to what is wanted: an outcome, DIFFERS, or None for whatever there is."""
    if wanted is None:
        return True
    outcome = None if shadow is None else shadow.outcome
    return outcome in DIFFERING if wanted == DIFFERS else outcome == wanted
