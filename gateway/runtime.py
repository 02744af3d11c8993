"""What is in force: one snapshot of configuration, table and upstreams, and its swap on reload.

A hook takes the snapshot once and keeps it to its end. Live state (connections, and whatever later outlasts a
configuration) belongs to the targets, which the next snapshot takes up by address.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gateway.config import Config, ConfigError, Loaded, Problem, load
from gateway.metrics.catalogue import UNKNOWN_APP, Metrics
from gateway.metrics.cells import Value
from gateway.routing import Table
from gateway.upstreams import Targets, Upstream

logger = logging.getLogger(__name__)

_NEEDS_RESTART = ("listen", "admin", "keepalive_timeout", "drain_timeout")


@dataclass(frozen=True)
class Snapshot:
    """One configuration, ready to serve."""

    loaded: Loaded
    table: Table
    upstreams: Mapping[str, Upstream]
    in_flight: Mapping[str, Value]

    @property
    def config(self) -> Config:
        """The configuration itself."""
        return self.loaded.config


@dataclass(frozen=True)
class ReloadReport:
    """How a reload went, for the log and for whoever asked."""

    successful: bool
    changes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For the admin port's answer."""
        return {
            "result": "success" if self.successful else "failure",
            "changes": list(self.changes),
            "problems": [str(problem) for problem in self.problems],
            "warnings": [str(problem) for problem in self.warnings],
        }


class Runtime:
    """Holds the snapshot in force. Build it inside a running loop."""

    def __init__(
        self, loaded: Loaded, metrics: Metrics, *, on_swap: Callable[[Config], None] = lambda config: None
    ) -> None:
        self.metrics = metrics
        self._on_swap = on_swap
        self._targets = Targets(metrics)
        self._reloading = asyncio.Lock()
        self.snapshot = self._build(loaded)
        metrics.loaded(successful=True)

    @property
    def path(self) -> Path:
        """The configuration's file."""
        return self.snapshot.loaded.path

    async def reload(self, trigger: str) -> ReloadReport:
        """Load the file again and swap it in whole, or change nothing; *trigger* says who asked, for the log."""
        async with self._reloading:
            try:
                loaded = await asyncio.to_thread(load, self.path)
            except ConfigError as exc:
                report = ReloadReport(successful=False, problems=exc.problems)
            else:
                report = await self._swap(loaded)
        self.metrics.record_reload(successful=report.successful)
        _log(report, trigger)
        return report

    async def aclose(self) -> None:
        """Close every connection to backends."""
        await self._targets.aclose()

    def _build(self, loaded: Loaded) -> Snapshot:
        config = loaded.config
        upstreams = self._targets.build(config.upstreams)
        in_flight = {app: self.metrics.in_flight.labelled(app) for app in (*config.apps, UNKNOWN_APP)}
        self.metrics.configure(config.apps, self._targets.labels())
        self._on_swap(config)
        return Snapshot(loaded, Table(config), upstreams, in_flight)

    async def _swap(self, loaded: Loaded) -> ReloadReport:
        before = self.snapshot.config
        self.snapshot = self._build(loaded)
        await self._targets.retire_all_but(loaded.config.upstreams)
        self.metrics.configure(loaded.config.apps, self._targets.labels())
        return ReloadReport(
            successful=True, changes=tuple(differences(before, loaded.config)), warnings=loaded.warnings
        )


def differences(before: Config, after: Config) -> list[str]:
    """What a reload changes, in words; empty where nothing does."""
    changes = [
        *_named("upstream", before.upstreams, after.upstreams),
        *_named("app", before.apps, after.apps),
    ]
    for section in ("server", "admin", "log", "media_server", "defaults"):
        changes += _fields(section, getattr(before, section), getattr(after, section))
    for key in ("unknown_app", "hook_types"):
        if getattr(before, key) != getattr(after, key):
            changes.append(f"{key} changed")
    return changes


def _fields(section: str, before: BaseModel, after: BaseModel) -> list[str]:
    keys = [key for key in type(after).model_fields if getattr(before, key) != getattr(after, key)]
    waits = _NEEDS_RESTART if section == "server" else ()
    return [f"{section}.{key} changed" + (" (takes effect at the next start)" if key in waits else "") for key in keys]


def _named(kind: str, before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    words = {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": [name for name in after if name in before and before[name] != after[name]],
    }
    return [f"{kind} {_listed(names)} {word}" for word, names in words.items() if names]


def _listed(names: list[str], most: int = 10) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _log(report: ReloadReport, trigger: str) -> None:
    fields = {"event": "reload", "trigger": trigger, **report.as_json()}
    if report.successful:
        what = "; ".join(report.changes) or "nothing changed"
        logger.info("configuration reloaded (%s): %s", trigger, what, extra={"fields": fields})
    else:
        first = report.problems[0]
        rest = f" (and {len(report.problems) - 1} more)" if len(report.problems) > 1 else ""
        logger.error(
            "configuration NOT reloaded (%s), the one in force stays: %s%s",
            trigger, first, rest, extra={"fields": fields},
        )  # fmt: skip
