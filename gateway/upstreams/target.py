"""One backend address: its connections, breaker, counters and latency. Live state that outlasts reloads."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import httpx

from gateway.http.client import Answer, Pool, RequestOptions, Resolver, Transport, TransportSettings
from gateway.policy.breaker import BreakerSettings
from gateway.policy.shared import SharedBreaker
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.metrics.cells import Value
from gateway.upstreams.admission import Admission, EjectionScope, Ticket
from gateway.upstreams.latency import LastMinute, LatencyEstimator
from gateway.upstreams.outgoing import Outgoing

logger = logging.getLogger(__name__)

_MAX_PATHS: Final = 256
"""Request lines cached per target; others (unknown methods, query strings) are made per hook."""
_FRAMING: Final = b"content-length: %d\r\n"
_CLOSING: Final = b"content-length: %d\r\nconnection: close\r\n"
NO_BREAKER: Final = BreakerSettings(failures=sys.maxsize)
"""``breaker: off``: only active health checks and operators eject."""


class TargetSettings(NamedTuple):
    """The settings of a target, from the configuration."""

    transport: TransportSettings
    breaker: BreakerSettings | None
    max_connections: int | None = None
    """In a fleet: the limit as configured, of which *transport* has this gateway's share."""


class Target:
    """A backend address in live use."""

    def __init__(
        self,
        upstream: str,
        url: str,
        name: str,
        resolver: Resolver,
        metrics: Metrics,
        shared: SharedBreaker | None = None,
    ) -> None:
        parsed = httpx.URL(url)
        self.url = parsed
        self.name = name
        self.host_header = parsed.netloc
        self.transport = Transport(resolver=resolver, quota=None if shared is None else shared.quota)
        self.settings: TargetSettings | None = None
        """Those in force; None before it is in use."""
        self._shared = shared
        self.admission = Admission(shared)
        self.breaker = self.admission.common
        self.latency = LatencyEstimator()
        self.last_minute = LastMinute()
        self.in_flight = 0
        self.retired = False
        self.last_error: tuple[float, str] | None = None
        """Unix time and text of the last failure, for people."""
        self.ejection_reason = ""
        """Why it was last ejected, for every app or for one, for people."""
        self.operator_ejected_since: float | None = None
        """Unix time since which an operator has ejected it; None if none has."""
        self.fails_check = False
        """Whether its health check, if it has one, fails."""
        self.on_ejection: Callable[[], None] | None = None
        """Called each time that it is ejected for every app because it fails, not by an operator."""
        self._reported_out: dict[str | None, float] = {}  # loop time of its ejection by app; None: for every app
        self._upstream = upstream
        self._base = url.rstrip("/")
        self._request_starts: dict[str, bytes] = {}
        self._pool: Pool | None = None
        self._loop = asyncio.get_running_loop()
        self._outcomes: dict[str, Value] = {}
        self._metrics = metrics
        self._up = metrics.target_up.with_labels(upstream, name)
        self._ejected = metrics.target_ejected.with_labels(upstream, name)
        self._connections = metrics.target_connections.with_labels(upstream, name)
        self._ejections = metrics.target_ejections.with_labels(upstream, name)
        self._up.set(1.0)

    def __repr__(self) -> str:
        return f"<Target {self._upstream} {self.name} {self.admission!r} {self.transport!r}>"

    @property
    def is_shared(self) -> bool:
        """Whether its breaker and its connections are shared with other workers."""
        return self._shared is not None

    @property
    def may_be_probed(self) -> bool:
        """Whether only its breaker keeps hooks from it, not an operator, nor its health check."""
        return self.operator_ejected_since is None and not self.fails_check

    @property
    def part_of_connections(self) -> int:
        """This process's part of the limit of connections; the parts of all workers add up to the limit."""
        most = self.transport.settings.max_connections
        return most if self._shared is None else self._shared.quota.share(most)

    def configure(self, settings: TargetSettings) -> None:
        """Use other settings from now on; connections, breaker and counts stay."""
        self.settings = settings
        self.transport.configure(settings.transport)
        self.admission.configure(settings.breaker or NO_BREAKER, shared=settings.transport.shared)

    def exchange(self, outgoing: Outgoing, deadline: float, *, fresh: bool) -> Coroutine[Any, Any, Answer]:
        """Send a hook and await the whole answer. Raises ExchangeError. *deadline* is loop time."""
        settings = self.transport.settings
        host = outgoing.host
        begin = self._request_start(outgoing.path) if host is None else self._make_request_start(outgoing.path, host)
        connect = self._loop.time() + settings.connect_timeout
        options = RequestOptions(
            queue=deadline,
            connect=connect,
            answer=deadline,
            budget=deadline,
            usual=self.latency.estimate(),
            tenant=outgoing.tenant,
            timeout_header=b"x-request-timeout-ms",
        )
        pool = self._pool
        if pool is None:  # created on first use: the system's certificate authorities take a while to load
            pool = self._pool = self.transport.pool(self.url)
        framing = _CLOSING if settings.keepalive is None else _FRAMING
        head = b"".join((begin, outgoing.head, framing % len(outgoing.body)))
        return pool.exchange(head, outgoing.body, options, fresh=fresh)

    def _request_start(self, path: str) -> bytes:
        """Request line and Host for a path, cached."""
        begin = self._request_starts.get(path)
        if begin is None:
            begin = self._make_request_start(path, self.host_header)
            if len(self._request_starts) < _MAX_PATHS and "?" not in path:
                self._request_starts[path] = begin
        return begin

    def _make_request_start(self, path: str, host: bytes) -> bytes:
        return b"POST %b HTTP/1.1\r\nhost: %b\r\n" % (httpx.URL(self._base + path).raw_path, host)

    def count(self, outcome: str) -> None:
        """Count an attempt; one that ends after a reload removed the target creates no series again."""
        if self.retired:
            return
        counter = self._outcomes.get(outcome)
        if counter is None:
            counter = self._outcomes[outcome] = self._metrics.attempts.with_labels(self._upstream, self.name, outcome)
        counter.inc()

    @property
    def verdicts(self) -> float:
        """How many hooks it has answered with a verdict, in this process."""
        return sum(self._outcomes[outcome].get() for outcome in ("ok", "denied") if outcome in self._outcomes)

    def record_error(self, detail: str) -> None:
        """Keep a failure's text, for reports on this target."""
        self.last_error = (time.time(), detail)

    def eject(self) -> bool:
        """Eject it for an operator until ``restore``; returns whether that is new."""
        if self.operator_ejected_since is not None:
            return False
        self.operator_ejected_since = time.time()
        self.breaker.eject(self._loop.time(), hold=True)
        self._ejections.inc()
        return True

    def restore(self) -> bool:
        """Let hooks pass again, for any reason it was ejected; returns whether it was."""
        now = self._loop.time()
        was_closed = self.admission.admits_all(now)
        self.operator_ejected_since = None
        self.admission.restore(now)
        self._report_back(now, tuple(self._reported_out))
        return not was_closed

    def hint(self) -> None:
        """It fails at another gateway: one failure of its own now ejects it, where its breaker is on."""
        if self.settings is not None and self.settings.breaker is not None:
            self.breaker.hint(self._loop.time())

    def record_recovery(self, now: float) -> None:
        """A health check succeeds again: lift its ejection, but not an operator's."""
        if self.operator_ejected_since is None:
            self.breaker.restore(now)
            self._report_back(now, (None,))

    async def retire(self) -> None:
        """Close it after it left the configuration: its hooks finish first."""
        self.retired = True
        self.admission.leave()
        if self._shared is not None:
            self._shared.leave()
        await self.transport.aclose()

    def record_answer(self, ticket: Ticket, tenant: str, now: float) -> None:
        """Report that a hook of this app was answered."""
        self.admission.record_success(ticket, tenant, now)
        if self._reported_out:
            self._report_back(now, (None, tenant))

    def report_ejection(self, whom: EjectionScope, tenant: str, detail: str) -> None:
        """Count an ejection and log it, except where it repeats one that is logged already (a failed probe)."""
        if self.retired or whom is EjectionScope.NONE:
            return
        self.ejection_reason = detail
        app = None if whom is EjectionScope.ALL else tenant
        if app is None:
            self._ejections.inc()
            if self.on_ejection is not None:
                self.on_ejection()
        if app in self._reported_out:
            return
        self._reported_out[app] = self._loop.time()
        named = (self._upstream, self.name)
        if app is None:
            logger.warning("%s: target %s is ejected: %s", *named, detail, extra=self._fields("target_ejected"))
        else:
            fields = self._fields("target_closed", app)
            logger.warning("%s: target %s is ejected for app %s: %s", *named, app, detail, extra=fields)

    def _report_back(self, now: float, apps: Iterable[str | None]) -> None:
        """Log for which of these apps it is restored after a logged ejection; None: for every app."""
        for app in apps:
            if app not in self._reported_out:
                continue
            if self.admission.is_ejected(now) if app is None else self.admission.is_ejected_for(app, now):
                continue
            seconds = now - self._reported_out.pop(app)
            if not self._reported_out:
                self.ejection_reason = ""
            whose = "" if app is None else f" for app {app}"
            extra = self._fields("target_back", app)
            logger.warning(
                "%s: target %s is restored%s, after %.1f s", self._upstream, self.name, whose, seconds, extra=extra
            )

    def _fields(self, event: str, app: str | None = None) -> dict[str, dict[str, str]]:
        """The fields of a log line, for programs."""
        fields = {"event": event, "upstream": self._upstream, "target": self.name}
        return {"fields": fields if app is None else {**fields, "app": app}}

    def sample(self, now: float) -> None:
        """Set the gauges, before a scrape."""
        self._connections.set(self.transport.open_connections)
        self._up.set(1.0 if self.admission.admits_all(now) else 0.0)
        self._ejected.set(1.0 if self.admission.is_ejected(now) else 0.0)


class MeasuredTarget(Target):
    """A target in a fleet: what hooks demand of its connections is measured."""

    def __init__(
        self,
        upstream: str,
        url: str,
        name: str,
        resolver: Resolver,
        metrics: Metrics,
        shared: SharedBreaker | None = None,
    ) -> None:
        super().__init__(upstream=upstream, url=url, name=name, resolver=resolver, metrics=metrics, shared=shared)
        # A URL may have a secret in its path, which is nobody else's business.
        self.fleet_name = f"{upstream}:{blake2b(url.encode(), digest_size=8).hexdigest()}"
        """Its name among replicas."""
        self.used: list[MeasuredTarget] = []
        """Where it puts itself when its first hook since the last report begins."""
        self.peak = 0
        """The most hooks since then that had a connection or waited for one."""

    def exchange(self, outgoing: Outgoing, deadline: float, *, fresh: bool) -> Coroutine[Any, Any, Answer]:
        """Send a hook and await the whole answer. Raises ExchangeError. *deadline* is loop time."""
        if self.in_flight > self.peak:
            if not self.peak:
                self.used.append(self)
            self.peak = self.in_flight
        return super().exchange(outgoing, deadline, fresh=fresh)

    def limit_connections(self, most: int) -> None:
        """Have at most so many connections from now on; those beyond that end when they are idle."""
        if self.settings is not None and self.settings.transport.max_connections != most:
            transport = dataclasses.replace(self.settings.transport, max_connections=most)
            self.configure(self.settings._replace(transport=transport))
