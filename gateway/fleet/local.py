"""What the fleet's agent needs of its own gateway. The server room implements it (``server/fleet_local.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from gateway.fleet.shares import Measured, Shares


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway in its own words, as the others see it. Later versions may add fields, which older ones ignore."""

    name: str
    """WCS_GATEWAY_INSTANCE, or the host's name and the admin port."""
    version: str
    revision: str
    """Of the configuration in force: see ``Config.revision``."""
    admin: str
    """Host and port of the admin port as others can reach it; on loopback, where only this machine can."""
    since: float
    """Unix time of the start."""
    drained: bool = False
    """Whether an operator has drained it."""
    phase: str = "ready"
    """See ``Phase`` in ``admin/lifecycle.py``."""
    store: bool | None = None
    """Whether the store takes events; None where none is configured."""
    reloaded: float = 0.0
    """Unix time at which a reload last changed its configuration; 0: none has since the start."""


class Local(Protocol):
    """The gateway that an agent belongs to: all of its processes."""

    def describe(self) -> Description:
        """What the others should know of it now."""

    async def demand(self) -> Mapping[str, Measured]:
        """What hooks demanded of the limits since the last call, by the limits' keys; empty where nobody answers."""

    async def apply_shares(self, shares: Shares) -> bool:
        """Use these shares of the limits, in processes that start later, too. Returns whether all have answered."""

    async def set_ejected(self, upstream: str, url: str, ejected: bool, by: str) -> None:
        """Carry out an operator's order given at the gateway *by*, now and for processes that start later.

        Raises TimeoutError or another error where it is to be tried again.
        """

    async def set_spool_paused(self, upstream: str | None, app: str | None, paused: bool, by: str) -> None:
        """The same for redelivery to an upstream, of an app, or of everything; of no effect without a store."""

    async def hint(self, upstream: str, url: str) -> None:
        """The target fails at another gateway: one failure here then ejects it. Unknown targets are ignored."""
