"""Puts events into a store whose gateway is stopped: ``python -m tests.bench.fill URL EVENTS APP UPSTREAM SIZE``.

The events are as the gateway keeps them, each of a call of its own; a million of them through its hook port would take
half an hour.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from typing import Final

from gateway.policy.spooling import event_value, ordering_key, repeat_digest
from gateway.store.engine import open_databases
from gateway.store.records import SpooledEvent
from gateway.store.spool import Spool
from tests.bench.hooks import APP_MARK, CALL_MARK, call_body

METHOD: Final = "CallStatusEvent"
_BATCH: Final = 1000


def events(count: int, app: str, upstream: str, size: int) -> Iterator[SpooledEvent]:
    """So many events, a millisecond after each other."""
    body = call_body(size).replace(b"app-" + APP_MARK, app.encode())
    began = time.time() - count / 1000
    for number in range(count):
        own = body.replace(CALL_MARK, b"%016d" % number)
        yield SpooledEvent(
            key=ordering_key(app, own), digest=repeat_digest(app, METHOD, own), app=app, method=METHOD,
            upstream=upstream, request_id=f"bench-{number}", received=began + number / 1000, query=b"",
            client="127.0.0.1", scheme="http", fields=((b"content-type", b"application/json;charset=UTF-8"),),
            body=own, cause="unreachable", error="connection refused", call_id=f"{number:016}", session_id=None,
            value=event_value(METHOD), max_age=30 * 86400.0, max_size=2**40,
        )  # fmt: skip


def main() -> None:
    """Fill it."""
    url, count, app, upstream, size = sys.argv[1:]
    databases = open_databases(url)
    spool = Spool(databases.spool)
    made = events(int(count), app, upstream, int(size))
    while batch := list(itertools.islice(made, _BATCH)):
        with databases.spool.write() as connection:
            spool.add(connection, batch)
    databases.close()


if __name__ == "__main__":
    main()
