"""Reload: the file is read aside, swapped in whole or not at all, and every asker is notification the same."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from gateway.admin import systemd
from gateway.admin.dry_run import load
from gateway.config import Config, ConfigError, Loaded, Problem, file_digest
from gateway.model.change import EXPECTED_ERRORS, failure_reason
from gateway.model.text import plural
from gateway.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_NEEDS_RESTART: Final = ("listen", "admin", "workers", "tls", "drain_timeout")
"""Of ``server``; ``store`` and ``state`` need one too."""

_MASS_REMOVAL_FROM: Final = 10
"""With this many apps or more, an automatic reload must not remove more than half of them."""
_RETRY_AFTER: Final = (5.0, 10.0, 20.0, 40.0, 60.0)
"""Seconds before a retry after the first, second, … failure in a row; the cause may be outside the file."""
_REST_FACTOR: Final = 50.0
"""The minimum pause before a retry, as a multiple of the last attempt's duration, to protect the hooks."""


class FailureReason(StrEnum):
    """Why a reload changed nothing."""

    INVALID = "invalid"
    """The file, or a file that it names, has errors."""
    NOT_APPLIED = "not_applied"
    """It is valid, but could not be applied."""
    MASS_REMOVAL = "mass_removal"
    """An automatic reload would remove most apps."""


@dataclass(frozen=True)
class ReloadReport:
    """The result of a reload."""

    successful: bool
    changes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    reason: FailureReason | None = None

    def as_json(self) -> dict[str, Any]:
        """The admin port's answer."""
        return {
            "result": "success" if self.successful else "failure",
            "reason": self.reason,
            "changes": list(self.changes),
            "problems": [str(problem) for problem in self.problems],
            "warnings": [str(problem) for problem in self.warnings],
        }


class _ReadResult(NamedTuple):
    """The result of reading the file."""

    digest: str | None
    loaded: Loaded | None
    changes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


class Reloader:
    """Holds the current configuration. *apply* applies a new one, or raises and changes nothing."""

    def __init__(self, loaded: Loaded, metrics: Metrics, apply: Callable[[Loaded], Awaitable[None]]) -> None:
        self.loaded = loaded
        self._metrics = metrics
        self._apply = apply
        self._lock = asyncio.Lock()
        self.last_digest: str | None = loaded.digest
        """The digest of the text loaded last, successfully or not."""
        self._requested: str | None = loaded.digest
        """The digest of the text that an operator requested last."""
        self._failures = 0
        """The number of failures in a row."""
        self._retry_at: float | None = None
        """Time of the next retry by the monotonic clock; None without one."""
        self.last_successful = True
        self.loaded_at = time.time()
        """Unix time when the current configuration was loaded."""
        self.last_report = ReloadReport(successful=True, warnings=loaded.warnings)
        """The result of the last load; at first, the load at start."""
        self.last_at = self.loaded_at
        """Unix time of the last load."""
        metrics.record_load(successful=True)

    async def reload(self, trigger: str) -> ReloadReport:
        """Load and apply the file, or change nothing. *trigger* says who requested it, for the log.

        Never raises: errors are in the report.
        """
        async with self._lock:
            with systemd.reloading() as notification:
                report = await self._load(None)
                assert report is not None  # only None for another text than expected
                self._requested = self.last_digest
                self._record(report, trigger)
                notification.status = self._status(report)
        return report

    async def follow(self, digest: str) -> None:
        """Reload a changed file automatically. Does nothing if its text does not have this *digest* any more."""
        async with self._lock:
            if digest == self.last_digest:
                return  # a command has already loaded it
            with systemd.reloading() as notification:
                report = await self._load(digest)
                if report is not None:
                    self._record(report, "file changed")
                notification.status = self._status(report or self.last_report)

    @property
    def is_due(self) -> bool:
        """Whether a failed load should be retried now."""
        return self._retry_at is not None and time.monotonic() >= self._retry_at

    async def retry(self) -> None:
        """Retry a failed load; only a different result is reported."""
        async with self._lock:
            if not self.is_due or self.last_digest is None:
                return
            report = await self._load(self.last_digest)
            if report is None or report == self.last_report:
                return
            self._record(report, "retry")
            systemd.ready(self._status(report))

    # --- one attempt ---

    async def _load(self, expected: str | None) -> ReloadReport | None:
        """Load and apply the file. Returns None and does nothing if *expected* is not the digest of its text.

        With *expected* = None, any text is loaded.
        """
        began, least = time.monotonic(), 0.0
        self._retry_at = None
        try:
            report = await self._attempt(expected)
        except Exception as exc:
            report = _not_applied(self.loaded, exc)
            if isinstance(exc, MemoryError | SystemError):
                least = _RETRY_AFTER[-1]  # with little memory left, each attempt is a risk
            if report != self.last_report and not isinstance(exc, EXPECTED_ERRORS):
                logger.error("a configuration could not be applied", exc_info=exc)
        if report is None or report.successful:
            self._failures = 0
        elif report.reason is not FailureReason.MASS_REMOVAL and self.last_digest is not None:
            now = time.monotonic()
            wait = _RETRY_AFTER[min(self._failures, len(_RETRY_AFTER) - 1)]
            self._retry_at = now + max(wait, least, (now - began) * _REST_FACTOR)
            self._failures += 1
        return report

    async def _attempt(self, expected: str | None) -> ReloadReport | None:
        result = await asyncio.to_thread(self._read)
        if expected is not None and result.digest != expected:
            return None
        self.last_digest = result.digest
        if result.loaded is None:
            return ReloadReport(successful=False, problems=result.problems, reason=FailureReason.INVALID)
        is_requested = expected is None or expected == self._requested
        if not is_requested and (removal := _mass_removal(self.loaded, result.loaded)) is not None:
            return ReloadReport(successful=False, problems=(removal,), reason=FailureReason.MASS_REMOVAL)
        await self._apply(result.loaded)
        self.loaded, self.loaded_at = result.loaded, time.time()
        return ReloadReport(successful=True, changes=result.changes, warnings=result.loaded.warnings)

    def _read(self) -> _ReadResult:
        """Read the file and compare it with the current configuration; blocking."""
        path = self.loaded.path
        digest = file_digest(path)
        try:
            loaded = load(path)
        except ConfigError as exc:
            # The digest of the text with these problems, not of a newer one.
            return _ReadResult(digest if file_digest(path) == digest else None, None, problems=exc.problems)
        return _ReadResult(loaded.digest, loaded, tuple(differences(self.loaded.config, loaded.config)))

    def _status(self, report: ReloadReport) -> str:
        status = f"serving {plural(len(self.loaded.config.apps), 'app')}"
        if not report.successful:
            status += f"; the file on disk is NOT in use: {report.problems[0]}"
        return status

    def _record(self, report: ReloadReport, trigger: str) -> None:
        """Keep, count and log the report; an error here does not undo the reload."""
        self.last_successful = report.successful
        self.last_report, self.last_at = report, time.time()
        try:
            self._metrics.record_reload(report.reason)
            _log(report, trigger)
        except Exception:
            logger.exception("a reload could not be reported")


def _not_applied(loaded: Loaded, exc: Exception) -> ReloadReport:
    problem = Problem(str(loaded.path), 1, 1, "", f"cannot be applied: {failure_reason(exc)}")
    return ReloadReport(successful=False, problems=(problem,), reason=FailureReason.NOT_APPLIED)


def _mass_removal(before: Loaded, after: Loaded) -> Problem | None:
    """The problem with removing this many apps automatically; None if they are few or it is allowed."""
    watch, apps = before.config.server.watch, before.config.apps
    removed = [name for name in apps if name not in after.config.apps]
    if len(apps) < _MASS_REMOVAL_FROM or len(removed) * 2 <= len(apps) or watch is None or watch.allow_mass_removal:
        return None
    message = (
        f"would remove {len(removed)} of {len(apps)} apps, as a truncated file would; if this is intended, reload by "
        "command (POST /-/reload or SIGHUP), or set server.watch.allow_mass_removal: true before"
    )
    return Problem(str(before.path), 1, 1, "apps", message)


def with_workers(config: Config, workers: int) -> Config:
    """The configuration with the number of processes that run; client connections are divided among them."""
    server = config.server.model_copy(update={"workers": workers})
    return config.model_copy(update={"server": server})


def differences(before: Config, after: Config) -> list[str]:
    """The changes of a reload in words; empty without changes."""
    changes = [
        *_changed_names("upstream", before.upstreams, after.upstreams),
        *_changed_names("app", before.apps, after.apps),
    ]
    for key in type(after).model_fields:
        old, new = getattr(before, key), getattr(after, key)
        if key in ("upstreams", "apps") or old == new:
            continue
        is_section = isinstance(old, BaseModel) and isinstance(new, BaseModel)
        restart = " (takes effect after a restart)" if key in ("store", "state") else ""
        changes += _changed_fields(key, old, new) if is_section else [f"{key} changed{restart}"]
    return changes


def _changed_fields(section: str, before: BaseModel, after: BaseModel) -> list[str]:
    keys = [key for key in type(after).model_fields if getattr(before, key) != getattr(after, key)]
    restart = _NEEDS_RESTART if section == "server" else ()
    return [f"{section}.{key} changed" + (" (takes effect after a restart)" if key in restart else "") for key in keys]


def _changed_names(kind: str, before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    words = {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": [name for name in after if name in before and before[name] != after[name]],
    }
    return [f"{kind} {_join_names(names)} {word}" for word, names in words.items() if names]


def _join_names(names: list[str], most: int = 10) -> str:
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
            "configuration NOT reloaded (%s), still using the previous one: %s%s",
            trigger, first, rest, extra={"fields": fields},
        )  # fmt: skip
