"""A hook that comes more than once, byte for byte, is decided once.

The media server repeats a send that failed, and Java's client one whose connection closed under it. A repeat that
finds its original still in flight joins it; one that comes later gets the verdict of then, for as long as it is kept.

A hook is known by its method and the BLAKE2b digest of its body, which holds the appKey: the bodies of ten seconds
would fill the processor's caches, and memory that is cold costs far more than the digest. An answer that equals the
hook's own body is not kept either: who asks again brings it along. Whoever finds nothing begins a flight, in the same
step of the event loop::

    key = fingerprint(method, body)
    found = duplicates.find(key, body, now)
    if isinstance(found, Ruling):
        return found
    if found is not None:
        try:
            return await found
        except OwnerLost:
            ...  # decide on the terms of a failure, or find() again
    with duplicates.begin(key, body) as flight:
        ruling = await ask(...)
        flight.finish(ruling, now, keep)
"""

from __future__ import annotations

import asyncio
from collections import deque
from hashlib import blake2b
from types import TracebackType
from typing import Final

from gateway.verdicts import Ruling

MAX_ENTRIES: Final = 10_000
MAX_BYTES: Final = 32 * 1024 * 1024

_DIGEST: Final = 24
"""Bytes; whoever sought two hooks of one digest would have 2^96 to try."""

Key = bytes
"""What a hook is known by."""


class OwnerLost(Exception):
    """The hook that this one had joined ended without a verdict: it was cancelled, or failed inside the gateway.

    Its backend may have seen it, so asking again is a choice and not a matter of course.
    """


def fingerprint(method: str, body: bytes) -> Key:
    """What a hook is known by; a pass over the body, so once per hook."""
    return method.encode() + blake2b(body, digest_size=_DIGEST).digest()


class _Stored:
    """A verdict that is kept."""

    __slots__ = ("echoes", "expires", "keep", "key", "number", "ruling", "size")

    def __init__(self, key: Key, ruling: Ruling, *, echoes: bool, expires: float, keep: float, number: int) -> None:
        self.key = key
        self.ruling = ruling
        self.echoes = echoes
        """The answer's body is the hook's own, and not kept."""
        self.expires = expires
        self.keep = keep
        self.number = number
        self.size = len(key) + len(ruling.body)

    def ruling_for(self, body: bytes) -> Ruling:
        """The verdict, for the same hook come again."""
        return self.ruling.with_body(body) if self.echoes else self.ruling


class Flight:
    """A hook on its way to its verdict, and those who wait for the same one.

    A context manager: where a hook leaves it without ``finish`` or ``abandon`` (cancelled, or by an exception), those
    who joined are woken with OwnerLost and nothing is kept. The first word counts; later ones do nothing.
    """

    __slots__ = ("_body", "_duplicates", "_joined", "_key", "_settled")

    def __init__(self, duplicates: Duplicates, key: Key, body: bytes) -> None:
        self._duplicates = duplicates
        self._key = key
        self._body = body
        self._joined: list[asyncio.Future[Ruling]] = []
        self._settled = False

    def __repr__(self) -> str:
        method = self._key[:-_DIGEST].decode()
        return f"<Flight {method}, {len(self._joined)} joined{', settled' if self._settled else ''}>"

    def __enter__(self) -> Flight:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._settled:
            self._land()
            for waiter in self._joined:
                if not waiter.done():
                    waiter.set_exception(OwnerLost("the hook that this one repeats ended without a verdict"))
                    waiter.exception()  # counts as seen: one who has left meanwhile is nothing to log

    def join(self) -> asyncio.Future[Ruling]:
        """A future of one's own for the verdict: cancelling it touches nobody else's."""
        waiter: asyncio.Future[Ruling] = asyncio.get_running_loop().create_future()
        self._joined.append(waiter)
        return waiter

    def finish(self, ruling: Ruling, now: float, keep: float | None) -> None:
        """Give the verdict to all who joined and keep it for *keep* seconds from *now*, for those who come later.

        None keeps nothing: the backend cannot have seen the hook, so a repeat of it may ask.
        """
        if self._settled:
            return
        self._land()
        if keep is not None and keep > 0:
            self._duplicates.store(self._key, self._body, ruling, now, keep)
        self._wake(ruling)

    def abandon(self, ruling: Ruling) -> None:
        """Give those who joined this verdict and keep nothing."""
        if not self._settled:
            self._land()
            self._wake(ruling)

    def _land(self) -> None:
        self._settled = True
        self._duplicates.landed(self._key, self)

    def _wake(self, ruling: Ruling) -> None:
        for waiter in self._joined:
            if not waiter.done():
                waiter.set_result(ruling)


class Duplicates:
    """The hooks in flight and the verdicts of late, of one process.

    Bounded in count and in bytes, where the fingerprints count and the answers' bodies that are kept: the one kept
    longest makes room. Verdicts past their time go when the next is kept,
    or when one of them is asked for; there is no timer. Hooks in flight are bounded by whoever lets them in.
    """

    __slots__ = ("_bytes_held", "_known", "_max_bytes", "_max_entries", "_number", "_shelves", "_stored")

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._known: dict[Key, Flight | _Stored] = {}
        # One shelf per time of keeping, as many as the configuration names: on each, the first is the first to expire.
        self._shelves: dict[float, deque[_Stored]] = {}
        self._stored = 0
        self._bytes_held = 0
        self._number = 0

    def __repr__(self) -> str:
        return f"<Duplicates {self._stored} kept, {self._bytes_held} bytes, {self.in_flight} in flight>"

    def __len__(self) -> int:
        """Verdicts kept; those past their time count until they are cleared away."""
        return self._stored

    @property
    def bytes_held(self) -> int:
        """Bytes of the fingerprints and answers kept."""
        return self._bytes_held

    @property
    def in_flight(self) -> int:
        """Hooks that a repeat would join."""
        return len(self._known) - self._stored

    def find(self, key: Key, body: bytes, now: float) -> Ruling | asyncio.Future[Ruling] | None:
        """The verdict of the same hook before, or the future of one in flight; None for a hook not seen of late.

        The future is the caller's own. It raises OwnerLost where the hook in flight comes to no verdict.
        """
        known = self._known.get(key)
        if known is None:
            return None
        if isinstance(known, Flight):
            return known.join()
        if now < known.expires:
            return known.ruling_for(body)
        self._expire(now)
        return None

    def begin(self, key: Key, body: bytes) -> Flight:
        """Make the hook known as in flight; for use right after ``find`` said None."""
        flight = Flight(self, key, body)
        known = self._known.get(key)
        if isinstance(known, _Stored):
            self._shelves[known.keep].remove(known)
            self._forget(known)
        self._known[key] = flight
        return flight

    def landed(self, key: Key, flight: Flight) -> None:
        """Forget a hook in flight, unless another has taken its place (the flight itself calls this)."""
        if self._known.get(key) is flight:
            del self._known[key]

    def store(self, key: Key, body: bytes, ruling: Ruling, now: float, keep: float) -> None:
        """Keep a verdict, whatever has to go for it; one that is larger than the store is not kept."""
        self._expire(now)
        if key in self._known:
            return  # a younger hook has taken its place
        echoes = ruling.body == body
        self._number += 1
        stored = _Stored(
            key,
            ruling.with_body(b"") if echoes else ruling,
            echoes=echoes,
            expires=now + keep,
            keep=keep,
            number=self._number,
        )
        if stored.size > self._max_bytes or self._max_entries < 1:
            return
        while self._stored >= self._max_entries or self._bytes_held + stored.size > self._max_bytes:
            self._evict()
        shelf = self._shelves.get(keep)
        if shelf is None:
            shelf = self._shelves[keep] = deque()
        shelf.append(stored)
        self._known[key] = stored
        self._stored += 1
        self._bytes_held += stored.size

    def _expire(self, now: float) -> None:
        emptied = False
        for shelf in self._shelves.values():
            while shelf and shelf[0].expires <= now:
                self._forget(shelf.popleft())
            emptied = emptied or not shelf
        if emptied:
            self._shelves = {keep: shelf for keep, shelf in self._shelves.items() if shelf}

    def _evict(self) -> None:
        """Drop the verdict that was kept first."""
        shelves = [shelf for shelf in self._shelves.values() if shelf]
        oldest = shelves[0] if len(shelves) == 1 else min(shelves, key=lambda shelf: shelf[0].number)
        self._forget(oldest.popleft())

    def _forget(self, stored: _Stored) -> None:
        """Take a verdict that is on its shelf no more off the books."""
        del self._known[stored.key]
        self._stored -= 1
        self._bytes_held -= stored.size
