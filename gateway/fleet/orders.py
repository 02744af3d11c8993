"""An operator's orders at one gateway of a fleet: kept in the shared state, obeyed here, and given back if it is lost.

In the state, orders are a hash by subject, beside a stamp that changes with every write. A publication wakes the other
gateways at once, and each heartbeat brings the stamp, so that what was not heard is read within a second. While the
state is away, an order given here holds here, and is written when the state is back; where the state was emptied or
has gone back in time, whoever knows a later order writes it again. Which of two orders holds is decided in one place,
``policy.orders``: the state only swaps one value for another, if it is still the expected one.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from gateway.fleet.link import Link
from gateway.fleet.local import Local
from gateway.fleet.membership import Membership
from gateway.fleet.reasons import StateUnavailable
from gateway.fleet.scripts import Script
from gateway.model.keep_going import KeepGoing
from gateway.policy.orders import (
    Order,
    OrderBook,
    SpoolOrder,
    Subject,
    TargetOrder,
    read_order,
    read_subject,
    write_order,
    write_subject,
)

logger = logging.getLogger(__name__)

_TRIES: Final = 8
"""Swaps that are tried for one order while others write the same subject."""
_APPLY_LIMIT: Final = 5.0
"""Seconds that this gateway has to carry out an order; then the next one has its turn, and this one is tried again."""
_NOTHING: Final = b""
_SWAP: Final = Script(
    """
local held = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if held ~= ARGV[2] then return held end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) return '' end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('SET', KEYS[2], ARGV[4])
redis.call('PUBLISH', KEYS[1], ARGV[1] .. '\\n' .. ARGV[3])
return ARGV[3]
"""
)
"""Put ARGV[3] (nothing: none) in place of ARGV[2] for the subject ARGV[1]; returns what there is then."""


class Orders:
    """The orders of the fleet, known and obeyed at this gateway. Build it inside a running loop."""

    def __init__(
        self, link: Link, membership: Membership, local: Local, clock: Callable[[], float] = time.time
    ) -> None:
        """*clock*: Unix time in seconds."""
        self.book = OrderBook()
        self._link = link
        self._local = local
        self._clock = clock
        self._hash = link.key("orders")
        self._stamp_key = link.key("orders:stamp")
        self._stamp: object = None
        """That of the state when book and state were last compared; None before the first time."""
        self._unsure = True
        """Whether book and state are to be compared even where the stamp is the same."""
        self._unobeyed: dict[str, None] = {}
        """Keys of orders still to be carried out here, in the order in which they came."""
        self._to_obey = asyncio.Event()
        self._seen = _NOTHING
        """The stamp that the last heartbeat brought."""
        self._to_compare = asyncio.Event()
        self._settled = asyncio.Event()
        """Set once what the state had at first is carried out here."""
        self._failed: set[str] = set()
        """Keys of orders that could not be carried out, which the log has."""
        self._tasks: list[asyncio.Task[None]] = []
        link.load(_SWAP)
        link.subscribe(self._hash, self._receive)
        link.on_up.append(self._become_unsure)
        membership.watch(link.key("orders:stamp"), self._see_stamp)

    def __repr__(self) -> str:
        return f"<Orders {self.book!r}, {len(self._unobeyed)} to carry out>"

    def start(self) -> None:
        """Begin to listen and to obey."""
        self._tasks = [asyncio.create_task(self._obey_all()), asyncio.create_task(self._compare_all())]

    async def wait_until_settled(self, limit: float) -> bool:
        """Whether what the state has is carried out here within *limit* seconds."""
        try:
            await asyncio.wait_for(self._settled.wait(), limit)
        except TimeoutError:
            return False
        return True

    async def aclose(self) -> None:
        """End."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def give(self, subject: Subject, *, on: bool) -> str | None:
        """Give an order here, for all: it was carried out here. Returns None, or why the others do not know it yet."""
        key = write_subject(subject)
        before = self.book.orders.get(key)
        order = self.book.give(key, on=on, now=self._clock(), by=self._local.describe().name)
        self._obey_soon(key)  # again: another order may have been carried out in between
        try:
            await self._write(key, order, before)
        except StateUnavailable as exc:
            self._unsure = True
            return str(exc)
        return None

    def ejection(self, upstream: str, name: str) -> TargetOrder | None:
        """The ejection in force of a target by its name, also of one that no configuration has any more.

        *name*: host and port, with the path where several targets share those.
        """
        for key, order in self.book.orders.items():
            subject = read_subject(key) if order.on else None
            if isinstance(subject, TargetOrder) and subject.upstream == upstream:
                address = subject.url.partition("://")[2]
                if name in (address, target_name(subject.url)):
                    return subject
        return None

    # --- hearing ---

    def _receive(self, data: bytes) -> None:
        key, _, value = data.partition(b"\n")
        order = read_order(value)
        if order is not None:
            self._take(key.decode("utf-8", "replace"), order)

    def _take(self, key: str, order: Order) -> None:
        if self.book.merge(key, order):
            self._obey_soon(key)

    def _become_unsure(self) -> None:
        self._unsure = True

    def _see_stamp(self, stamp: bytes | None) -> None:
        """A heartbeat has succeeded, with this stamp."""
        self._seen = stamp or _NOTHING
        if self._unsure or self._seen != self._stamp or self.book.expired(self._clock()):
            self._to_compare.set()
        if self._unobeyed:
            self._to_obey.set()  # those that could not be carried out are tried again

    async def _compare_all(self) -> None:
        keep_going = KeepGoing("the comparison of orders with the state")
        while True:
            await self._to_compare.wait()
            self._to_compare.clear()
            with keep_going:
                await self._compare()

    async def _compare(self) -> None:
        """Read what is new in the state, and write what it lacks."""
        stamp, now = self._seen, self._clock()
        self._unsure = False
        try:
            await self._exchange(now, self.book.expired(now))
        except StateUnavailable:
            self._unsure = True  # the link has said so; the next heartbeat makes up for it
            return
        self._stamp = stamp
        self._to_obey.set()

    async def _exchange(self, now: float, expired: Iterable[str]) -> None:
        held = _pairs(await self._link.call("HGETALL", self._hash))
        theirs: dict[str, Order] = {}
        for key, value in held.items():
            order = read_order(value)
            if order is None:
                continue
            theirs[key] = order
            if not order.is_expired(now):
                self._take(key, order)
        for key in expired:
            if theirs.get(key) == self.book.orders[key]:
                await self._swap(key, held[key], _NOTHING)
        self.book.forget(expired)
        for key in self.book.lacking(theirs):
            await self._write(key, self.book.orders[key], theirs.get(key))

    # --- writing ---

    async def _write(self, key: str, order: Order, expected: Order | None) -> None:
        """Put an order into the state, unless a later one is there. Raises StateUnavailable."""
        value = write_order(order)
        before = _NOTHING if expected is None else write_order(expected)
        for _ in range(_TRIES):
            held = await self._swap(key, before, value)
            if held == value:
                return
            theirs = read_order(held) if held else None
            if theirs is not None and not order.beats(theirs):
                self._take(key, theirs)
                return
            before = held
        self._unsure = True  # others write it all the time: the next comparison sees who won

    async def _swap(self, key: str, before: bytes, after: bytes) -> bytes:
        arguments = (key, before, after, secrets.token_hex(8))
        held = await self._link.run(_SWAP, (self._hash, self._stamp_key), arguments)
        return held if isinstance(held, bytes) else _NOTHING

    # --- obeying ---

    def _obey_soon(self, key: str) -> None:
        self._unsure = True  # the state has another stamp by now, or lacks the order
        self._unobeyed[key] = None
        self._to_obey.set()

    async def _obey_all(self) -> None:
        """Carry out orders one after the other; those that fail are tried again with the next heartbeat."""
        keep_going = KeepGoing("the carrying out of orders")
        while True:
            await self._to_obey.wait()
            self._to_obey.clear()
            for key in list(self._unobeyed):
                with keep_going:
                    await self._obey(key)
            if self._stamp is not None and not self._unobeyed:
                self._settled.set()

    async def _obey(self, key: str) -> None:
        order, subject = self.book.orders.get(key), read_subject(key)
        if order is not None and subject is not None:
            try:
                async with asyncio.timeout(_APPLY_LIMIT):
                    await self._carry_out(subject, order)
            except Exception as exc:
                if key not in self._failed:
                    self._failed.add(key)
                    reason = str(exc) or f"no answer within {_APPLY_LIMIT:g} s"
                    logger.warning("an operator's order for %s cannot be carried out yet: %s", _words(subject), reason)
                return
        self._failed.discard(key)
        if self.book.orders.get(key) is order:
            self._unobeyed.pop(key, None)

    async def _carry_out(self, subject: Subject, order: Order) -> None:
        match subject:
            case TargetOrder(upstream, url):
                await self._local.set_ejected(upstream, url, order.on, order.by)
            case SpoolOrder(upstream, app):
                await self._local.set_spool_paused(upstream, app, order.on, order.by)


def target_name(url: str) -> str:
    """A target as people know it: host and port, never the path, which may have a secret."""
    return url.partition("://")[2].partition("/")[0]


def _pairs(answer: Any) -> dict[str, bytes]:
    """The fields of a hash, as either version of the protocol has them."""
    items: Iterable[tuple[bytes, bytes]]
    items = answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
    return {name.decode("utf-8", "replace"): value for name, value in items}


def _words(subject: Subject) -> str:
    match subject:
        case TargetOrder(upstream, _):
            return f"a target of {upstream}"
        case SpoolOrder(upstream, app):
            return f"redelivery to {upstream or app or 'all'}"
