"""Events for the tests of the spool, and a plain model of what the spool has to do with them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.policy.spooling import REPEAT_WINDOW, ordering_key, repeat_digest
from gateway.store.records import SpooledEvent
from gateway.store.requests import EventFilter

_NUMBERS: Final = itertools.count()
START: Final = 1_700_000_000.0


def make_event(
    call: str | None = "a",
    text: str | None = None,
    *,
    app: str = "app",
    method: str = "CallStatusEvent",
    upstream: str = "php",
    received: float = START,
    value: int = 2,
    max_age: float = 3600.0,
    max_size: int = 2**30,
    body: bytes | None = None,
) -> SpooledEvent:
    """An event of this call; without *text*, of bytes that no other one has."""
    if body is None:
        body = msgspec.json.encode({"callId": call, "text": next(_NUMBERS) if text is None else text})
    return SpooledEvent(
        key=ordering_key(app, body),
        digest=repeat_digest(app, method, body),
        app=app,
        method=method,
        upstream=upstream,
        request_id=f"r{next(_NUMBERS)}",
        received=received,
        query=b"a=1",
        client="192.0.2.1",
        scheme="http",
        fields=((b"content-type", b"application/json"), (b"x-odd", b"\xff\x00")),
        body=body,
        cause="unreachable",
        error="connection refused",
        call_id=call,
        session_id=None,
        value=value,
        max_age=max_age,
        max_size=max_size,
    )


@dataclass
class Row:
    """An event as the model keeps it."""

    id: int
    event: SpooledEvent
    size: int
    due: float
    expires: float
    dead: bool = False
    attempts: int = 0

    def matches(self, wanted: EventFilter) -> bool:
        event = self.event
        return (
            (wanted.ids is None or self.id in wanted.ids)
            and wanted.app in (None, event.app)
            and wanted.upstream in (None, event.upstream)
            and wanted.method in (None, event.method)
            and wanted.call_id in (None, event.call_id)
            and wanted.dead in (None, self.dead)
        )


class Model:
    """What the spool has to do, as plainly as it can be said."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        """In the order in which they came."""
        self.everything = False
        self.upstreams: set[str] = set()
        self.apps: set[str] = set()

    def find(self, id_: int) -> Row | None:
        return next((row for row in self.rows if row.id == id_), None)

    def repeated(self, event: SpooledEvent) -> Row | None:
        return next(
            (
                row
                for row in self.rows
                if row.event.digest == event.digest and row.event.received >= event.received - REPEAT_WINDOW
            ),
            None,
        )

    def heads(self) -> dict[bytes, Row]:
        heads: dict[bytes, Row] = {}
        for row in self.rows:
            if not row.dead:
                heads.setdefault(row.event.key, row)
        return heads

    def due(self, upstream: str, apps: Collection[str], now: float) -> set[int]:
        if self.everything or upstream in self.upstreams:
            return set()
        return {
            row.id
            for row in self.heads().values()
            if row.event.upstream == upstream
            and row.event.app in apps
            and row.event.app not in self.apps
            and row.due <= now
        }

    def matching(self, wanted: EventFilter) -> list[Row]:
        return [row for row in self.rows if row.matches(wanted)]

    def remove(self, ids: Collection[int]) -> None:
        self.rows = [row for row in self.rows if row.id not in ids]

    def keys(self) -> Counter[bytes]:
        return Counter(row.event.key for row in self.rows if not row.dead)

    def bytes_of(self, app: str) -> int:
        return sum(row.size for row in self.rows if row.event.app == app)

    def shed(self, app: str, max_size: int) -> list[int]:
        """Which events go where an app has more than this."""
        surplus = self.bytes_of(app) - max_size
        gone: list[int] = []
        mine = [row for row in self.rows if row.event.app == app]
        for row in sorted(mine, key=lambda row: (not row.dead, row.event.value, row.id)):
            if surplus <= 0:
                break
            gone.append(row.id)
            surplus -= row.size
        return gone
