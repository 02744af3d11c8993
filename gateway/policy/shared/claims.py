"""Hooks in flight and recent verdicts, shared by all workers: a hook that reaches two of them is decided once.

A worker that asks a backend has claimed the hook before, under the lock of its row: of several that come at once, one
has it. The others look again every few milliseconds, each within its own budget, until the verdict is there, or its
owner is lost: then one of them claims it again. Verdicts stay for as long as ``dedupe`` says. The usual ones are a
word; others lie in a ring of bytes of the worker that had them, and what has been overwritten there since, or was too
large for it, counts as not known. Rows are short, and in each the oldest makes room: that costs a repeat, never a
wrong verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import blake2b
from typing import Final
from zlib import crc32

import msgspec

from gateway.model.verdicts import Ruling, Verdict, backend_allow, backend_reject, duplicate_ruling
from gateway.policy.shared.memory import ARENA, LOCK_OF_CLAIMS, ROW, ROWS, Memory

MAX_ANSWER: Final = ARENA // 8
"""Bytes of a verdict that is written down."""
HANDOVER_TIME: Final = 2.0
"""Seconds for which a verdict that is not kept is there for those who wait for it."""
_SLACK: Final = 1.0
"""Seconds beyond its budget after which a hook in flight counts as lost, also if its owner lives."""
_SOONEST: Final = 0.002
_LATEST: Final = 0.02
_EACH: Final = 0.00005
"""Seconds between two looks: at least, at most, and for each that waits, so that many cost no more than a few."""

_IN_FLIGHT: Final = 0
_ECHO: Final = 1
_DENIED: Final = 2
_WRITTEN: Final = 3
_KIND: Final = 7
_KEPT: Final = 8
"""Bit of a verdict that is for those too who come later."""
_HEAD: Final = 9
"""Bytes before a verdict in the ring: the hook's key, and whether the body is the hook's own."""

_OWNER, _STATE, _TIME, _PLACE, _SIZE = (ROW * word for word in range(1, 6))
_MICROSECONDS: Final = 1_000_000

_USUAL: Final = backend_allow(b"")
_REFUSED: Final = backend_reject()
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Ruling).decode


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A hook that is in flight."""

    key: int
    row: int
    at: int
    owner: int
    mine: bool


class KnownVerdict(msgspec.Struct, frozen=True, gc=False):
    """The verdict of the same hook at another worker."""

    ruling: Ruling
    keep: float
    """Seconds for which it holds from now on; 0 = for those only who waited for it."""


class Claims:
    """The table, and this worker's claims in it."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._words = memory.words
        self._serial = 0
        self._followed: dict[asyncio.Future[KnownVerdict | None], tuple[Claim, bytes]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.hook_key: Callable[[str, bytes], int] = self._by_own_hash if memory.hashes_alike else self._by_digest
        """What a hook of this method, with this body, is known by in all workers: never 0."""

    def __repr__(self) -> str:
        return f"<Claims of {self._memory!r}, {len(self._followed)} followed>"

    def take(self, key: int, body: bytes, now: float, until: float) -> Claim | KnownVerdict | None:
        """Claim a hook that is to be decided *until* then.

        The claim is one's own, or another worker's; Known: that has the verdict; None: the table cannot be looked at
        now, so the hook is to be decided without it.
        """
        row = key % ROWS
        if not self._memory.lock(LOCK_OF_CLAIMS + row):
            return None
        try:
            words, first = self._words, self._memory.claims(row)
            keys = words[first : first + ROW].tolist()
            if key in keys:
                at = first + keys.index(key)
                state, time = words[at + _STATE], words[at + _TIME] / _MICROSECONDS
                if state == _IN_FLIGHT:
                    owner = words[at + _OWNER]
                    if now < time and owner >> 32 != self._memory.owner and self._memory.is_alive(owner >> 32):
                        return Claim(key, row, at, owner, mine=False)
                elif state & _KEPT and now < time and (ruling := self._read(at, key, body)) is not None:
                    return KnownVerdict(ruling, time - now)
            else:
                at = self._oldest(first, keys)
            self._serial = self._serial + 1 & 0xFFFFFFFF
            owner = self._memory.owner << 32 | self._serial
            words[at + _STATE] = _IN_FLIGHT
            words[at + _OWNER] = owner
            words[at + _TIME] = int((until + _SLACK) * _MICROSECONDS)
            words[at] = key
            return Claim(key, row, at, owner, mine=True)
        finally:
            self._memory.unlock(LOCK_OF_CLAIMS + row)

    def finish(self, claim: Claim, body: bytes, ruling: Ruling, now: float, keep: float | None) -> None:
        """Publish the verdict to waiting workers, and for *keep* seconds to later duplicates; None keeps nothing."""
        state, place, size = self._write(claim.key, body, ruling)
        if keep is not None and keep > 0:
            state |= _KEPT
        else:
            keep = HANDOVER_TIME
        if not self._memory.lock(LOCK_OF_CLAIMS + claim.row):
            return
        try:
            words, at = self._words, claim.at
            if words[at + _OWNER] != claim.owner:
                return
            if state & _KIND == _IN_FLIGHT:  # it cannot be written down
                words[at] = words[at + _OWNER] = 0
                return
            words[at + _PLACE] = place
            words[at + _SIZE] = size
            words[at + _TIME] = int((now + keep) * _MICROSECONDS)
            words[at + _STATE] = state
        finally:
            self._memory.unlock(LOCK_OF_CLAIMS + claim.row)

    def drop(self, claim: Claim) -> None:
        """The hook has come to no verdict: those that wait for it may ask."""
        if not self._memory.lock(LOCK_OF_CLAIMS + claim.row):
            return
        try:
            if self._words[claim.at + _OWNER] == claim.owner:
                self._words[claim.at] = self._words[claim.at + _OWNER] = 0
        finally:
            self._memory.unlock(LOCK_OF_CLAIMS + claim.row)

    def look(self, claim: Claim, body: bytes) -> KnownVerdict | Claim | None:
        """What has become of another worker's claim: its verdict, nothing yet (the claim), or it is lost (None)."""
        words, at = self._words, claim.at
        if words[at + _OWNER] != claim.owner:
            return None
        if words[at + _STATE] == _IN_FLIGHT:
            return claim if self._memory.is_alive(claim.owner >> 32) else None
        if not self._memory.lock(LOCK_OF_CLAIMS + claim.row):
            return claim  # and once more
        try:
            if words[at + _OWNER] != claim.owner or (ruling := self._read(at, claim.key, body)) is None:
                return None
            return KnownVerdict(ruling, 0.0)
        finally:
            self._memory.unlock(LOCK_OF_CLAIMS + claim.row)

    def follow(self, claim: Claim, body: bytes) -> asyncio.Future[KnownVerdict | None]:
        """What comes of another worker's claim, as soon as it does; the future is the caller's to cancel."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[KnownVerdict | None] = loop.create_future()
        self._followed[future] = (claim, body)
        if self._timer is None:
            self._timer = loop.call_later(_SOONEST, self._look_at_all, loop)
        return future

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at_all(self, loop: asyncio.AbstractEventLoop) -> None:
        for future, (claim, body) in list(self._followed.items()):
            if future.done():
                del self._followed[future]
            elif (found := self.look(claim, body)) is not claim:
                del self._followed[future]
                future.set_result(found if isinstance(found, KnownVerdict) else None)
        wait = min(_LATEST, max(_SOONEST, _EACH * len(self._followed)))
        self._timer = loop.call_later(wait, self._look_at_all, loop) if self._followed else None

    def _oldest(self, first: int, keys: list[int]) -> int:
        """Whose place in the row the next one takes: a free one, else the first to expire, hooks in flight last."""
        if 0 in keys:
            return first + keys.index(0)
        words = self._words
        times = words[first + _TIME : first + _TIME + ROW].tolist()
        oldest = times.index(min(times))
        if words[first + _STATE + oldest] != _IN_FLIGHT:
            return first + oldest
        return min(range(first, first + ROW), key=lambda at: (words[at + _STATE] == _IN_FLIGHT, words[at + _TIME]))

    # --- verdicts as bytes ---

    def _write(self, key: int, body: bytes, ruling: Ruling) -> tuple[int, int, int]:
        """How the verdict is stored: its kind, and its position in the ring."""
        echoes = ruling.verdict is Verdict.ALLOW and ruling.body == body
        kept = duplicate_ruling(ruling).annotations  # what a duplicate keeps, too
        plain = msgspec.structs.replace(ruling, body=b"" if echoes else ruling.body, annotations=kept)
        if echoes and plain == _USUAL:
            return _ECHO, 0, 0
        if plain == _REFUSED:
            return _DENIED, 0, 0
        data = b"%b%b%b" % (key.to_bytes(8, "little"), b"\1" if echoes else b"\0", _encode(plain))
        size = len(data)
        if size > MAX_ANSWER:
            return _IN_FLIGHT, 0, 0
        memory = self._memory
        head = memory.arena_head(memory.slot)
        place = self._words[head]
        if place % ARENA + size > ARENA:
            place += ARENA - place % ARENA  # in one piece
        self._words[head] = place + size  # readers of what is overwritten now see that it is gone
        start = memory.arena(memory.slot) + place % ARENA
        memory.bytes[start : start + size] = data
        return _WRITTEN, place, size << 32 | crc32(data)

    def _read(self, at: int, key: int, body: bytes) -> Ruling | None:
        """The verdict of an entry whose lock is held; None where it is not to be had any more."""
        words, kind = self._words, self._words[at + _STATE] & _KIND
        if kind == _ECHO:
            return _USUAL.with_body(body)
        if kind == _DENIED:
            return _REFUSED
        memory = self._memory
        slot, place, size = memory.owner_slot(words[at + _OWNER] >> 32), words[at + _PLACE], words[at + _SIZE] >> 32
        if slot >= memory.workers or words[memory.arena_head(slot)] - place > ARENA:
            return None
        start = memory.arena(slot) + place % ARENA
        data = memory.bytes[start : start + size]
        if crc32(data) != words[at + _SIZE] & 0xFFFFFFFF or data[:8] != key.to_bytes(8, "little"):
            return None
        ruling = _decode(data[_HEAD:])
        return ruling.with_body(body) if data[8:_HEAD] == b"\1" else ruling

    # --- what a hook is known by ---

    def _by_own_hash(self, method: str, body: bytes) -> int:
        return hash((method, body)) & 0xFFFFFFFFFFFFFFFF or 1

    def _by_digest(self, method: str, body: bytes) -> int:
        digest = blake2b(method.encode("utf-8", "surrogatepass") + b"\0", digest_size=8, key=self._memory.key)
        digest.update(body)
        return int.from_bytes(digest.digest(), "little") or 1
