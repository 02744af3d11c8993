"""All live targets: a reload takes up what is there, retires what is gone, and begins what is new."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

import httpx

from gateway.config import Upstream as UpstreamConfig
from gateway.config import UpstreamTls
from gateway.metrics.catalogue import Metrics
from gateway.tls.certificates import MadeOfFiles, client_context
from gateway.tls.copies import NO_COPIES, Copies
from gateway.transport import Resolver, TransportSettings
from gateway.upstreams.health import HealthCheck
from gateway.upstreams.report import TargetReport, report_of
from gateway.upstreams.target import Target
from gateway.upstreams.upstream import Member, Upstream

logger = logging.getLogger(__name__)

_IN_ONE_GO: Final = 16
"""Targets reported on before hooks get their turn again."""


class _Key(NamedTuple):
    upstream: str
    url: str


class Targets:
    """Live targets by upstream and URL, with their health checks."""

    def __init__(self, metrics: Metrics, workers: int = 1, copies: Copies = NO_COPIES) -> None:
        self._metrics = metrics
        self._copies = copies
        self._workers = workers
        self._resolver = Resolver()
        self._live: dict[_Key, Target] = {}
        self._checks: dict[_Key, HealthCheck] = {}
        self._contexts: dict[UpstreamTls, MadeOfFiles[ssl.SSLContext]] = {}
        self._sharing: frozenset[str] = frozenset()
        self._keep_underscores = False
        self._holds: set[_Key] = set()
        self._loop = asyncio.get_running_loop()
        metrics.on_scrape(self._sample)

    def __repr__(self) -> str:
        return f"<Targets {list(self._live.values())}>"

    def build(
        self, configs: Mapping[str, UpstreamConfig], sharing: Collection[str], *, keep_underscores: bool = False
    ) -> dict[str, Upstream]:
        """The upstreams of a configuration, over targets that live already wherever they stay.

        *sharing* names the upstreams that several apps use; *keep_underscores*: ``server.underscore_headers``.
        """
        self._keep_underscores = keep_underscores
        self._sharing = frozenset(sharing)
        self._renewed(configs)
        return {name: self._upstream(name, config) for name, config in configs.items()}

    def labels(self) -> set[tuple[str, str]]:
        """(upstream, target) of all that live."""
        return {(key.upstream, target.name) for key, target in self._live.items()}

    async def reports(self) -> list[TargetReport]:
        """How every target of the configuration in force stands; hooks go on meanwhile."""
        reports: list[TargetReport] = []
        for number, (key, target) in enumerate(list(self._live.items()), 1):
            if not target.retired:
                reports.append(report_of(key.upstream, key.url, target, self._loop.time()))
            if not number % _IN_ONE_GO:
                await asyncio.sleep(0)
        return reports

    def hold(self, upstream: str, url: str) -> bool:
        """Have a target ejected until it is restored, over reloads; returns whether that changes anything.

        One that is not there yet begins its life ejected.
        """
        key = _Key(upstream, url)
        self._holds.add(key)
        target = self._live.get(key)
        return target is not None and target.hold()

    def restore(self, upstream: str, url: str) -> bool:
        """Let hooks pass to a target again, whatever had closed it; returns whether that changes anything."""
        key = _Key(upstream, url)
        self._holds.discard(key)
        target = self._live.get(key)
        return target is not None and target.restore()

    async def settle(self, configs: Mapping[str, UpstreamConfig]) -> None:
        """Close the targets that a configuration lacks (hooks on them end first); begin and end health checks."""
        wanted = {_Key(name, target.url) for name, config in configs.items() for target in config.targets}
        for key in [key for key in self._live if key not in wanted]:
            await self._stop_check(key)
            await self._live.pop(key).retire()
        used = {config.tls for config in configs.values()}
        for tls in [tls for tls in self._contexts if tls not in used]:
            del self._contexts[tls]
        for name, config in configs.items():
            for target in config.targets:
                await self._check(_Key(name, target.url), config)

    async def renew_tls(self, configs: Mapping[str, UpstreamConfig]) -> None:
        """Make new connections by the certificates' files as they are now; idle ones made by others are closed.

        *configs*: those in force. Files that cannot be used are told of in the log, and those before them stay.
        """
        for name in self._renewed(configs):
            self._upstream(name, configs[name])
            for target in configs[name].targets:
                await self._check(_Key(name, target.url), configs[name])

    async def aclose(self) -> None:
        """Close everything."""
        await self.settle({})
        await self._resolver.aclose()

    def _upstream(self, name: str, config: UpstreamConfig) -> Upstream:
        names = target_names([target.url for target in config.targets])
        members = [
            Member(self._target(_Key(name, target.url), names[target.url], config), target.weight, target.backup)
            for target in config.targets
        ]
        return Upstream(name, config, members, self._metrics, keep_underscores=self._keep_underscores)

    def _target(self, key: _Key, name: str, config: UpstreamConfig) -> Target:
        target = self._live.get(key)
        if target is None:
            target = self._live[key] = Target(key.upstream, key.url, name, self._resolver, self._metrics)
            self._resolver.prefetch(target.url.raw_host.decode("ascii"))
            if key in self._holds:
                target.hold()
        settings = TransportSettings(
            connect_timeout=config.connect_timeout,
            keepalive=config.keepalive,
            max_connections=max(1, config.max_connections // self._workers),
            max_answer=config.max_answer,
            shared=key.upstream in self._sharing,
            max_age=config.max_age,
            tls=self._tls(config.tls),
            server_name=None if config.tls is None else config.tls.server_name,
        )
        target.configure(settings, config.breaker)
        return target

    def _tls(self, config: UpstreamTls | None) -> ssl.SSLContext | None:
        """The context of an upstream's ``tls``: the same as before wherever that and its files are the same."""
        if config is None:
            return None
        held = self._contexts.get(config)
        if held is None:
            held = self._contexts[config] = MadeOfFiles(
                config.files, lambda files: client_context(files, config.minimum_version), self._copies
            )
        return held.value

    def _renewed(self, configs: Mapping[str, UpstreamConfig]) -> list[str]:
        """The upstreams whose files have changed; their contexts are made anew."""
        renewed = []
        for tls, context in self._contexts.items():
            having = [name for name, config in configs.items() if config.tls == tls]
            words = ", ".join(f"upstreams.{name}.tls" for name in having)
            try:
                if having and context.refresh():
                    renewed += having
                    logger.info("%s: the certificates' files have changed and are in use", words)
            except OSError as exc:
                logger.error("%s: the changed files cannot be used, the old ones stay: %s", words, exc)
        return renewed

    async def _check(self, key: _Key, config: UpstreamConfig) -> None:
        """Begin, change or end a target's health check as the configuration says."""
        running = self._checks.get(key)
        terms = (self._tls(config.tls), None if config.tls is None else config.tls.server_name)
        if running is not None and (running.config, running.terms) == (config.health, terms):
            return
        await self._stop_check(key)
        if config.health is not None:
            self._checks[key] = HealthCheck(self._live[key], config.health, *terms)

    async def _stop_check(self, key: _Key) -> None:
        if (check := self._checks.pop(key, None)) is not None:
            await check.aclose()

    def _sample(self) -> None:
        now = self._loop.time()
        for target in self._live.values():
            target.sample(now)


def target_names(urls: list[str]) -> dict[str, str]:
    """A short name for each URL, unique among them: host and port, with the path where two share those."""
    netlocs = {url: httpx.URL(url).netloc.decode("ascii") for url in urls}
    count = Counter(netlocs.values())
    return {url: netloc if count[netloc] == 1 else netloc + httpx.URL(url).path for url, netloc in netlocs.items()}
