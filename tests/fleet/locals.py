"""A gateway of the tests' own, as the fleet's agent sees one."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.fleet.local import Description
from gateway.fleet.shares import Measured, Shares


class PlainLocal:
    """Says what it is told to."""

    def __init__(self, name: str, *, revision: str = "abc", admin: str = "127.0.0.1:9180") -> None:
        self.description = Description(name=name, version="1.0", revision=revision, admin=admin, since=1.5)
        self.wanted: Mapping[str, Measured] = {}
        self.shares: list[Shares] = []
        """All that it was told to apply."""

    def describe(self) -> Description:
        return self.description

    async def demand(self) -> Mapping[str, Measured]:
        return self.wanted

    async def apply_shares(self, shares: Shares) -> bool:
        self.shares.append(shares)
        return True

    async def set_ejected(self, upstream: str, url: str, ejected: bool, by: str) -> None:
        """It has no targets."""

    async def set_spool_paused(self, upstream: str | None, app: str | None, paused: bool, by: str) -> None:
        """It has no store."""

    async def hint(self, upstream: str, url: str) -> None:
        """It has no targets."""
