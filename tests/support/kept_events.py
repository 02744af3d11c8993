"""A store in memory with the rules of the real one, for tests of what keeps and delivers events."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.store.messages import Backlogs, Settle
from gateway.store.records import Delivery, SpooledEvent, UpstreamBacklog

HOUR = 3600.0
TELL_EVERY = 0.1
"""Seconds between two reports of what waits, as of the real store."""


def event(number: int = 0, key: bytes | None = None, **changes: Any) -> SpooledEvent:
    """An event of the app ``a``, kept because its upstream ``php`` was unreachable."""
    made = SpooledEvent(
        key=key or b"%016d" % number,
        digest=b"%016d" % number,
        app="a",
        method="CallStatusEvent",
        upstream="php",
        request_id=f"request-{number}",
        received=1_700_000_000.0 + number,
        query=b"",
        client="192.0.2.1",
        scheme="http",
        fields=((b"host", b"gateway"), (b"content-type", b"application/json"), (b"user-agent", b"Java/1.8.0_111")),
        body=b'{"appKey":"a","callId":"c%d","number":%d}' % (number, number),
        cause="unreachable",
        error="connection refused",
        call_id=f"c{number}",
        session_id=None,
        value=2,
        max_age=HOUR,
        max_size=2**30,
    )
    return msgspec.structs.replace(made, **changes)


@dataclass
class _Row:
    event: SpooledEvent
    due: float = 0.0
    attempts: int = 0
    leased_to: KeptEvents | None = None


@dataclass
class Shelf:
    """What is kept, shared by the processes of a gateway."""

    rows: dict[int, _Row] = field(default_factory=dict)
    dead: list[SpooledEvent] = field(default_factory=list)
    settled: list[tuple[SpooledEvent, Settle]] = field(default_factory=list)
    """Every outcome, in its order."""
    paused: set[str] = field(default_factory=set)
    _numbers: int = 0

    def add(self, kept: SpooledEvent) -> None:
        self._numbers += 1
        self.rows[self._numbers] = _Row(kept)

    def heads(self, upstream: str) -> list[int]:
        """Ids of the first events of their keys, by when they are due."""
        firsts = dict.fromkeys(row.event.key for row in self.rows.values())
        ids: dict[bytes, int] = {}
        for id_, row in self.rows.items():
            ids.setdefault(row.event.key, id_)
        return sorted(
            (ids[key] for key in firsts if self.rows[ids[key]].event.upstream == upstream),
            key=lambda id_: (self.rows[id_].due, id_),
        )

    def outcomes(self) -> Counter[str]:
        return Counter(settle.outcome for _, settle in self.settled)


class KeptEvents:
    """The shelf as one process sees it: what ``StoreClient`` is to redelivery and to the endpoint."""

    def __init__(self, shelf: Shelf | None = None) -> None:
        self.shelf = shelf or Shelf()
        self.on_duty: Callable[[bool], None] = lambda redelivers: None
        self.on_backlogs: Callable[[Backlogs], None] = lambda backlogs: None
        self.on_settled: Callable[[tuple[int, ...]], None] = lambda ids: None
        self.refusal: str | None = None
        """Why events are not kept, where they are not."""
        self.asked: list[tuple[str, int]] = []
        self.up = True
        self._telling: asyncio.TimerHandle | None = None

    # --- for hooks ---

    def has_backlog(self, key: bytes) -> bool:
        return any(row.event.key == key for row in self.shelf.rows.values())

    async def keep(self, kept: SpooledEvent, deadline: float) -> str | None:
        assert deadline > asyncio.get_running_loop().time()
        if self.refusal is None:
            self.shelf.add(kept)
            self.tell()
        return self.refusal

    # --- for redelivery ---

    async def take(self, upstream: str, most: int) -> tuple[Delivery, ...]:
        assert most > 0
        self.asked.append((upstream, most))
        await asyncio.sleep(0)
        rows, now = self.shelf.rows, time.time()
        ids = [
            id_ for id_ in self.shelf.heads(upstream) if rows[id_].leased_to is None and rows[id_].due <= now
        ][:most]  # fmt: skip
        for id_ in ids:
            rows[id_].leased_to = self
        return tuple(Delivery(id_, rows[id_].attempts, rows[id_].event) for id_ in ids)

    def settle(self, settle: Settle) -> None:
        row = self.shelf.rows[settle.id]
        assert row.leased_to is self, "settled without having been given out, or twice"
        row.leased_to = None
        row.due = settle.due
        self.shelf.settled.append((row.event, settle))
        if settle.outcome in ("delivered", "dead"):
            del self.shelf.rows[settle.id]
        if settle.outcome == "dead":
            self.shelf.dead.append(row.event)
        row.attempts += settle.outcome == "failed"
        asyncio.get_running_loop().call_soon(self.on_settled, (settle.id,))
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(TELL_EVERY, self.tell)

    # --- for the test ---

    def begin(self) -> None:
        """This process redelivers from now on."""
        self.on_duty(True)
        self.tell()

    def end(self) -> None:
        """It does not any more; what it has of the store goes back only as it is settled."""
        self.on_duty(False)

    def die(self) -> None:
        """Its connection ended: what it was given is given to others."""
        for row in self.shelf.rows.values():
            if row.leased_to is self:
                row.leased_to = None

    def add(self, *kept: SpooledEvent) -> None:
        for each in kept:
            self.shelf.add(each)
        self.tell()

    def tell(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        names = dict.fromkeys(row.event.upstream for row in self.shelf.rows.values())
        self.on_backlogs(Backlogs(tuple(map(self._backlog, names)), self.up))

    def _backlog(self, upstream: str) -> UpstreamBacklog:
        rows = [row for row in self.shelf.rows.values() if row.event.upstream == upstream]
        dues = [self.shelf.rows[id_].due for id_ in self.shelf.heads(upstream)]
        return UpstreamBacklog(
            upstream=upstream,
            events=len(rows),
            bytes=sum(len(row.event.body) for row in rows),
            dead=0,
            oldest=min((row.event.received for row in rows), default=None),
            due=min(dues, default=None),
            paused=upstream in self.shelf.paused,
        )


def bodies(kept: Sequence[SpooledEvent]) -> list[bytes]:
    return [each.body for each in kept]
