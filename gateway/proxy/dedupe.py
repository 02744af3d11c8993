"""A hook that comes more than once, byte for byte, is decided once.

The media server repeats a send that failed, and Java's client one whose connection closed under it. A repeat that
finds its original still in flight joins it; one that comes later gets the verdict of then, for as long as it is kept.

A hook is known by the hash of its method and its whole body, which holds the appKey: SipHash with a key that every
process draws anew (PEP 456), or that the workers of one gateway have in common, 64 bits of it. Among the most that are
kept, that two hooks are taken for one comes to once in 10^15 hooks, and no caller can bring it about. So no body is
kept: an answer that repeats the hook, which is the usual yes, is kept as such. A caller that finds nothing begins a
flight, in the same step of the event loop::

    key = key_of(method, body)
    found = duplicates.find(key, body, now)
    if isinstance(found, Ruling):
        return found
    if found is not None:
        try:
            return await found
        except OwnerLost:
            ...  # decide on the terms of a failure, or find() again
    flight = duplicates.begin(key, body)
    try:
        ruling = await ask(...)
        flight.finish(ruling, now, keep)
    except BaseException:
        flight.leave()
        raise

With *claims*, a flight that has begun here looks whether another worker has the same hook (``await_other_worker``), and
tells the others what becomes of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from hashlib import blake2b
from typing import Final

import msgspec

from gateway.model.verdicts import Ruling, Source, Verdict, backend_allow
from gateway.policy.shared import Claim, Claims

MAX_ENTRIES: Final = 10_000
MAX_BYTES: Final = 32 * 1024 * 1024
MAX_JOINED: Final = 128
"""Repeats that wait for one hook's verdict at most: a media server sends one four times, Java's client twice each."""
MIN_WAITING: Final = 256
"""Repeats that may wait in all, however low ``server.max_in_flight`` is."""

_ECHO: Final = backend_allow(b"")
"""The usual yes, but for the hook's own body."""

Key = int
"""What a hook is known by."""


_HASH_IS_KEYED: Final = os.environ.get("PYTHONHASHSEED", "random") in ("", "random")
"""Whether Python's hash has a key that nobody knows; with a seed that is known, collisions could be looked for."""
_OWN_KEY: Final = os.urandom(16)


def hook_key(method: str, body: bytes) -> Key:
    """What a hook of this method, with this body, is known by in this process."""
    if _HASH_IS_KEYED:
        return hash((method, body))
    return hash((method, blake2b(body, digest_size=16, key=_OWN_KEY).digest()))


class OwnerLost(Exception):
    """The hook that this one had joined ended without a verdict: it was cancelled, or failed inside the gateway.

    Its backend may have seen it, so asking again is a choice and not a matter of course.
    """


class TooManyRepeats(Exception):
    """As many repeats as may join a hook in flight wait for its verdict already."""


class WaitingRepeats:
    """The repeats that wait for a verdict, of one process: they take no place of a hook, and have a bound of their own.

    No app holds more than twice what is left free, so that one whose hooks are repeated without end leaves room.
    """

    __slots__ = ("_apps", "total")

    def __init__(self) -> None:
        self.total = 0
        self._apps: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Waiting {self._apps}>"

    def enter(self, app: str, most: int) -> bool:
        """Whether one more of this app's may wait, of *most* in all; it counts until it leaves."""
        free, mine = most - self.total, self._apps.get(app, 0)
        if free <= 0 or (mine and mine >= 2 * (free - 1)):
            return False
        self.total += 1
        self._apps[app] = mine + 1
        return True

    def leave(self, app: str) -> None:
        """One that entered has its verdict, or waits no longer."""
        self.total -= 1
        if self._apps[app] > 1:
            self._apps[app] -= 1
        else:
            del self._apps[app]


class _StoredVerdict(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A verdict that is kept."""

    key: Key
    ruling: Ruling
    echoes: bool
    """Whether the ruling's body, which is left out then, is the hook's own."""
    expires: float
    keep: float
    number: int
    size: int


class Flight:
    """A hook on its way to its verdict, and those who wait for the same one.

    Where a hook leaves it without ``finish`` or ``abandon`` (cancelled, or by an exception), those who joined are woken
    with OwnerLost and nothing is kept. The first word counts; later ones do nothing.
    """

    __slots__ = ("_claim", "_duplicates", "_joined", "_key", "_settled", "body")

    def __init__(self, duplicates: Duplicates, key: Key, body: bytes) -> None:
        self._duplicates = duplicates
        self._key = key
        self.body = body
        self._joined: list[asyncio.Future[Ruling]] | None = None
        self._settled = False
        self._claim: Claim | None = None

    def __repr__(self) -> str:
        joined = len(self._joined or ())
        return f"<Flight of {len(self.body)} bytes, {joined} joined{', settled' if self._settled else ''}>"

    def join(self) -> asyncio.Future[Ruling]:
        """A future of one's own for the verdict: cancelling it touches nobody else's. Raises TooManyRepeats."""
        if self._joined is None:
            self._joined = []
        elif len(self._joined) >= MAX_JOINED:
            raise TooManyRepeats
        waiter: asyncio.Future[Ruling] = asyncio.get_running_loop().create_future()
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
            self._duplicates.forget_flight(self._key, self)
        if self._claim is not None and self._duplicates.claims is not None:
            self._duplicates.claims.finish(self._claim, self.body, ruling, now, keep)
        if self._joined is not None:
            for waiter in self._joined:
                if not waiter.done():
                    waiter.set_result(ruling)

    async def await_other_worker(self, until: float) -> Ruling | None:
        """The verdict of the same hook at another worker; None: this one is to ask, and tell the others.

        *until*: loop time at which its budget ends. Raises TimeoutError where no verdict has come by then.
        """
        claims, loop = self._duplicates.claims, asyncio.get_running_loop()
        while claims is not None:
            found = claims.take(self._key, self.body, loop.time(), until)
            if isinstance(found, Claim) and not found.mine:
                async with asyncio.timeout_at(until):
                    found = await claims.follow(found, self.body)
                if found is None:
                    continue  # it is lost: the first to come has it now
            if isinstance(found, Claim):
                self._claim = found
            elif found is not None:
                self.finish(found.ruling, loop.time(), found.keep)
                return found.ruling
            break
        return None

    def abandon(self, ruling: Ruling) -> None:
        """Give those who joined this verdict and keep nothing."""
        self.finish(ruling, 0.0, None)

    def leave(self) -> None:
        """The hook is over, be it with a verdict or without."""
        if self._settled:
            return
        self._settled = True
        self._duplicates.forget_flight(self._key, self)
        if self._claim is not None and self._duplicates.claims is not None:
            self._duplicates.claims.drop(self._claim)
        for waiter in self._joined or ():
            if not waiter.done():
                waiter.set_exception(OwnerLost("the hook that this one repeats ended without a verdict"))
                waiter.exception()  # counts as seen: one who has left meanwhile is nothing to log


class Duplicates:
    """The hooks in flight and the verdicts of late, of one process; by *claims*, those of the other workers.

    Bounded in count and in bytes, where the answers' bodies count unless they are the hooks' own: the one kept longest
    makes room. Verdicts past their time go when the next is kept,
    or when one of them is asked for; there is no timer. Hooks in flight are bounded by whoever lets them in.
    """

    __slots__ = ("_bytes_held", "_known", "_max_bytes", "_max_entries", "_number", "_shelves", "_stored", "claims")

    def __init__(
        self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES, claims: Claims | None = None
    ) -> None:
        self.claims = claims
        """What other workers have; None where there is no other."""
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._known: dict[Key, Flight | _StoredVerdict] = {}
        # One shelf per time of keeping, as many as the configuration names: on each, the first is the first to expire.
        self._shelves: dict[float, deque[_StoredVerdict]] = {}
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
        """Bytes of the answers kept."""
        return self._bytes_held

    @property
    def in_flight(self) -> int:
        """Hooks that a repeat would join."""
        return len(self._known) - self._stored

    def find(self, key: Key, body: bytes, now: float) -> Ruling | asyncio.Future[Ruling] | None:
        """The verdict of the same hook before, or the future of one in flight; None for a hook not seen of late.

        The future is the caller's own. It raises OwnerLost where the hook in flight comes to no verdict. Raises
        TooManyRepeats where as many wait for it as may.
        """
        known = self._known.get(key)
        if known is None:
            return None
        if isinstance(known, Flight):
            return known.join()
        if now < known.expires:
            return known.ruling.with_body(body) if known.echoes else known.ruling
        self._expire(now)
        return None

    def begin(self, key: Key, body: bytes) -> Flight:
        """Make the hook known as in flight; for use right after ``find`` said None."""
        flight = Flight(self, key, body)
        known = self._known.setdefault(key, flight)
        if known is not flight:
            if isinstance(known, _StoredVerdict):
                self._shelves[known.keep].remove(known)
                self._forget(known)
                self._drop_empty_shelves()
            self._known[key] = flight
        return flight

    def forget_flight(self, key: Key, flight: Flight) -> None:
        """Forget a hook in flight, unless another has taken its place (the flight itself calls this)."""
        if self._known.get(key) is flight:
            del self._known[key]

    def store(self, key: Key, flight: Flight, ruling: Ruling, now: float, keep: float) -> None:
        """Keep a landed hook's verdict, whatever has to go for it; one that is larger than the store is not kept."""
        shelves = self._shelves
        for shelf in shelves.values():
            if shelf[0].expires <= now:
                self._expire(now)
                shelves = self._shelves
                break
        if self._known.get(key) is not flight:
            return  # a younger hook has taken its place
        size = 0
        if echoes := ruling.verdict is Verdict.ALLOW and ruling.body == flight.body:
            usual = ruling.source is Source.BACKEND and ruling.annotations is None
            ruling = _ECHO if usual else ruling.with_body(b"")
        else:
            size = len(ruling.body)
        if size > self._max_bytes or self._max_entries < 1:
            del self._known[key]
            return
        while self._stored >= self._max_entries or self._bytes_held + size > self._max_bytes:
            self._evict()
            shelves = self._shelves
        kept = shelves.get(keep)
        if kept is None:
            kept = shelves[keep] = deque()
        self._number += 1
        stored = self._known[key] = _StoredVerdict(
            key=key, ruling=ruling, echoes=echoes, expires=now + keep, keep=keep, number=self._number, size=size
        )
        kept.append(stored)
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
            self._drop_empty_shelves()

    def _evict(self) -> None:
        """Drop the verdict that was kept first."""
        shelves = iter(self._shelves.values())
        oldest = next(shelves)
        for shelf in shelves:
            if shelf[0].number < oldest[0].number:
                oldest = shelf
        self._forget(oldest.popleft())
        if not oldest:
            self._drop_empty_shelves()

    def _drop_empty_shelves(self) -> None:
        """Take empty shelves down: each that stands has something on it."""
        self._shelves = {keep: shelf for keep, shelf in self._shelves.items() if shelf}

    def _forget(self, stored: _StoredVerdict) -> None:
        """Take a verdict that is on its shelf no more off the books."""
        del self._known[stored.key]
        self._stored -= 1
        self._bytes_held -= stored.size
