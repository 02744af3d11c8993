"""A hook that comes more than once, byte for byte, is decided once.

The media server repeats a send that failed, and Java's client one whose connection closed under it. A repeat that
finds its original still in flight joins it; one that comes later gets the verdict of then, for as long as it is kept.

The key is the method and the whole body, which holds the appKey. Both cache their hash, so looking one up costs a pass
over the body once per hook. Whoever finds nothing begins a flight, in the same step of the event loop::

    found = duplicates.find(method, body, now)
    if isinstance(found, Ruling):
        return found
    if found is not None:
        try:
            return await found
        except OwnerLost:
            ...  # decide on the terms of a failure, or find() again
    with duplicates.begin(method, body) as flight:
        ruling = await ask(...)
        flight.finish(ruling, now, keep)
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from types import TracebackType
from typing import Final

from gateway.verdicts import Ruling

MAX_ENTRIES: Final = 10_000
MAX_BYTES: Final = 32 * 1024 * 1024

_Key = tuple[str, bytes]


class OwnerLost(Exception):
    """The hook that this one had joined ended without a verdict: it was cancelled, or failed inside the gateway.

    Its backend may have seen it, so asking again is a choice and not a matter of course.
    """


class _Stored:
    """A verdict that is kept."""

    __slots__ = ("expires", "keep", "number", "ruling", "size")

    def __init__(self, ruling: Ruling, expires: float, keep: float, number: int, size: int) -> None:
        self.ruling = ruling
        self.expires = expires
        self.keep = keep
        self.number = number
        self.size = size


class Flight:
    """A hook on its way to its verdict, and those who wait for the same one.

    A context manager: where a hook leaves it without ``finish`` or ``abandon`` (cancelled, or by an exception), those
    who joined are woken with OwnerLost and nothing is kept. The first word counts; later ones do nothing.
    """

    __slots__ = ("_duplicates", "_joined", "_key", "_settled")

    def __init__(self, duplicates: Duplicates, key: _Key) -> None:
        self._duplicates = duplicates
        self._key = key
        self._joined: list[asyncio.Future[Ruling]] = []
        self._settled = False

    def __repr__(self) -> str:
        return f"<Flight {self._key[0]!r}, {len(self._joined)} joined{', settled' if self._settled else ''}>"

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
            self._duplicates.store(self._key, ruling, now, keep)
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

    Bounded in count and in bytes, where the method, the hook's body and the answer's body count, an answer that equals
    the hook's own body not again: the one kept longest makes room. Verdicts past their time go when the next is kept,
    or when one of them is asked for; there is no timer. Hooks in flight are bounded by whoever lets them in.
    """

    __slots__ = ("_bytes_held", "_known", "_max_bytes", "_max_entries", "_number", "_shelves", "_stored")

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._known: dict[_Key, Flight | _Stored] = {}
        # One shelf per time of keeping, as many as the configuration names: on each, the first is the first to expire.
        self._shelves: dict[float, OrderedDict[_Key, _Stored]] = {}
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

    def find(self, method: str, body: bytes, now: float) -> Ruling | asyncio.Future[Ruling] | None:
        """The verdict of the same hook before, or the future of one in flight; None for a hook not seen of late.

        The future is the caller's own. It raises OwnerLost where the hook in flight comes to no verdict.
        """
        known = self._known.get((method, body))
        if known is None:
            return None
        if isinstance(known, Flight):
            return known.join()
        if now < known.expires:
            return known.ruling
        self._expire(now)
        return None

    def begin(self, method: str, body: bytes) -> Flight:
        """Make the hook known as in flight; for use right after ``find`` said None."""
        key = (method, body)
        flight = Flight(self, key)
        known = self._known.get(key)
        if isinstance(known, _Stored):
            self._drop(key, known)
        self._known[key] = flight
        return flight

    def landed(self, key: _Key, flight: Flight) -> None:
        """Forget a hook in flight, unless another has taken its place (the flight itself calls this)."""
        if self._known.get(key) is flight:
            del self._known[key]

    def store(self, key: _Key, ruling: Ruling, now: float, keep: float) -> None:
        """Keep a verdict, whatever has to go for it; one that is larger than the store is not kept."""
        self._expire(now)
        if key in self._known:
            return  # a younger hook has taken its place
        body = key[1]
        size = len(key[0]) + len(body)
        if ruling.body is not body:
            if ruling.body == body:
                ruling = ruling._replace(body=body)
            else:
                size += len(ruling.body)
        if size > self._max_bytes or self._max_entries < 1:
            return
        while self._stored >= self._max_entries or self._bytes_held + size > self._max_bytes:
            self._evict()
        shelf = self._shelves.get(keep)
        if shelf is None:
            shelf = self._shelves[keep] = OrderedDict()
        self._number += 1
        self._known[key] = shelf[key] = _Stored(ruling, now + keep, keep, self._number, size)
        self._stored += 1
        self._bytes_held += size

    def _expire(self, now: float) -> None:
        emptied = False
        for shelf in self._shelves.values():
            while shelf:
                key, stored = next(iter(shelf.items()))
                if now < stored.expires:
                    break
                self._remove(shelf, key, stored)
            emptied = emptied or not shelf
        if emptied:
            self._shelves = {keep: shelf for keep, shelf in self._shelves.items() if shelf}

    def _evict(self) -> None:
        """Drop the verdict that was kept first."""
        first: tuple[_Key, _Stored] | None = None
        for shelf in self._shelves.values():
            candidate = next(iter(shelf.items()))
            if first is None or candidate[1].number < first[1].number:
                first = candidate
        assert first is not None, "called only while something is kept"
        self._drop(*first)

    def _drop(self, key: _Key, stored: _Stored) -> None:
        shelf = self._shelves[stored.keep]
        self._remove(shelf, key, stored)
        if not shelf:
            del self._shelves[stored.keep]

    def _remove(self, shelf: OrderedDict[_Key, _Stored], key: _Key, stored: _Stored) -> None:
        del shelf[key]
        del self._known[key]
        self._stored -= 1
        self._bytes_held -= stored.size
