"""A hook, its answer, and the request that the backend had of it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx

from tests.support.faulty import FaultyBackend, Recorded
from tests.support.gateways import RunningGateway


def hook_of(app: str, **fields: Any) -> bytes:
    """A hook's body."""
    return json.dumps({"appKey": app, **fields}).encode()


class Exchange(NamedTuple):
    """What the caller got, and what the backend."""

    answer: httpx.Response
    request: Recorded
    """As the backend had it."""


def exchange(gateway: RunningGateway, backend: FaultyBackend, app: str = "ok", **options: Any) -> Exchange:
    """Send a hook that reaches the backend exactly once."""
    before = len(backend.requests)
    answer = gateway.hook(body=options.pop("body", None) or hook_of(app), **options)
    assert len(backend.requests) == before + 1
    return Exchange(answer, backend.requests[-1])


def raw_hook(body: bytes, *lines: bytes) -> bytes:
    """A hook as it stands on the wire."""
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join((b"POST /rest/my_api/OnCallEvent HTTP/1.1", b"Host: gw", length, *lines, b"", body))


@contextlib.contextmanager
def held(gateway: RunningGateway, backend: FaultyBackend, gate: threading.Event) -> Iterator[None]:
    """While the block lasts, a hook of the app "holder" is with its backend, on the one connection there."""
    before = len(backend.requests_of("gated"))
    gate.clear()
    holder = threading.Thread(target=gateway.hook, kwargs={"body": hook_of("holder")})
    holder.start()
    try:
        assert backend.wait_for_requests(before + 1, "gated", within=10)
        yield
    finally:
        gate.set()
        holder.join()
