"""Duplicates: a hook that comes more than once, byte for byte, is decided once.

The media server repeats a send that failed, and Java's client one whose connection was closed. A repeat whose original
is still in flight joins it; a later one gets the same verdict, for as long as that is kept.

A hook is known by the hash of its method and its whole body, which holds the appKey: 64 bits of SipHash, with a random
key of each process (PEP 456) or one that the workers of a gateway share. With as many hooks as are kept, two collide
once in 10^15 hooks, and no caller can provoke it. So no body is kept, not even that of an answer that echoes the hook,
the usual *allow*. A caller that finds nothing begins a flight, in the same step of the event loop::

    key = hook_key(method, body)
    found = duplicates.find(key, body, now)
    if isinstance(found, Ruling):
        return found
    if found is not None:
        try:
            return await found
        except OwnerLost:
            ...  # decide as for a failure, or find() again
    flight = duplicates.begin(key, body)
    try:
        ruling = await ask(...)
        flight.finish(ruling, now, keep)
    except BaseException:
        flight.leave()
        raise

With *claims*, a flight looks whether another worker has the same hook (``await_other_worker``), and tells the other
workers its own verdict.
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
"""Repeats that may wait for one hook's verdict: a media server sends one four times, Java's client each twice."""
MIN_WAITING: Final = 256
"""Repeats that may wait in total, however low ``server.max_in_flight`` is."""

_ECHO: Final = backend_allow(b"")
"""The usual *allow*, without the hook's own body."""

Key = int
"""Identifies a hook."""


_HASH_IS_KEYED: Final = os.environ.get("PYTHONHASHSEED", "random") in ("", "random")
"""Whether Python's hash has a secret key; with a known seed, collisions could be searched for."""
_OWN_KEY: Final = os.urandom(16)


def hook_key(method: str, body: bytes) -> Key:
    """The key of a hook of this method with this body, in this process."""
    if _HASH_IS_KEYED:
        return hash((method, body))
    return hash((method, blake2b(body, digest_size=16, key=_OWN_KEY).digest()))


class OwnerLost(Exception):
    """The hook that this one joined ended without a verdict: it was cancelled, or met a defect of the gateway.

    Its backend may have seen it, so it is not safe to ask again.
    """


class TooManyRepeats(Exception):
    """The limit of repeats that wait for one hook's verdict is reached."""


class WaitingRepeats:
    """Counts the repeats that wait for a verdict in one process; they have a limit of their own.

    No app may hold more than twice what is left free, so that an app with endless repeats leaves room for others.
    """

    __slots__ = ("_apps", "total")

    def __init__(self) -> None:
        self.total = 0
        self._apps: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Waiting {self._apps}>"

    def enter(self, app: str, most: int) -> bool:
        """Whether one more repeat of this app may wait, of *most* in total; it counts until it leaves."""
        free, mine = most - self.total, self._apps.get(app, 0)
        if free <= 0 or (mine and mine >= 2 * (free - 1)):
            return False
        self.total += 1
        self._apps[app] = mine + 1
        return True

    def leave(self, app: str) -> None:
        """Stop counting a repeat that entered."""
        self.total -= 1
        if self._apps[app] > 1:
            self._apps[app] -= 1
        else:
            del self._apps[app]


class _StoredVerdict(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A stored verdict."""

    key: Key
    ruling: Ruling
    echoes: bool
    """Whether the ruling's body is the hook's own; it is left out then."""
    expires: float
    keep: float
    number: int
    size: int


class Flight:
    """A hook in flight, and the repeats that wait for its verdict.

    If the hook leaves without ``finish`` or ``abandon`` (cancelled, or by an exception), the repeats get OwnerLost and
    nothing is stored. Only the first of these calls counts.
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
        """A new future for the verdict; cancelling it affects no other. Raises TooManyRepeats."""
        if self._joined is None:
            self._joined = []
        elif len(self._joined) >= MAX_JOINED:
            raise TooManyRepeats
        waiter: asyncio.Future[Ruling] = asyncio.get_running_loop().create_future()
        self._joined.append(waiter)
        return waiter

    def finish(self, ruling: Ruling, now: float, keep: float | None) -> None:
        """Give the verdict to all repeats that joined, and store it for *keep* seconds from *now* (loop time).

        None stores nothing: the backend cannot have seen the hook, so a repeat may ask it.
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
        """The verdict of the same hook at another worker; None: this worker is to ask, and the others wait for it.

        *until*: loop time at which the hook's budget ends. Raises TimeoutError if there is no verdict by then.
        """
        if self._claim is not None:
            return None  # it has been this worker's since it was last asked
        claims, loop = self._duplicates.claims, asyncio.get_running_loop()
        while claims is not None:
            found = claims.take(self._key, self.body, loop.time(), until)
            if isinstance(found, Claim) and not found.mine:
                async with asyncio.timeout_at(until):
                    found = await claims.follow(found, self.body)
                if found is None:
                    continue  # its worker lost it: the first worker to come has it now
            if isinstance(found, Claim):
                self._claim = found
            elif found is not None:
                self.finish(found.ruling, loop.time(), found.keep)
                return found.ruling
            break
        return None

    def abandon(self, ruling: Ruling) -> None:
        """Give the verdict to the repeats that joined, and store nothing."""
        self.finish(ruling, 0.0, None)

    def leave(self) -> None:
        """End the flight; if it has no verdict yet, the repeats that joined get OwnerLost."""
        if self._settled:
            return
        self._settled = True
        self._duplicates.forget_flight(self._key, self)
        if self._claim is not None and self._duplicates.claims is not None:
            self._duplicates.claims.drop(self._claim)
        for waiter in self._joined or ():
            if not waiter.done():
                waiter.set_exception(OwnerLost("the hook that this one repeats ended without a verdict"))
                waiter.exception()  # mark as retrieved: a repeat that has left meanwhile is nothing to log


class Duplicates:
    """The hooks in flight and the stored verdicts of one process; through *claims*, those of the other workers.

    Bounded in number and in bytes of answers (echoed bodies do not count): the oldest verdict makes room. Expired ones
    are removed when the next is stored, or when one of them is looked up; there is no timer. The caller bounds the
    hooks in flight.
    """

    __slots__ = ("_bytes_held", "_known", "_max_bytes", "_max_entries", "_number", "_shelves", "_stored", "claims")

    def __init__(
        self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES, claims: Claims | None = None
    ) -> None:
        self.claims = claims
        """The hooks of other workers; None with a single one."""
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._known: dict[Key, Flight | _StoredVerdict] = {}
        # One shelf per ``dedupe`` time of the configuration: on each, the first verdict is the first to expire.
        self._shelves: dict[float, deque[_StoredVerdict]] = {}
        self._stored = 0
        self._bytes_held = 0
        self._number = 0

    def __repr__(self) -> str:
        return f"<Duplicates {self._stored} kept, {self._bytes_held} bytes, {self.in_flight} in flight>"

    def __len__(self) -> int:
        """Stored verdicts; expired ones count until they are removed."""
        return self._stored

    @property
    def bytes_held(self) -> int:
        """Bytes of the stored answers."""
        return self._bytes_held

    @property
    def in_flight(self) -> int:
        """Hooks that a repeat would join."""
        return len(self._known) - self._stored

    def find(self, key: Key, body: bytes, now: float) -> Ruling | asyncio.Future[Ruling] | None:
        """The stored verdict of the same hook, or a future if it is in flight; None if there is none.

        The future is the caller's own; it raises OwnerLost if the hook in flight comes to no verdict. Raises
        TooManyRepeats if too many wait for it already.
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
        """Register the hook as in flight; call it right after ``find`` returned None."""
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
        """Remove a hook in flight, unless another has taken its place (the flight itself calls this)."""
        if self._known.get(key) is flight:
            del self._known[key]

    def store(self, key: Key, flight: Flight, ruling: Ruling, now: float, keep: float) -> None:
        """Store a finished hook's verdict; older ones make room. One larger than the store is not stored."""
        shelves = self._shelves
        for shelf in shelves.values():
            if shelf[0].expires <= now:
                self._expire(now)
                shelves = self._shelves
                break
        if self._known.get(key) is not flight:
            return  # a newer hook has taken its place
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
        """Drop the oldest verdict."""
        shelves = iter(self._shelves.values())
        oldest = next(shelves)
        for shelf in shelves:
            if shelf[0].number < oldest[0].number:
                oldest = shelf
        self._forget(oldest.popleft())
        if not oldest:
            self._drop_empty_shelves()

    def _drop_empty_shelves(self) -> None:
        """Remove empty shelves: the others rely on the first element."""
        self._shelves = {keep: shelf for keep, shelf in self._shelves.items() if shelf}

    def _forget(self, stored: _StoredVerdict) -> None:
        """Remove a verdict that is no longer on its shelf."""
        del self._known[stored.key]
        self._stored -= 1
        self._bytes_held -= stored.size
