"""A hook that comes more than once, byte for byte, is decided once.

The media server repeats a send that failed, and Java's client one whose connection closed under it. A repeat that
finds its original still in flight joins it; one that comes later gets the verdict of then, for as long as it is kept.

The key is the method and the whole body, which holds the appKey: two hooks are the same if they are, and not if their
digests are. (Bodies cache their hash, so a look-up costs one pass over a body; a digest costs three times that.)
Whoever finds nothing begins a flight, in the same step of the event loop::

    key = (method, body)
    found = duplicates.find(key, now)
    if isinstance(found, Ruling):
        return found
    if found is not None:
        try:
            return await found
        except OwnerLost:
            ...  # decide on the terms of a failure, or find() again
    flight = duplicates.begin(key)
    try:
        ruling = await ask(...)
        flight.finish(ruling, now, keep)
    except BaseException:
        flight.leave()
        raise
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import msgspec

from gateway.verdicts import Ruling

MAX_ENTRIES: Final = 10_000
MAX_BYTES: Final = 32 * 1024 * 1024

Key = tuple[str, bytes]
"""A hook's method and body."""


class OwnerLost(Exception):
    """The hook that this one had joined ended without a verdict: it was cancelled, or failed inside the gateway.

    Its backend may have seen it, so asking again is a choice and not a matter of course.
    """


class _Stored(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A verdict that is kept."""

    key: Key
    ruling: Ruling
    expires: float
    keep: float
    number: int
    size: int


class Flight:
    """A hook on its way to its verdict, and those who wait for the same one.

    Where a hook leaves it without ``finish`` or ``abandon`` (cancelled, or by an exception), those who joined are woken
    with OwnerLost and nothing is kept. The first word counts; later ones do nothing.
    """

    __slots__ = ("_duplicates", "_joined", "_key", "_settled")

    def __init__(self, duplicates: Duplicates, key: Key) -> None:
        self._duplicates = duplicates
        self._key = key
        self._joined: list[asyncio.Future[Ruling]] | None = None
        self._settled = False

    def __repr__(self) -> str:
        joined = len(self._joined or ())
        return f"<Flight {self._key[0]!r}, {joined} joined{', settled' if self._settled else ''}>"

    def join(self) -> asyncio.Future[Ruling]:
        """A future of one's own for the verdict: cancelling it touches nobody else's."""
        waiter: asyncio.Future[Ruling] = asyncio.get_running_loop().create_future()
        if self._joined is None:
            self._joined = []
        self._joined.append(waiter)
        return waiter

    def finish(self, ruling: Ruling, now: float, keep: float | None) -> None:
        """Give the verdict to all who joined and keep it for *keep* seconds from *now*, for those who come later.

        None keeps nothing: the backend cannot have seen the hook, so a repeat of it may ask.
        """
        if self._settled:
            return
        self._settled = True
        if keep is not None and keep > 0:
            self._duplicates.store(self._key, self, ruling, now, keep)
        else:
            self._duplicates.landed(self._key, self)
        if self._joined is not None:
            for waiter in self._joined:
                if not waiter.done():
                    waiter.set_result(ruling)

    def abandon(self, ruling: Ruling) -> None:
        """Give those who joined this verdict and keep nothing."""
        self.finish(ruling, 0.0, None)

    def leave(self) -> None:
        """The hook is over, be it with a verdict or without."""
        if self._settled:
            return
        self._settled = True
        self._duplicates.landed(self._key, self)
        for waiter in self._joined or ():
            if not waiter.done():
                waiter.set_exception(OwnerLost("the hook that this one repeats ended without a verdict"))
                waiter.exception()  # counts as seen: one who has left meanwhile is nothing to log


class Duplicates:
    """The hooks in flight and the verdicts of late, of one process.

    Bounded in count and in bytes, where the method, the hook's body and the answer's body count, an answer that equals
    the hook's own body not again: the one kept longest makes room. Verdicts past their time go when the next is kept,
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
        """Bytes of the verdicts kept, and of the hooks that they belong to."""
        return self._bytes_held

    @property
    def in_flight(self) -> int:
        """Hooks that a repeat would join."""
        return len(self._known) - self._stored

    def find(self, key: Key, now: float) -> Ruling | asyncio.Future[Ruling] | None:
        """The verdict of the same hook before, or the future of one in flight; None for a hook not seen of late.

        The future is the caller's own. It raises OwnerLost where the hook in flight comes to no verdict.
        """
        known = self._known.get(key)
        if known is None:
            return None
        if isinstance(known, Flight):
            return known.join()
        if now < known.expires:
            return known.ruling
        self._expire(now)
        return None

    def begin(self, key: Key) -> Flight:
        """Make the hook known as in flight; for use right after ``find`` said None."""
        flight = Flight(self, key)
        known = self._known.setdefault(key, flight)
        if known is not flight:
            if isinstance(known, _Stored):
                self._shelves[known.keep].remove(known)
                self._forget(known)
                self._tidy()
            self._known[key] = flight
        return flight

    def landed(self, key: Key, flight: Flight) -> None:
        """Forget a hook in flight, unless another has taken its place (the flight itself calls this)."""
        if self._known.get(key) is flight:
            del self._known[key]

    def store(self, key: Key, flight: Flight, ruling: Ruling, now: float, keep: float) -> None:
        """Keep a landed hook's verdict, whatever has to go for it; one that is larger than the store is not kept."""
        self._expire(now)
        if self._known.get(key) is not flight:
            return  # a younger hook has taken its place
        method, body = key
        size = len(method) + len(body)
        if ruling.body is not body:
            if ruling.body == body:
                ruling = ruling.with_body(body)
            else:
                size += len(ruling.body)
        if size > self._max_bytes or self._max_entries < 1:
            del self._known[key]
            return
        while self._stored >= self._max_entries or self._bytes_held + size > self._max_bytes:
            self._evict()
        shelf = self._shelves.get(keep)
        if shelf is None:
            shelf = self._shelves[keep] = deque()
        self._number += 1
        stored = self._known[key] = _Stored(key, ruling, now + keep, keep, self._number, size)
        shelf.append(stored)
        self._stored += 1
        self._bytes_held += size

    def _expire(self, now: float) -> None:
        emptied = False
        for shelf in self._shelves.values():
            while shelf[0].expires <= now:
                self._forget(shelf.popleft())
                if not shelf:
                    emptied = True
                    break
        if emptied:
            self._tidy()

    def _evict(self) -> None:
        """Drop the verdict that was kept first."""
        oldest = min(self._shelves.values(), key=lambda shelf: shelf[0].number)
        self._forget(oldest.popleft())
        if not oldest:
            self._tidy()

    def _tidy(self) -> None:
        """Take empty shelves down: each that stands has something on it."""
        self._shelves = {keep: shelf for keep, shelf in self._shelves.items() if shelf}

    def _forget(self, stored: _Stored) -> None:
        """Take a verdict that is on its shelf no more off the books."""
        del self._known[stored.key]
        self._stored -= 1
        self._bytes_held -= stored.size
