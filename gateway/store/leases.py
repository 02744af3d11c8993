"""Which process delivers kept events, and which events it has in its hands. Pure: what happens is passed in.

One process redelivers. It has the duty until it has ended, not until its connection has: a connection can end with the
store's process, and what was being delivered then still is. So its events stay leased to it, and no other process gets
the duty, until the kernel says that it is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Set


class Leases:
    """Of the workers of one gateway, by their pids."""

    def __init__(self, duty: int = 0) -> None:
        """*duty*: the pid of the one that had the duty when the last store's process ended; 0: none."""
        self._duty = duty
        self._connected: dict[int, None] = {}
        """The pids of those that are connected, in the order in which they came."""
        self._holders: dict[int, int] = {}
        """By event, the process that it is leased to."""

    def __repr__(self) -> str:
        return f"<Leases duty {self._duty}, {len(self._connected)} connected, {len(self._holders)} leased>"

    @property
    def duty(self) -> int:
        """The pid of the process that redelivers, connected or not; 0: none."""
        return self._duty

    @property
    def leased(self) -> Set[int]:
        """The events that are being delivered."""
        return self._holders.keys()

    @property
    def awaited(self) -> set[int]:
        """The pids of those that matter although they are not connected: their end is to be noticed."""
        return ({self._duty, *self._holders.values()} - {0}) - self._connected.keys()

    def connect(self, pid: int, held: Iterable[int]) -> list[int]:
        """A worker has connected, with these events in its hands; the leases that it no longer needs end."""
        self._connected[pid] = None
        held = set(held)
        ended = [event for event, holder in self._holders.items() if holder == pid and event not in held]
        for event in ended:
            del self._holders[event]
        for event in held:
            self._holders[event] = pid
        if not self._duty:
            self._duty = pid
        return ended

    def disconnect(self, pid: int) -> None:
        """Its connection has ended; it may come back."""
        self._connected.pop(pid, None)

    def end(self, pid: int) -> list[int]:
        """The process has ended; its leases end, and so does its duty, which the first other one gets."""
        self._connected.pop(pid, None)
        ended = [event for event, holder in self._holders.items() if holder == pid]
        for event in ended:
            del self._holders[event]
        if self._duty == pid:
            self._duty = next(iter(self._connected), 0)
        return ended

    def lease(self, pid: int, events: Iterable[int]) -> None:
        """These events are given to the process."""
        for event in events:
            self._holders[event] = pid

    def settle(self, event: int) -> None:
        """What became of the event is committed."""
        self._holders.pop(event, None)
