"""Asking a backend: a target is chosen, attempts are made inside the one deadline, the answer is judged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

import httpx

from gateway.config import Upstream as UpstreamConfig
from gateway.forwarding import CompiledPolicy, Headers, Policy, encoded
from gateway.hooks import is_json_object
from gateway.metrics.catalogue import Metrics
from gateway.metrics.cells import Value
from gateway.transport import ConnectionLost, Resolver, Transport, TransportSettings, failure_of, whole
from gateway.verdicts import (
    ALLOW_STATUS,
    REJECT_STATUS,
    Cause,
    Failure,
    ProxyError,
    Ruling,
    allowed_by_backend,
    denied_by_backend,
)

_MAX_URLS: Final = 256
"""Prepared URLs per target; the rest (odd methods, query strings) are made per hook."""


class Outcome(NamedTuple):
    """What became of a hook at its upstream."""

    result: Ruling | Failure
    target: str | None
    attempts: int
    duration: float
    """Seconds, all attempts together."""


class Outgoing(NamedTuple):
    """A hook on its way to a backend."""

    path: str
    """What is appended to the target's URL: ``/<Method>`` and the query."""
    headers: Headers
    body: bytes


class Target:
    """One backend address: live state that outlasts reloads."""

    def __init__(
        self, upstream: str, url: httpx.URL, settings: TransportSettings, resolver: Resolver, metrics: Metrics
    ) -> None:
        self.url = url
        self.name = url.netloc.decode("ascii")
        self.host_header = self.name.encode("ascii")
        self.transport = Transport(settings, resolver=resolver)
        self._base = str(url).rstrip("/")
        self._urls: dict[str, httpx.URL] = {}
        self._outcomes: dict[str, Value] = {}
        self._count = metrics.attempts.labelled
        self._upstream = upstream
        self.up = metrics.target_up.labelled(upstream, self.name)
        self.up.set(1)
        self.connections = metrics.target_connections.labelled(upstream, self.name)

    def __repr__(self) -> str:
        return f"<Target {self._upstream} {self.name} {self.transport!r}>"

    def url_of(self, path: str) -> httpx.URL:
        """The URL of a method at this target."""
        url = self._urls.get(path)
        if url is None:
            url = httpx.URL(self._base + path)
            if len(self._urls) < _MAX_URLS and "?" not in path:
                self._urls[path] = url
        return url

    def count(self, outcome: str) -> None:
        """Count an attempt."""
        counter = self._outcomes.get(outcome)
        if counter is None:
            counter = self._outcomes[outcome] = self._count(self._upstream, self.name, outcome)
        counter.inc()

    def sample(self) -> None:
        """Set the gauges that only a scrape needs."""
        self.connections.set(self.transport.open_connections)


class Upstream:
    """A named backend as one configuration describes it, over targets that may outlast it."""

    def __init__(self, name: str, config: UpstreamConfig, target: Target, metrics: Metrics) -> None:
        self.name = name
        self.target = target
        self.policy = CompiledPolicy(policy_of(config))
        self._loop = asyncio.get_running_loop()
        self._duration = metrics.upstream_duration.labelled(name)
        self._retries = metrics.retries

    async def ask(self, outgoing: Outgoing, deadline: float) -> Outcome:
        """Bring the hook to a backend and judge its answer; *deadline* is loop time. Never raises for a backend."""
        began = time.perf_counter()
        target = self.target
        attempts = 0
        fresh = False
        while True:
            attempts += 1
            result, again = await self._attempt(target, outgoing, deadline, fresh=fresh)
            if not again or fresh:
                break
            # The backend closed the reused connection just then and saw nothing: once more, on a new one.
            fresh = True
            self._retries.labelled(self.name, Cause.UNREACHABLE).inc()
        duration = time.perf_counter() - began
        self._duration.observe(duration)
        return Outcome(result, target.name, attempts, duration)

    async def _attempt(
        self, target: Target, outgoing: Outgoing, deadline: float, *, fresh: bool
    ) -> tuple[Ruling | Failure, bool]:
        left = deadline - self._loop.time()
        if left <= 0:
            return Failure(
                Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "the budget ran out before the backend was asked"
            ), False
        request = httpx.Request(
            "POST",
            target.url_of(outgoing.path),
            headers=[*outgoing.headers, (b"x-request-timeout-ms", b"%d" % (left * 1000))],
            stream=httpx.ByteStream(outgoing.body),
            extensions={"deadline": deadline, "fresh_connection": fresh},
        )
        try:
            response = await target.transport.handle_async_request(request)
            result = judge(response.status_code, response.headers, await whole(response.stream))
        except httpx.TransportError as exc:
            result = judge_failure(failure_of(exc))
            again = isinstance(exc, ConnectionLost) and exc.harmless
        else:
            again = False
        failed = result.cause if isinstance(result, Failure) else None
        target.up.set(0.0 if failed is Cause.UNREACHABLE else 1.0)
        target.count(failed or ("denied" if result is _DENIED else "ok"))
        return result, again


_DENIED: Final = denied_by_backend()


def judge(status: int, headers: Mapping[str, str], body: bytes) -> Ruling | Failure:
    """Turn a whole answer into a verdict or the cause why it is none."""
    if status == ALLOW_STATUS:
        if is_json_object(body):
            return allowed_by_backend(body)
        return _not_an_object(headers, body)
    if status == REJECT_STATUS:
        return _DENIED
    return Failure(Cause.ERROR_STATUS, ProxyError.HTTP_PROTOCOL_ERROR, f"status {status}", status)


def judge_failure(failure: Failure) -> Ruling | Failure:
    """An answer that broke off after its head: where the status is no 200, it has said enough.

    Above all a 403 is the backend's refusal, and stays one though its page was cut short.
    """
    if failure.received_status in (None, ALLOW_STATUS):
        return failure
    return judge(failure.received_status, {}, b"")


def _not_an_object(headers: Mapping[str, str], body: bytes) -> Failure:
    """Say what a 200 brought in place of a JSON object; its kind, never its text."""
    error = ProxyError.HTTP_PROTOCOL_ERROR
    coding = headers.get("content-encoding", "identity")
    start = body.lstrip()[:64].lower()
    if not start:
        what = "an empty body"
    elif coding != "identity":
        what, error = "a compressed body, unasked", ProxyError.HTTP_RESPONSE_CONTENT_CODING
    elif body.startswith(b"\xef\xbb\xbf"):
        what = "a byte-order mark before the JSON"
    elif start.startswith((b"<!doctype", b"<html")):
        what = "an HTML page"
    elif b"<b>" in start or start.startswith((b"notice", b"warning", b"deprecated", b"fatal error", b"php ")):
        what = "a PHP message"
    elif start.startswith(b"{"):
        what = "JSON that is broken, or followed by something else"
    else:
        what = "something else"
    return Failure(Cause.BAD_ANSWER, error, f"status 200 with {what} in place of one JSON object", 200)


def policy_of(config: UpstreamConfig) -> Policy:
    """The header rules of an upstream's configuration."""
    if config.host == "preserve":
        host = None
    elif config.host == "target":
        host = httpx.URL(config.url).netloc
    else:
        host = config.host.encode("ascii")
    headers = encoded({name: value.reveal() for name, value in config.headers.items()})
    credentials = None
    if config.credentials is not None:
        credentials = (config.credentials.username, config.credentials.password.reveal())
    return Policy(host, headers, credentials)


def settings_of(config: UpstreamConfig) -> TransportSettings:
    """The transport's limits of an upstream's configuration."""
    return TransportSettings(config.connect_timeout, config.keepalive, config.max_connections, config.max_answer)


class Targets:
    """All live targets, by upstream and URL. A reload takes up what is there and retires what is gone."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._resolver = Resolver()
        self._live: dict[tuple[str, str], Target] = {}
        metrics.on_scrape(self._sample)

    def __repr__(self) -> str:
        return f"<Targets {list(self._live.values())}>"

    def build(self, configs: Mapping[str, UpstreamConfig]) -> dict[str, Upstream]:
        """The upstreams of a configuration, over targets that live already where they stay the same."""
        return {
            name: Upstream(name, config, self._take(name, config), self._metrics) for name, config in configs.items()
        }

    def labels(self) -> Collection[tuple[str, str]]:
        """(upstream, target) of all that live."""
        return {(upstream, target.name) for (upstream, _), target in self._live.items()}

    async def retire_all_but(self, configs: Mapping[str, UpstreamConfig]) -> None:
        """Close the targets that a configuration lacks; hooks on them end first."""
        wanted = {(name, config.url) for name, config in configs.items()}
        for key in [key for key in self._live if key not in wanted]:
            await self._live.pop(key).transport.aclose()

    async def aclose(self) -> None:
        """Close everything."""
        await self.retire_all_but({})
        await self._resolver.aclose()

    def _take(self, name: str, config: UpstreamConfig) -> Target:
        settings = settings_of(config)
        target = self._live.get((name, config.url))
        if target is None:
            url = httpx.URL(config.url)
            target = self._live[name, config.url] = Target(name, url, settings, self._resolver, self._metrics)
            self._resolver.prefetch(url.host)
        else:
            target.transport.configure(settings)
        return target

    def _sample(self) -> None:
        for target in self._live.values():
            target.sample()
