"""What sessions' answers to connect said, shared by all replicas: written behind, looked up after the answer."""

from __future__ import annotations

from typing import Final

from gateway.fleet.encoding import FoundSession, decode_session, encode_session, session_digest
from gateway.fleet.link import Link
from gateway.fleet.reasons import StateUnavailable
from gateway.policy.rest_client_config import SessionSettings

KEEP: Final = 24 * 3600
"""Seconds for which a session is kept, as in each replica; a new connect starts them again."""
PATIENCE: Final = 0.1
"""Seconds that a look-up may take: nobody waits for it but the record of a decision."""


class FleetSessions:
    """The sessions of all replicas, over this process's *link*."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._prefix = link.key("session:")

    def write(self, session: str, failing: frozenset[str], settings: SessionSettings | None) -> None:
        """Have the other replicas know what the session's answer to connect set; lost while the state is away."""
        data = encode_session(session, failing, settings)
        if data is None:  # what an earlier connect said of it holds no longer
            self._link.send("DEL", self._key(session))
        else:
            self._link.send("SET", self._key(session), data, "EX", KEEP)

    async def find(self, session: str) -> FoundSession | None:
        """What another replica knows of the session; None = unknown, or not known in time."""
        if not self._link.up:
            return None
        try:
            data = await self._link.call("GET", self._key(session), timeout=PATIENCE)
        except StateUnavailable:
            return None
        return decode_session(session, data) if isinstance(data, bytes) else None

    def _key(self, session: str) -> str:
        return self._prefix + session_digest(session).hex()
