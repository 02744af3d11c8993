"""One backend address: connections, breaker, counters, usual time. Live state that outlasts reloads."""

from __future__ import annotations

import logging
import sys
import time
from typing import Final

import httpx

from gateway.breaker import BreakerSettings
from gateway.latency import Usual
from gateway.metrics.catalogue import Metrics
from gateway.metrics.cells import Value
from gateway.transport import Resolver, Transport, TransportSettings
from gateway.upstreams.admission import Admission, Shut

logger = logging.getLogger(__name__)

_MAX_URLS: Final = 256
"""Prepared URLs per target; the rest (odd methods, query strings) are made per hook."""
NO_BREAKER: Final = BreakerSettings(failures=sys.maxsize)
"""``breaker: off``: only active health checks and operators eject."""


class Target:
    """A backend address in live use."""

    def __init__(self, upstream: str, url: str, name: str, resolver: Resolver, metrics: Metrics) -> None:
        parsed = httpx.URL(url)
        self.url = parsed
        self.name = name
        self.host_header = parsed.netloc
        self.transport = Transport(resolver=resolver)
        self.admission = Admission()
        self.breaker = self.admission.common
        self.usual = Usual()
        self.in_flight = 0
        self.retired = False
        self.last_error: tuple[float, str] | None = None
        """Unix time and words of the last failure, for people."""
        self._upstream = upstream
        self._base = url.rstrip("/")
        self._urls: dict[str, httpx.URL] = {}
        self._outcomes: dict[str, Value] = {}
        self._metrics = metrics
        self._up = metrics.target_up.labelled(upstream, name)
        self._connections = metrics.target_connections.labelled(upstream, name)
        self._ejections = metrics.target_ejections.labelled(upstream, name)
        self._up.set(1.0)

    def __repr__(self) -> str:
        return f"<Target {self._upstream} {self.name} {self.admission!r} {self.transport!r}>"

    def configure(self, settings: TransportSettings, breaker: BreakerSettings | None) -> None:
        """Take up another configuration's limits; connections, breaker and counts stay."""
        self.transport.configure(settings)
        self.admission.configure(breaker or NO_BREAKER, shared=settings.shared)

    def url_of(self, path: str) -> httpx.URL:
        """The URL of a method at this target."""
        url = self._urls.get(path)
        if url is None:
            url = httpx.URL(self._base + path)
            if len(self._urls) < _MAX_URLS and "?" not in path:
                self._urls[path] = url
        return url

    def count(self, outcome: str) -> None:
        """Count an attempt; one that ends after a reload took the target away brings no series back."""
        if self.retired:
            return
        counter = self._outcomes.get(outcome)
        if counter is None:
            counter = self._outcomes[outcome] = self._metrics.attempts.labelled(self._upstream, self.name, outcome)
        counter.inc()

    def note_failure(self, detail: str) -> None:
        """Remember a failure's words for whoever asks what is wrong with this target."""
        self.last_error = (time.time(), detail)

    async def retire(self) -> None:
        """The configuration has it no more: hooks on it end, then its connections."""
        self.retired = True
        await self.transport.aclose()

    def shut(self, whom: Shut, tenant: str, detail: str) -> None:
        """A breaker opened just now: count it, and tell whoever reads the log at night."""
        if self.retired or whom is Shut.NOBODY:
            return
        if whom is Shut.ALL:
            self._ejections.inc()
            logger.warning("%s: target %s is ejected: %s", self._upstream, self.name, detail)
        else:
            logger.warning("%s: target %s is closed to app %s: %s", self._upstream, self.name, tenant, detail)

    def sample(self, now: float) -> None:
        """Set the gauges that only a scrape needs."""
        self._connections.set(self.transport.open_connections)
        self._up.set(1.0 if self.admission.is_closed(now) else 0.0)
