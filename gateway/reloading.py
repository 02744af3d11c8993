"""Reload: the file is read aside, swapped in whole or not at all, and every asker is told the same."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from gateway import notify
from gateway.config import Config, ConfigError, Loaded, Problem, digest_at
from gateway.metrics import Metrics
from gateway.proving import load

logger = logging.getLogger(__name__)

_NEEDS_RESTART: Final = ("listen", "admin", "workers", "tls", "drain_timeout")


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


class Reloader:
    """Holds the configuration in force; *apply* puts a new one in its place."""

    def __init__(self, loaded: Loaded, metrics: Metrics, apply: Callable[[Loaded], Awaitable[None]]) -> None:
        self.loaded = loaded
        self._metrics = metrics
        self._apply = apply
        self._lock = asyncio.Lock()
        self.tried: str | None = loaded.digest
        """The digest of the text that was last loaded, with or without success."""
        self.last_successful = True
        self.loaded_at = time.time()
        """Unix time at which the configuration in force was loaded."""
        self.last_report = ReloadReport(successful=True, warnings=loaded.warnings)
        """How the last load went; the start's, until there was another."""
        self.last_at = self.loaded_at
        """Unix time of it."""
        metrics.loaded(successful=True)

    def _look(self) -> tuple[Loaded, tuple[str, ...]]:
        """The file as it is now, and what is new in it; blocking."""
        loaded = load(self.loaded.path)
        return loaded, tuple(differences(self.loaded.config, loaded.config))

    async def reload(self, trigger: str) -> ReloadReport:
        """Load the file again and swap it in whole, or change nothing; *trigger* says who asked, for the log."""
        with notify.reloading() as told:
            report = await self._reload(trigger)
            told.status = f"serving {len(self.loaded.config.apps)} apps"
            if not report.successful:
                told.status += f"; the configuration on disk is NOT in force: {report.problems[0]}"
        return report

    async def _reload(self, trigger: str) -> ReloadReport:
        async with self._lock:
            self.tried = await asyncio.to_thread(digest_at, self.loaded.path)
            try:
                loaded, changes = await asyncio.to_thread(self._look)
            except ConfigError as exc:
                report = ReloadReport(successful=False, problems=exc.problems)
            else:
                await self._apply(loaded)
                self.loaded = loaded
                self.loaded_at = time.time()
                report = ReloadReport(successful=True, changes=changes, warnings=loaded.warnings)
        self.last_successful = report.successful
        self.last_report, self.last_at = report, time.time()
        self._metrics.record_reload(successful=report.successful)
        _log(report, trigger)
        return report


def with_workers(config: Config, workers: int) -> Config:
    """The configuration with the number of processes that really run: limits are shared out among these."""
    server = config.server.model_copy(update={"workers": workers})
    return config.model_copy(update={"server": server})


def differences(before: Config, after: Config) -> list[str]:
    """What a reload changes, in words; empty where nothing does."""
    changes = [
        *_named("upstream", before.upstreams, after.upstreams),
        *_named("app", before.apps, after.apps),
    ]
    for key in type(after).model_fields:
        old, new = getattr(before, key), getattr(after, key)
        if key in ("upstreams", "apps") or old == new:
            continue
        is_section = isinstance(old, BaseModel) and isinstance(new, BaseModel)
        changes += _fields(key, old, new) if is_section else [f"{key} changed"]
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
