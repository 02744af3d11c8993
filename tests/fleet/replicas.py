"""Gateways of a test without processes: each with a link, a membership, and an account of what it was told to do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from gateway.fleet.departures import Departures
from gateway.fleet.hints import Hints
from gateway.fleet.link import Link
from gateway.fleet.membership import Membership
from gateway.fleet.orders import Orders

from .links import state
from .locals import PlainLocal


class Account(PlainLocal):
    """Notes what it is told, and may fail."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ejected: set[tuple[str, str]] = set()
        self.paused: set[tuple[str | None, str | None]] = set()
        self.told: list[tuple[str, bool, str]] = []
        self.hints: list[tuple[str, str]] = []
        self.fails = False

    async def set_ejected(self, upstream: str, url: str, ejected: bool, by: str) -> None:
        if self.fails:
            raise OSError("no workers")
        self.told.append((url, ejected, by))
        (self.ejected.add if ejected else self.ejected.discard)((upstream, url))

    async def set_spool_paused(self, upstream: str | None, app: str | None, paused: bool, by: str) -> None:
        if self.fails:
            raise OSError("no store")
        (self.paused.add if paused else self.paused.discard)((upstream, app))

    async def hint(self, upstream: str, url: str) -> None:
        self.hints.append((upstream, url))


class Gateway:
    """One of them."""

    def __init__(self, name: str, url: str) -> None:
        self.local = Account(name)
        self.link = Link(state(url), name)
        self.membership = Membership(self.link, self.local)
        self.departures = Departures(self.link, self.membership)
        self.orders = Orders(self.link, self.membership, self.local)
        self.hints = Hints(self.link, self.local, self.membership.id)


@contextlib.asynccontextmanager
async def running(name: str, url: str, *, orderly: bool = True) -> AsyncIterator[Gateway]:
    """A gateway of this name; without *orderly*, its record is left behind at the end, as by one that is killed."""
    gateway = Gateway(name, url)
    await gateway.link.start()
    gateway.membership.start()
    gateway.hints.start()
    gateway.orders.start()
    try:
        yield gateway
    finally:
        await gateway.orders.aclose()
        await gateway.hints.aclose()
        if orderly:
            gateway.departures.leave()
            await gateway.membership.aclose()
        await gateway.link.aclose()
        if not orderly:
            await gateway.membership.aclose()
