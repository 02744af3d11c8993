"""Which of several upstreams a session's hooks go to: by weight, and each session always to the same one.

Weighted rendezvous hashing (Thaler and Ravishankar, 1998; with weights: Wang and others, "Weighted distributed hash
tables", 2005): every upstream draws a number for the session, from nothing but the two names, and the best one gets
it. So all processes agree without communicating, today and after a restart; and an upstream that gets more weight
only wins sessions, none of which move between the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import log
from typing import Final, NamedTuple

_BITS: Final = 52
"""Bits of a draw: a float can represent the middle of every step between 0 and 1, and none becomes 0 or 1."""


class Share(NamedTuple):
    """An upstream and its weight among the others; 0 = no session goes there."""

    name: str
    weight: int


class Split:
    """Shares out sessions. Raises ValueError where no weight is above 0."""

    __slots__ = ("_draws", "_only")

    def __init__(self, shares: Sequence[Share]) -> None:
        # By name, so that the order in the file decides nothing, not even when two draw the same.
        weighty = sorted(share for share in shares if share.weight > 0)
        if not weighty:
            raise ValueError("must give at least one upstream a weight above 0")
        self._only = weighty[0].name if len(weighty) == 1 else None
        # A session's hash begins with the name's: to continue from its state is cheaper than to start again.
        self._draws = [(share.name, float(share.weight), _hash_start(share.name)) for share in weighty]

    @property
    def names(self) -> set[str]:
        """The upstreams that have a share."""
        return {name for name, _, _ in self._draws}

    def choose(self, key: str) -> str:
        """The name of the upstream for this session."""
        if self._only is not None:
            return self._only
        data = key.encode("utf-8", "surrogatepass")
        winner, best = "", -1.0
        for name, weight, begun in self._draws:
            draw = begun.copy()
            draw.update(data)
            score = weight / -log(_uniform(draw.digest()))
            if score > best:
                winner, best = name, score
        return winner


def _uniform(digest: bytes) -> float:
    """A number between 0 and 1, neither of them, from 8 bytes."""
    return ((int.from_bytes(digest, "big") >> (64 - _BITS)) + 0.5) / (1 << _BITS)


def _hash_start(name: str) -> blake2b:
    text = name.encode("utf-8", "surrogatepass")
    # The length in front: "a" with session "bc" is not "ab" with session "c".
    return blake2b(len(text).to_bytes(4, "big") + text, digest_size=8)
