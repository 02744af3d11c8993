"""Results of the last shadow copies, by request id, for the journal; bounded in number and bytes."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Final

import msgspec

from gateway.model.text import shorten
from gateway.policy.comparison import Finding
from gateway.policy.shadow import ShadowResult

MAX_RESULTS: Final = 2000
"""Results that are kept."""
MAX_BYTES: Final = 2 * 1024 * 1024
"""Bytes that they take at most, roughly."""
_OVERHEAD: Final = 512
"""Bytes that a result takes besides its texts, roughly."""
DIFFERS: Final = "differs"
"""What a query says for any answer that differs."""
DIFFERING: Final = frozenset((Finding.VERDICT_DIFFERS, Finding.BODY_DIFFERS))


class _Newest:
    """The newest results of a kind."""

    __slots__ = ("bytes", "held", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.held: OrderedDict[str, tuple[ShadowResult, int]] = OrderedDict()
        self.bytes = 0

    def put(self, request_id: str, result: ShadowResult, size: int) -> None:
        self.held[request_id] = (result, size)
        self.bytes += size
        while self.bytes > MAX_BYTES // 2 or len(self.held) > self.most:
            self.drop(next(iter(self.held)))

    def drop(self, request_id: str) -> None:
        found = self.held.pop(request_id, None)
        if found is not None:
            self.bytes -= found[1]


class ShadowResults:
    """Results by request id; those that differ outlast those that agree."""

    def __init__(self) -> None:
        self._differing = _Newest(MAX_RESULTS // 4)
        self._others = _Newest(MAX_RESULTS - MAX_RESULTS // 4)

    @property
    def bytes(self) -> int:
        """What they take, roughly."""
        return self._differing.bytes + self._others.bytes

    def record(self, request_id: str, result: ShadowResult) -> None:
        """Keep a result; the oldest make room."""
        result = msgspec.structs.replace(result, error=shorten(result.error))
        texts = [text for each in result.differences for text in (each.path, each.ours, each.theirs) if text]
        size = _OVERHEAD + sum(map(sys.getsizeof, (request_id, result.error, *texts)))
        self._differing.drop(request_id)
        self._others.drop(request_id)
        (self._differing if result.outcome in DIFFERING else self._others).put(request_id, result, size)

    def find(self, request_id: str) -> ShadowResult | None:
        """The result for a hook's copy, while it is kept."""
        found = self._differing.held.get(request_id) or self._others.held.get(request_id)
        return None if found is None else found[0]


def outcome_matches(wanted: str | None, result: ShadowResult | None) -> bool:
    """Whether a result is what is asked for: an outcome, DIFFERS, or None for any."""
    if wanted is None:
        return True
    outcome = None if result is None else result.outcome
    return outcome in DIFFERING if wanted == DIFFERS else outcome == wanted
