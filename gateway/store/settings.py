"""What the store's process needs of the configuration.

It is sent instead of the whole: what reads YAML and checks it takes longer to load than all that works with databases,
and the store's process is to be back soon after its death.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.policy.history import HistorySettings


class StoreConfig(NamedTuple):
    """The configuration in force, as far as the store's process follows it."""

    engine: str
    """``sqlite`` or ``postgresql``."""
    url: str
    """With the password; that of the first configuration stays until a restart."""
    history: HistorySettings | None
    apps: frozenset[str]
    """Those that are configured: events of others stay, undelivered."""
    upstreams: frozenset[str]
    mask: tuple[str, ...]
    """``log.mask``."""
    body_fields: tuple[str, ...]
    """The fields that have pseudonyms in bodies."""
    log_level: str
    log_console: bool
    drain_timeout: float
    """Seconds for which hooks may go on after the gateway's end has begun."""
