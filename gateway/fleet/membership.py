"""Who lives: each gateway writes a record every second, which the server forgets if it is not renewed."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from gateway.fleet.link import Link
from gateway.fleet.local import Description, Local
from gateway.fleet.reasons import StateUnavailable
from gateway.fleet.scripts import Script
from gateway.fleet.shares import Entry
from gateway.model.keep_going import KeepGoing

logger = logging.getLogger(__name__)

BEAT: Final = 1.0
"""Seconds between two records of a gateway."""
LIFETIME: Final = 3.0
"""Seconds for which a record is true; with the next beat of the others, a killed gateway is gone within 4 s."""
_LEAVE_LIMIT: Final = 0.3
"""Seconds at the end for the server to forget this gateway."""

_BEAT_SCRIPT: Final = Script("""
-- KEYS: the set of members, this member's record, then keys whose values are wanted.
-- ARGV: id, record, lifetime in ms, the prefix of records.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local records = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local record = redis.call('GET', ARGV[4] .. id)
  if record then records[#records + 1] = record end
end
local values = {}
for place = 3, #KEYS do values[place - 2] = redis.call('GET', KEYS[place]) end
return {records, values}
""")


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway of the fleet, as its last record says."""

    id: str
    """Random, new at each start."""
    beat: int
    """How many records it had written before: rises by one a second."""
    description: Description
    limits: Mapping[str, Entry] = {}
    """What it demands and holds of limits, by their keys; those that are not here are divided evenly."""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Member).decode
Listener = Callable[[Mapping[str, Member]], None]


class Membership:
    """The live gateways, this one included, as the server knew them at the last beat."""

    def __init__(self, link: Link, local: Local) -> None:
        self.id: Final = secrets.token_hex(8)
        """Of this gateway, until its end."""
        self.members: Mapping[str, Member] = {}
        """By id. While the server is away: those that were last known, see ``stale``. Empty before the first beat."""
        self.stale = True
        """Whether the last beat failed, so that the others may have changed since."""
        self.beats = 0
        """Beats that succeeded."""
        self.on_beat: list[Listener] = []
        """Called with all members after each beat that succeeded."""
        self.on_change: list[Listener] = []
        """The same, where a member has come or gone, and when the members become stale."""
        self.entries: Callable[[], Awaitable[Mapping[str, Entry]]] | None = None
        """Asked before each beat what to publish of the limits; None: nothing."""
        self._link = link
        self._local = local
        self._watched: dict[str, Callable[[bytes | None], None]] = {}
        self._beating: asyncio.Task[None] | None = None
        self._due = asyncio.Event()
        self._unreadable: set[bytes] = set()
        self._keep_going = KeepGoing("the heartbeat of the fleet")

    def __repr__(self) -> str:
        return f"<Membership {self.id} of {len(self.members)}{', stale' if self.stale else ''}>"

    def watch(self, key: str, handler: Callable[[bytes | None], None]) -> None:
        """Have a function called with the value of a key (its whole name) at each beat; None where there is none."""
        self._watched[key] = handler

    def start(self) -> None:
        """Begin to beat: at once when the link is up, then every BEAT seconds."""
        self._link.load(_BEAT_SCRIPT)
        self._link.on_up.append(self._due.set)
        self._link.on_down.append(self._become_stale)
        self._beating = asyncio.create_task(self._beat_on())

    async def aclose(self) -> None:
        """Stop, and have the server forget this gateway at once."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        key = self._link.key
        self._link.send("DEL", key("replica:", self.id))
        try:
            await self._link.call("ZREM", key("replicas"), self.id, timeout=_LEAVE_LIMIT)
        except StateUnavailable:
            return  # its record runs out by itself

    def beat_soon(self) -> None:
        """Write a record now rather than at the next beat: something that others should know has changed."""
        self._due.set()

    async def _beat_on(self) -> None:
        while True:
            self._due.clear()
            with self._keep_going:
                if self._link.up:
                    await self._beat()
            try:
                await asyncio.wait_for(self._due.wait(), BEAT)
            except TimeoutError:
                continue

    async def _beat(self) -> None:
        description = self._local.describe()
        admin = reachable_address(description.admin, self._link.local_host or "")
        me = Member(
            id=self.id,
            beat=self.beats,
            description=msgspec.structs.replace(description, admin=admin),
            limits={} if self.entries is None else await self.entries(),
        )
        key = self._link.key
        keys = (key("replicas"), key("replica:", self.id), *self._watched)
        arguments = (self.id, _encode(me), round(LIFETIME * 1000), key("replica:"))
        try:
            records, values = await self._link.run(_BEAT_SCRIPT, keys, arguments)
        except StateUnavailable as exc:
            logger.debug("no heartbeat: %s", exc)
            return self._become_stale()
        self.beats += 1
        before, was_stale = self.members, self.stale
        self.members, self.stale = {self.id: me, **self._read(records), self.id: me}, False
        self._notify(self.on_beat)
        if was_stale or before.keys() != self.members.keys():
            self._notify(self.on_change)
        for handler, value in zip(list(self._watched.values()), values, strict=False):
            with self._keep_going:
                handler(value)
        return None

    def _read(self, records: list[bytes]) -> dict[str, Member]:
        found: dict[str, Member] = {}
        for record in records:
            try:
                member = _decode(record)
            except msgspec.MsgspecError as exc:  # of another version, or somebody else's key
                if len(self._unreadable) < 100 and (record[:32] not in self._unreadable):
                    self._unreadable.add(record[:32])
                    logger.warning("the record of another gateway cannot be read, it is left out: %s", exc)
                continue
            found[member.id] = member
        return found

    def _become_stale(self) -> None:
        if not self.stale:
            self.stale = True
            self._notify(self.on_change)

    def _notify(self, listeners: list[Listener]) -> None:
        for listener in listeners:
            with self._keep_going:
                listener(self.members)


def reachable_address(bound: str, local_host: str) -> str:
    """An address that others can connect to: of a port on all interfaces, at the host by which they know this one."""
    host, _, port = bound.rpartition(":")
    if host not in ("", "0.0.0.0", "[::]") or not local_host:  # noqa: S104 - compared, not bound
        return bound
    return f"[{local_host}]:{port}" if ":" in local_host else f"{local_host}:{port}"


def describe_member(member: Member) -> dict[str, Any]:
    """A member as JSON."""
    return {"id": member.id, **msgspec.to_builtins(member.description)}
