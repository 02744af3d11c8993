"""All live targets: a reload keeps those that stay, retires those that are gone, and creates new ones."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

from gateway.config import Upstream as UpstreamConfig
from gateway.config import UpstreamTls
from gateway.config.sections.upstreams import target_names
from gateway.http.client import Resolver, TransportSettings
from gateway.http.tls.certificates import FileBacked, client_context
from gateway.http.tls.pem_files import NO_COPIES, Copies
from gateway.model.change import Change
from gateway.policy.shared import SharedState
from gateway.telemetry.metrics import Metrics
from gateway.upstreams.answers import Judge
from gateway.upstreams.health import HealthCheck
from gateway.upstreams.status import TargetReport, target_report
from gateway.upstreams.target import MeasuredTarget, Target, TargetSettings
from gateway.upstreams.upstream import Member, Upstream

logger = logging.getLogger(__name__)

_BATCH: Final = 16
"""Targets reported before hooks get their turn again."""


class _Key(NamedTuple):
    upstream: str
    url: str


Contexts = Mapping[UpstreamTls, FileBacked[ssl.SSLContext]]
ConnectionShare = Callable[[str, int], int]
"""From a target's ``fleet_name`` and the limit of all gateways to this gateway's share."""


class Targets:
    """Live targets by upstream and URL, with their health checks."""

    def __init__(
        self,
        metrics: Metrics,
        workers: int = 1,
        copies: Copies = NO_COPIES,
        shared: SharedState | None = None,
        *,
        part: ConnectionShare | None = None,
    ) -> None:
        """*part*: this gateway's share of the connections to a target, in a fleet; None where there is none."""
        self._part = part
        self._used: list[MeasuredTarget] = []
        self._metrics = metrics
        self._copies = copies
        self._workers = workers
        self._shared = shared
        self._resolver = Resolver()
        self._judge = Judge()
        self._live: dict[_Key, Target] = {}
        self._checks: dict[_Key, HealthCheck] = {}
        self._contexts: Contexts = {}
        self._sharing: frozenset[str] = frozenset()
        self._operator_ejections: set[_Key] = set()
        self.on_ejection: Callable[[str, str], None] | None = None
        """Called with upstream and URL of a target each time that it is ejected for every app because it fails."""
        self._loop = asyncio.get_running_loop()
        metrics.on_scrape(self._sample)
        if shared is not None:
            shared.on_beat = self._yield_idle

    def __repr__(self) -> str:
        return f"<Targets {list(self._live.values())}>"

    def contexts(self, configs: Mapping[str, UpstreamConfig]) -> Contexts:
        """The TLS contexts of a configuration; a ``tls`` section that stays keeps its context. Blocking.

        Raises OSError if the files of a new one cannot be used.
        """
        contexts = {}
        for name, config in configs.items():
            if (tls := config.tls) is None or tls in contexts:
                continue
            try:
                contexts[tls] = self._contexts.get(tls) or self._context(tls)
            except OSError as exc:
                raise OSError(f"upstreams.{name}.tls: the files cannot be used: {exc}") from exc
        return contexts

    def prepare(
        self,
        configs: Mapping[str, UpstreamConfig],
        sharing: Collection[str],
        contexts: Contexts,
        *,
        keep_underscores: bool = False,
    ) -> TargetsChange:
        """Prepare the upstreams of a configuration; targets that stay are reused.

        *sharing* names the upstreams that several apps use; *contexts* is what ``contexts`` returned for the same
        configuration; *keep_underscores*: ``server.underscore_headers``.
        """
        change = TargetsChange(self, Live(self._live, self._contexts, self._sharing), contexts, frozenset(sharing))
        for name, config in configs.items():
            settings = self._settings(name, config, sharing, contexts)
            names = target_names([target.url for target in config.targets])
            members = []
            for part in config.targets:
                target = self._prepare_target(_Key(name, part.url), names[part.url], config, settings, change)
                members.append(Member(target, part.weight, part.backup))
            change.upstreams[name] = Upstream(
                name, config, members, self._metrics, judge=self._judge, keep_underscores=keep_underscores
            )
        return change

    def put(self, live: Live) -> None:
        """Put these in force; targets that an operator ejected stay ejected."""
        self._live, self._contexts, self._sharing = live
        for key in self._operator_ejections:
            if (held := self._live.get(key)) is not None:
                held.eject()

    async def keep(self, wanted: Container[_Key]) -> None:
        """Close all other targets, once their hooks have finished."""
        for key in [key for key in self._live if key not in wanted]:
            target = self._live.pop(key)
            try:
                await self.replace_check(key, None)
                await target.retire()
            except Exception:
                logger.exception("%s: the connections to target %s could not be closed", key.upstream, target.name)

    async def replace_check(self, key: _Key, check: HealthCheck | None) -> None:
        """Stop a target's health check and start this one, unless it is the same."""
        running = self._checks.get(key)
        if running is check:
            return
        if running is not None:
            del self._checks[key]
            await running.aclose()
        if check is not None:
            self._checks[key] = check
            check.start()

    def labels(self) -> set[tuple[str, str]]:
        """(upstream, target) of all live targets, as metric labels."""
        return {(key.upstream, target.name) for key, target in self._live.items()}

    async def reports(self) -> list[TargetReport]:
        """A report of every target in force; hooks are handled meanwhile."""
        reports: list[TargetReport] = []
        for number, (key, target) in enumerate(list(self._live.items()), 1):
            if not target.retired:
                reports.append(target_report(key.upstream, key.url, target, self._loop.time()))
            if not number % _BATCH:
                await asyncio.sleep(0)
        return reports

    def eject(self, upstream: str, url: str) -> bool:
        """Eject a target until it is restored, across reloads; returns whether that changes anything.

        A target that does not exist yet will start ejected.
        """
        key = _Key(upstream, url)
        self._operator_ejections.add(key)
        target = self._live.get(key)
        return target is not None and target.eject()

    def restore(self, upstream: str, url: str) -> bool:
        """Restore a target, for any reason it was ejected; returns whether that changes anything."""
        key = _Key(upstream, url)
        self._operator_ejections.discard(key)
        target = self._live.get(key)
        return target is not None and target.restore()

    def hint(self, upstream: str, url: str) -> bool:
        """The target fails at another gateway: one failure here ejects it; returns whether there is such a target."""
        target = self._live.get(_Key(upstream, url))
        if target is not None:
            target.hint()
        return target is not None

    async def renew_tls(self, configs: Mapping[str, UpstreamConfig]) -> None:
        """Use the certificates' files as they are now for new connections; idle older connections are closed.

        *configs*: those in force. Files that cannot be used are reported in the log; the previous contents stay in use.
        """
        for name in await self._renew_contexts(configs):
            config = configs[name]
            settings = self._settings(name, config, self._sharing, self._contexts)
            for key in (_Key(name, target.url) for target in config.targets):
                self._live[key].configure(self._target_settings(self._live[key], config, settings))
                await self.replace_check(key, self._new_check(key, self._live[key], config, settings))

    async def aclose(self) -> None:
        """Close everything."""
        await self.keep({})
        await self._resolver.aclose()

    def _prepare_target(
        self, key: _Key, name: str, config: UpstreamConfig, settings: TransportSettings, change: TargetsChange
    ) -> Target:
        """The target with this key, new if there is none, added to the change."""
        target = change.targets.get(key) or self._live.get(key)
        if target is None:
            breaker = None if self._shared is None else self._shared.target_breaker(key.upstream, key.url)
            kind = Target if self._part is None else MeasuredTarget
            target = kind(
                upstream=key.upstream,
                url=key.url,
                name=name,
                resolver=self._resolver,
                metrics=self._metrics,
                shared=breaker,
            )
            if isinstance(target, MeasuredTarget):
                target.used = self._used
            target.on_ejection = partial(self._report_ejection, key)
            self._resolver.prefetch(target.url.raw_host.decode("ascii"))
        elif target.settings is not None:
            change.settings_before.append((target, target.settings))
        target_settings = self._target_settings(target, config, settings)
        target.transport.prepare(target_settings.transport)
        change.targets[key] = target
        change.settings.append((target, target_settings))
        change.checks[key] = self._new_check(key, target, config, settings)
        return target

    def measure(self) -> Iterator[tuple[str, int, int, int]]:
        """In a fleet: each target with hooks since the last call, by its ``fleet_name``.

        With it: the limit of connections for the fleet; the most that hooks had or waited for; those open now.
        """
        used, self._used[:] = list(self._used), ()
        for target in used:
            settings, peak, target.peak = target.settings, target.peak, target.in_flight
            if target.peak:
                self._used.append(target)
            if settings is not None and settings.max_connections is not None:
                yield target.fleet_name, settings.max_connections, peak, target.transport.open_connections

    def apply_shares(self, names: Container[str] | None = None) -> None:
        """In a fleet: limit connections to this gateway's shares as they are now, of these targets; None: of all."""
        for target in self._live.values() if self._part is not None else ():
            if not isinstance(target, MeasuredTarget) or (names is not None and target.fleet_name not in names):
                continue
            if target.settings is not None:
                limit = target.settings.max_connections
                if limit is not None:
                    target.limit_connections(self._max_connections(target, limit))

    def _target_settings(self, target: Target, config: UpstreamConfig, settings: TransportSettings) -> TargetSettings:
        limit = config.max_connections
        settings = replace(settings, max_connections=self._max_connections(target, limit))
        return TargetSettings(settings, config.breaker, None if self._part is None else limit)

    def _max_connections(self, target: Target, connections: int) -> int:
        """The limit of connections to a target: of all workers, or this one's share if they do not count together.

        In a fleet, of this gateway's share.
        """
        if self._part is not None and isinstance(target, MeasuredTarget):
            connections = self._part(target.fleet_name, connections)
        return connections if target.is_shared else max(1, connections // self._workers)

    def _report_ejection(self, key: _Key) -> None:
        if self.on_ejection is not None:
            self.on_ejection(*key)

    def _yield_idle(self) -> None:
        for target in self._live.values():
            target.transport.yield_idle()

    def _settings(
        self, name: str, config: UpstreamConfig, sharing: Container[str], contexts: Contexts
    ) -> TransportSettings:
        return TransportSettings(
            connect_timeout=config.connect_timeout,
            keepalive=config.keepalive,
            max_connections=config.max_connections,
            max_answer=config.max_answer,
            shared=name in sharing,
            max_age=config.max_age,
            tls=None if config.tls is None else contexts[config.tls].value,
            server_name=None if config.tls is None else config.tls.server_name,
        )

    def _context(self, tls: UpstreamTls) -> FileBacked[ssl.SSLContext]:
        return FileBacked(tls.files, lambda files: client_context(files, tls.minimum_version), self._copies)

    async def _renew_contexts(self, configs: Mapping[str, UpstreamConfig]) -> list[str]:
        """Reload the TLS contexts whose files have changed; returns the names of their upstreams."""
        renewed = []
        for tls, context in list(self._contexts.items()):
            having = [name for name, config in configs.items() if config.tls == tls]
            if not having:
                continue
            words = ", ".join(f"upstreams.{name}.tls" for name in having)
            try:
                if await asyncio.to_thread(context.refresh):
                    renewed += having
                    logger.info("%s: the certificates' files have changed and are in use", words)
            except Exception as exc:
                logger.error("%s: the changed files cannot be used, the old ones stay: %s", words, exc)
        return renewed

    def _new_check(
        self, key: _Key, target: Target, config: UpstreamConfig, settings: TransportSettings
    ) -> HealthCheck | None:
        """The health check that the configuration wants for a target: the running one if it is the same."""
        if config.health is None:
            return None
        tls_options = (settings.tls, settings.server_name)
        running = self._checks.get(key)
        if running is not None and (running.config, running.tls_options) == (config.health, tls_options):
            return running
        return HealthCheck(target, config.health, *tls_options)

    def _sample(self) -> None:
        now = self._loop.time()
        for target in self._live.values():
            target.sample(now)


class Live(NamedTuple):
    """What is in force for one configuration."""

    targets: dict[_Key, Target]
    contexts: Contexts
    sharing: frozenset[str]
    """The upstreams that several apps use."""


class TargetsChange(Change):
    """The targets of another configuration: new ones are created, live ones are not changed yet."""

    def __init__(self, registry: Targets, before: Live, contexts: Contexts, sharing: frozenset[str]) -> None:
        self.upstreams: dict[str, Upstream] = {}
        self.targets: dict[_Key, Target] = {}
        """All targets of the configuration."""
        self.checks: dict[_Key, HealthCheck | None] = {}
        self.settings: list[tuple[Target, TargetSettings]] = []
        self.settings_before: list[tuple[Target, TargetSettings]] = []
        self._registry = registry
        self._before = before
        self._contexts = contexts
        self._sharing = sharing

    def commit(self) -> None:
        """Apply the new settings; targets that are gone are closed later, in ``settle``."""
        for target, settings in self.settings:
            target.configure(settings)
        every = {**self._before.targets, **self.targets}
        self._registry.put(Live(every, self._contexts, self._sharing))
        self._registry.apply_shares()  # they may have changed since it was prepared

    def revert(self) -> None:
        """Apply the previous settings again."""
        self._registry.put(self._before)
        for target, settings in self.settings_before:
            target.configure(settings)
        self._registry.apply_shares()

    async def settle(self) -> None:
        """Close targets that are gone, once their hooks have finished; start and stop health checks."""
        await self._registry.keep(self.targets)
        for key, check in self.checks.items():
            try:
                await self._registry.replace_check(key, check)
            except Exception:
                logger.exception("%s: the health check of %s cannot begin", key.upstream, key.url)

    async def discard(self) -> None:
        """Close the new targets, which no hook has used."""
        for key, target in self.targets.items():
            if self._before.targets.get(key) is not target:
                await target.retire()
