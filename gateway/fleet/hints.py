"""What one gateway of a fleet tells the others about a target that fails: a hint, never an order.

A target that is ejected here because hooks or checks fail is named to the others, which then need one failure of their
own to eject it too. A hint that is lost costs the others a few more failures, so none is kept or repeated.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from gateway.fleet.link import Link
from gateway.fleet.local import Local
from gateway.model.keep_going import KeepGoing

_PER_SECOND: Final = 100
"""Hints that are given in one second; what is beyond that concerns a backend whose others are hinted at already."""
_MAX_WAITING: Final = 1000
"""Hints from elsewhere that wait to be passed on; more are dropped."""


class _Hint(msgspec.Struct, frozen=True):
    """A target that fails at the gateway with this id."""

    by: str
    upstream: str
    url: str


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Hint).decode


class Hints:
    """Gives and takes hints. Build it inside a running loop."""

    def __init__(self, link: Link, local: Local, me: str) -> None:
        """*me*: this gateway's id, by which it knows its own hints."""
        self._link = link
        self._channel = link.key("hints")
        self._local = local
        self._me = me
        self._loop = asyncio.get_running_loop()
        self._second = 0
        self._given = 0
        self._waiting: dict[tuple[str, str], None] = {}
        self._came = asyncio.Event()
        self._passing: asyncio.Task[None] | None = None
        link.subscribe(self._channel, self._receive)

    def __repr__(self) -> str:
        return f"<Hints {len(self._waiting)} waiting>"

    def start(self) -> None:
        """Begin to pass on what comes."""
        self._passing = asyncio.create_task(self._pass_on())

    async def aclose(self) -> None:
        """End."""
        if self._passing is not None:
            self._passing.cancel()
            await asyncio.gather(self._passing, return_exceptions=True)

    def give(self, upstream: str, url: str) -> None:
        """The target fails here."""
        second = int(self._loop.time())
        if second != self._second:
            self._second, self._given = second, 0
        if self._given < _PER_SECOND:
            self._given += 1
            self._link.send("PUBLISH", self._channel, _encode(_Hint(self._me, upstream, url)))

    def _receive(self, data: bytes) -> None:
        try:
            hint = _decode(data)
        except (msgspec.DecodeError, ValueError):
            return  # of a version that this one does not know
        if hint.by != self._me and len(self._waiting) < _MAX_WAITING:
            self._waiting[hint.upstream, hint.url] = None
            self._came.set()

    async def _pass_on(self) -> None:
        keep_going = KeepGoing("the passing on of hints")
        while True:
            await self._came.wait()
            self._came.clear()
            while self._waiting:
                upstream, url = next(iter(self._waiting))
                del self._waiting[upstream, url]
                with keep_going:
                    await self._local.hint(upstream, url)
