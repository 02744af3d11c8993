"""Hooks in flight and recent verdicts, shared by all replicas: a hook that reaches two of them is decided once.

A process that is about to ask a backend claims the hook in the shared state. If another one has it in flight, it waits
for that one's verdict within the hook's own budget, as long as the owner's heartbeat lives: else it claims the hook
itself. A shared state that is late or away decides nothing: then the hook is decided as if the gateway were alone.

Owners have epochs. One that could not publish a verdict, or was connected again, begins a new epoch: the heartbeat of
the old one ends, and nobody waits any longer for what will not come.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

import msgspec

from gateway.fleet.claim_script import CLAIM, CLAIMS, DECIDED, END, TAKEN
from gateway.fleet.encoding import DIGEST, decode_verdict, encode_verdict, hook_digest
from gateway.fleet.link import Link
from gateway.fleet.reasons import StateUnavailable
from gateway.model.verdicts import Ruling

HEARTBEAT: Final = 0.5
"""Seconds between two heartbeats of a process that claims hooks."""
HEARTBEAT_TTL: Final = 1500
"""Milliseconds after which a process without one counts as lost."""
LOOK_EVERY: Final = 0.25
"""Seconds after which one who waits looks at the claim, in case its owner is lost."""
HANDOVER_TIME: Final = 2000
"""Milliseconds for which a verdict that is not kept is there for those who wait for it."""
_LOOK_TIMEOUT: Final = 0.1
"""Seconds for such a look: the hook waits anyway."""
_SLACK: Final = 1.0
"""Seconds beyond its budget for which a hook in flight stays claimed."""

_VERDICT: Final = b"V"
_LOST: Final = b"L"
_UNWRITTEN: Final = b"U"
"""Kinds of messages to those who wait, before the hook's digest: its verdict (the milliseconds for which it holds, in
four bytes, and the verdict follow); its owner ended without one; it has a verdict that is not stored."""
_HEAD: Final = 1 + DIGEST
_TTL: Final = 4
_LONGEST: Final = (1 << 8 * _TTL) - 1
_NOT_ASKED: Final = ""
"""The token of a claim that the shared state, being away, does not have."""


class HookClaim(msgspec.Struct, frozen=True, gc=False):
    """A hook that this process is to decide; the others wait for it, if the shared state has the claim."""

    digest: bytes
    token: str


class SharedVerdict(msgspec.Struct, frozen=True, gc=False):
    """The verdict of the same hook in another process."""

    ruling: Ruling
    keep: float
    """Seconds for which it holds from now on; 0 = for those only who waited for it."""


class ClaimOwnerLost(Exception):
    """The owner of the hook ended it without a verdict. Its backend may have seen it: it is not safe to ask again."""


class FleetClaims:
    """This process's claims, over a *link* of its own. Build it inside a running loop, before the link starts.

    *timeout*: seconds that a hook waits for an answer.
    """

    def __init__(self, link: Link, timeout: float) -> None:
        self._link = link
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._claims = link.key("claim:")
        self._heartbeats = link.key("alive:")
        self._channels = link.key("verdicts:")
        self._process = secrets.token_hex(8)
        self._epoch = 0
        self._number = 0
        self.channel = self._channels + self._process
        """On which this process hears of verdicts."""
        self._waiting: dict[bytes, list[asyncio.Future[bytes]]] = {}
        """By the hook's digest: those that wait for another process's verdict, or for the answer that says so."""
        self._timer: asyncio.TimerHandle | None = None
        link.load(CLAIMS)
        link.on_up.append(self._begin_epoch)
        link.subscribe(self.channel, self._receive)

    def __repr__(self) -> str:
        return f"<FleetClaims {self._process}.{self._epoch}, {len(self._waiting)} followed>"

    async def take(self, method: str, body: bytes, until: float) -> HookClaim | SharedVerdict:
        """Claim a hook that is to be decided *until* then (loop time), or wait for the verdict of who has it.

        Raises TimeoutError if there is no verdict by then, ClaimOwnerLost if its owner ended it without one.
        """
        digest = hook_digest(method, body)
        if not self._link.up:
            return HookClaim(digest, _NOT_ASKED)
        self._number += 1
        claim = HookClaim(digest, f"{self._process}.{self._epoch}:{self._number}")
        patience = self._timeout
        while True:
            waiter = self._follow(digest)  # before the claim: its owner may publish before this process has the answer
            try:
                found = await self._ask(claim, body, until, patience)
                if found is not None:
                    return found
                message = await self._wait_for_message(waiter, until)
            except asyncio.CancelledError:
                self.drop(claim)  # the server may have it by now
                raise
            finally:
                self._unfollow(digest, waiter)
            if message is not None and (found := read_message(message, body)) is not None:
                return found
            patience = _LOOK_TIMEOUT

    def finish(self, claim: HookClaim, body: bytes, ruling: Ruling, keep: float | None) -> None:
        """Publish the verdict to those that wait, and for *keep* seconds to later duplicates; None keeps nothing."""
        if claim.token == _NOT_ASKED:
            return
        verdict = encode_verdict(claim.digest, body, ruling)
        if verdict is None:
            self._end(claim, _UNWRITTEN)
            return
        kept = 0 if keep is None else min(round(keep * 1000), _LONGEST)
        self._end(claim, _VERDICT, verdict, kept)

    def drop(self, claim: HookClaim) -> None:
        """The hook has come to no verdict: those that wait for it are told."""
        if claim.token != _NOT_ASKED:
            self._end(claim, _LOST)

    def close(self) -> None:
        """Send no more heartbeats: all hooks of this process are decided."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._link.send("DEL", self._heartbeat())

    async def _ask(
        self, claim: HookClaim, body: bytes, until: float, patience: float
    ) -> HookClaim | SharedVerdict | None:
        """The claim, if it is this process's or nobody can tell; the verdict; None: another process has the hook."""
        lives = max(1, round((until - self._loop.time() + _SLACK) * 1000))
        arguments = (CLAIM, claim.token, self._process, lives, self._heartbeats, self._channels)
        try:
            reply = await self._link.run(CLAIMS, (self._key(claim),), arguments, timeout=patience)
        except StateUnavailable:
            return claim
        return read_reply(reply, claim, body)

    async def _wait_for_message(self, waiter: asyncio.Future[bytes], until: float) -> bytes | None:
        """The next message about the hook; None: it is time to look again. Raises TimeoutError at *until*."""
        left = until - self._loop.time()
        if left <= 0:
            raise TimeoutError
        await asyncio.wait((waiter,), timeout=min(LOOK_EVERY, left))
        return waiter.result() if waiter.done() else None

    def _end(self, claim: HookClaim, kind: bytes, verdict: bytes = b"", kept: int = 0) -> None:
        """Tell those that wait, and keep the verdict for *kept* milliseconds."""
        link, message = self._link, b"%b%b" % (kind, claim.digest)
        if kind == _VERDICT:
            message += kept.to_bytes(_TTL, "big")
        dropped = link.dropped
        arguments = (END, claim.token, verdict, kept or HANDOVER_TIME, "1" if kept else "", self._channels, message)
        link.send(*CLAIMS.command((self._key(claim),), arguments))
        if link.dropped != dropped:
            self._epoch += 1  # those that wait would not hear of it

    def _key(self, claim: HookClaim) -> str:
        return self._claims + claim.digest.hex()

    def _follow(self, digest: bytes) -> asyncio.Future[bytes]:
        waiter: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting.setdefault(digest, []).append(waiter)
        return waiter

    def _unfollow(self, digest: bytes, waiter: asyncio.Future[bytes]) -> None:
        waiters = self._waiting[digest]
        waiters.remove(waiter)
        if not waiters:
            del self._waiting[digest]

    def _receive(self, message: bytes) -> None:
        for waiter in self._waiting.get(message[1:_HEAD], ()):
            if not waiter.done():
                waiter.set_result(message)

    def _begin_epoch(self) -> None:
        """The link is up again: what was published before may be lost."""
        self._epoch += 1
        if self._timer is not None:
            self._timer.cancel()
        self._beat()

    def _beat(self) -> None:
        self._link.send("SET", self._heartbeat(), "", "PX", HEARTBEAT_TTL)
        self._timer = self._loop.call_later(HEARTBEAT, self._beat)

    def _heartbeat(self) -> str:
        return f"{self._heartbeats}{self._process}.{self._epoch}"


def read_reply(reply: object, claim: HookClaim, body: bytes) -> HookClaim | SharedVerdict | None:
    """What the answer to a claim says: it is one's own, there is a verdict, or another process has the hook (None).

    What another version says and this one cannot read makes the claim one's own.
    """
    match reply:
        case [int(kind), *_] if kind == TAKEN:
            return None
        case [int(kind), bytes(verdict), int(milliseconds), *_] if kind == DECIDED:
            ruling = decode_verdict(claim.digest, body, verdict)
            if ruling is not None:
                return SharedVerdict(ruling, max(0, milliseconds) / 1000)
    return claim


def read_message(message: bytes, body: bytes) -> SharedVerdict | None:
    """The verdict that a message brings; None: it brings none that this version can read, so the hook may be claimed.

    Raises ClaimOwnerLost where it says that there will be none.
    """
    kind, digest, rest = message[:1], message[1:_HEAD], message[_HEAD:]
    if kind == _LOST:
        raise ClaimOwnerLost("the same hook, in flight at another replica, ended without a verdict")
    if kind != _VERDICT:
        return None
    ruling = decode_verdict(digest, body, rest[_TTL:])
    return None if ruling is None else SharedVerdict(ruling, int.from_bytes(rest[:_TTL], "big") / 1000)
