"""A backend that answers when told, and a gateway of several workers before it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from typing import Any, Final

from tests.support.faulty import FaultyBackend, Pause, Step, Turn, reply

WORKERS: Final = 2
CLIENTS: Final = 24
"""Enough that each of two workers gets more connections than any share of a limit used here."""


class Gate:
    """A backend's case that answers once it is told to, and counts how many hooks it holds at once."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.peak = 0
        self._held = 0

    def script(self, turn: Turn) -> Iterable[Step]:
        self._held += 1
        self.peak = max(self.peak, self._held)
        try:
            while not self.open.is_set():
                yield Pause(0.02)
        finally:
            self._held -= 1
        yield reply(turn.right)


def configuration(backend: FaultyBackend | None = None, *, allowed: str = "defaultApp", **server: Any) -> str:
    """Apps named after the cases of the backend, two with a limit of four, and one that needs no backend."""
    cases = {} if backend is None else {"ok": "ok", "gated": "gated", "hang": "hang", "few": "gated", "narrow": "gated"}
    upstreams: dict[str, dict[str, Any]] = {
        name: {"url": f"{backend.url}/{case}", "breaker": "off", "connect_timeout": "10s"}
        for name, case in cases.items()
        if backend is not None
    }
    apps: dict[str, dict[str, Any]] = {name: {"upstream": name, "fallback": "allow"} for name in cases}
    if backend is not None:
        upstreams["narrow"]["max_connections"] = 4
        apps["few"] |= {"max_in_flight": 4, "fallback": "reject"}
        apps["gated"]["fallback"] = "reject"
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": WORKERS, **server},
            "media_server": {"request_timeout": "2m"},
            "defaults": {"timeout": "60s", "dedupe": "off"},
            "upstreams": upstreams,
            "apps": {**apps, allowed: {"static": "allow"}},
        }
    )
