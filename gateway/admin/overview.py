"""All processes seen as one: upstreams and targets; and the actions of operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from gateway.admin.insights import Insights
from gateway.admin.rpc import ReportTargets, SetEjected, WorkerRpc
from gateway.config import Config, Loaded, Settings, display_urls, display_value
from gateway.config.sections.upstreams import target_names
from gateway.model.text import shorten, timestamp
from gateway.upstreams.latency import quantile
from gateway.upstreams.status import TargetReport, merge_reports

MAX_APPS: Final = 20
"""The most apps listed per upstream; the rest is counted."""


class ConfiguredTarget(NamedTuple):
    """A target of the current configuration."""

    upstream: str
    name: str
    url: str


class EjectionResult(NamedTuple):
    """The result of ejecting or restoring a target."""

    changed: bool
    """Whether it changed anything in a process that replied."""
    incomplete: Sequence[int]
    """The ids of the processes that did not reply in time; they carry it out later."""
    others_up: int
    """The other targets of the upstream that every process sends hooks to."""


class Overview:
    """The targets of all processes as one."""

    def __init__(self, rpc: WorkerRpc, loaded: Callable[[], Loaded]) -> None:
        self._rpc = rpc
        self._loaded = loaded
        self._apps_of: tuple[Config | None, Mapping[str, list[str]]] = (None, {})

    async def upstreams(self) -> dict[str, Any]:
        """Every upstream of the current configuration, with the state of its targets."""
        loaded = self._loaded()
        reports = await self._reports()
        apps_of = self._apps(loaded.config)
        shown = []
        for name, upstream in loaded.config.upstreams.items():
            apps = apps_of.get(name, [])
            urls = [target.url for target in upstream.targets]
            names = _target_names(name, urls, reports)
            written = display_urls(loaded.masked, name, len(urls))
            shown.append(
                {
                    "name": name,
                    "balance": upstream.balance,
                    "apps": apps[:MAX_APPS],
                    "app_count": len(apps),
                    "retry": {"attempts": upstream.retry.attempts, "on": sorted(upstream.retry.on)},
                    "targets": [
                        {
                            "target": names[target.url],
                            "url": url,
                            "weight": target.weight,
                            "backup": target.backup,
                            **_report_json(reports.get((name, target.url))),
                        }
                        for target, url in zip(upstream.targets, written, strict=True)
                    ],
                }
            )
        return {"upstreams": shown}

    def insights(self, counted: Insights, most: int) -> dict[str, Any]:
        """The insights of at most *most* apps, with the related settings of these apps."""
        loaded = self._loaded()
        config = loaded.config
        shown = counted.as_json(most)
        for app in shown["apps"]:
            known = app["app"] in config.apps
            settings = config.settings(app["app"], None) if known else None
            weights = {share.name: share.weight for share in settings.split} if settings is not None else {}
            wanted = None if settings is None else settings.client_config
            app["client_config"]["mode"] = None if wanted is None else wanted.mode
            app["client_config"]["methods"] = [] if wanted is None else sorted(wanted.failing)
            app["split"] = [{**share, "weight": weights.get(share["upstream"])} for share in app["split"]]
        shown["recorded"]["path"] = (
            None if config.record is None else display_value(config.record.path, loaded.masked, "record", "path")
        )
        return shown

    async def find_target(self, upstream: str, name: str) -> ConfiguredTarget | None:
        """The target of the current configuration with this name; None if there is none."""
        config = self._loaded().config.upstreams.get(upstream)
        if config is None:
            return None
        names = _target_names(upstream, [target.url for target in config.targets], await self._reports())
        return next((ConfiguredTarget(upstream, name, url) for url, each in names.items() if each == name), None)

    async def set_ejected(self, target: ConfiguredTarget, *, ejected: bool) -> EjectionResult:
        """Eject the target in every process until it is restored, or restore it."""
        replies = await self._rpc.ask(SetEjected(target.upstream, target.url, ejected))
        reports = await self._reports()
        others = [
            report
            for (upstream, url), report in reports.items()
            if upstream == target.upstream and url != target.url and not report.workers_ejected
        ]
        return EjectionResult(any(replies.by_pid.values()) or not replies.by_pid, replies.incomplete, len(others))

    async def _reports(self) -> dict[tuple[str, str], TargetReport]:
        replies = await self._rpc.ask(ReportTargets())
        by_target: dict[tuple[str, str], list[TargetReport]] = {}
        for reports in replies.by_pid.values():
            for report in reports:
                by_target.setdefault((report.upstream, report.url), []).append(report)
        return {key: merge_reports(reports) for key, reports in by_target.items()}

    def _apps(self, config: Config) -> Mapping[str, list[str]]:
        """The apps of each upstream; computed once per configuration."""
        known, apps_of = self._apps_of
        if known is not config:
            apps_of = {}
            for app in config.apps:
                for upstream in _app_upstreams(config.settings(app, None)):
                    apps_of.setdefault(upstream, []).append(app)
            self._apps_of = (config, apps_of)
        return apps_of


def _app_upstreams(settings: Settings) -> Iterable[str]:
    """All upstreams of an app: its own or its split, failover and rules; not its shadow."""
    first = () if settings.upstream is None else (settings.upstream,)
    ruled = (rule.upstream for rule in settings.rules if rule.upstream is not None)
    return dict.fromkeys((*first, *(share.name for share in settings.split), *settings.failover, *ruled))


def _target_names(upstream: str, urls: list[str], reports: Mapping[tuple[str, str], TargetReport]) -> Mapping[str, str]:
    """The targets' names by URL. A running target keeps its first name, which metrics and decisions use."""
    running = {url: reports[upstream, url].name for url in urls if (upstream, url) in reports}
    return {**target_names(urls), **running}


_UNKNOWN: Final[Mapping[str, Any]] = dict.fromkeys(
    (
        "state", "since", "reason", "retry_in_seconds", "in_flight", "queued", "connections", "max_connections",
        "fleet_max_connections",
        "usual_ms", "p50_ms", "p95_ms", "p99_ms", "ejections", "last_error",
    )
) | {"ejected_for": [], "workers_ejected": 0, "workers": 0}  # fmt: skip


def _report_json(report: TargetReport | None) -> Mapping[str, Any]:
    if report is None:
        return _UNKNOWN
    last_error = None
    if report.last_error is not None:
        last_error = {"time": timestamp(report.last_error[0]), "text": shorten(report.last_error[1])}
    return {
        "state": report.state,
        "since": None if report.since is None else timestamp(report.since),
        "reason": shorten(report.reason) if report.reason else None,
        "ejected_for": list(report.ejected_for),
        "retry_in_seconds": None if report.retry_in is None else round(report.retry_in, 3),
        "in_flight": report.in_flight,
        "queued": report.queued,
        "connections": report.connections,
        "max_connections": report.max_connections,
        "fleet_max_connections": report.fleet_max_connections,
        "usual_ms": _ms(report.latency or None),
        "p50_ms": _ms(quantile(report.times, 0.5)),
        "p95_ms": _ms(quantile(report.times, 0.95)),
        "p99_ms": _ms(quantile(report.times, 0.99)),
        "ejections": report.ejections,
        "last_error": last_error,
        "workers_ejected": report.workers_ejected,
        "workers": report.workers,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
