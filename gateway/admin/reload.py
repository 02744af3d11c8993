"""Reload: the file is read aside, swapped in whole or not at all, and every asker is told the same."""

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


_MANY: Final = 10
"""Apps from which on a change that nobody asked for may not remove more than half of them."""
_TRY_AGAIN_AFTER: Final = (5.0, 10.0, 20.0, 40.0, 60.0)
"""Seconds after the first, second … failure in a row: what was wrong may lie outside the file's text."""
_REST: Final = 50.0
"""Times as long as an attempt took, none is made again: the hooks must not feel it."""


class FailureReason(StrEnum):
    """Why a reload changed nothing."""

    INVALID = "invalid"
    """The file, or one that it names, has mistakes."""
    NOT_APPLIED = "not_applied"
    """It is right as far as can be seen, and could not be put in force."""
    MASS_REMOVAL = "mass_removal"
    """Nobody asked for it, and it would remove most apps."""


@dataclass(frozen=True)
class ReloadReport:
    """How a reload went, for the log and for whoever asked."""

    successful: bool
    changes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    reason: FailureReason | None = None

    def as_json(self) -> dict[str, Any]:
        """For the admin port's answer."""
        return {
            "result": "success" if self.successful else "failure",
            "reason": self.reason,
            "changes": list(self.changes),
            "problems": [str(problem) for problem in self.problems],
            "warnings": [str(problem) for problem in self.warnings],
        }


class _Look(NamedTuple):
    """What a look at the file has found."""

    digest: str | None
    loaded: Loaded | None
    changes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


class Reloader:
    """Holds the configuration in force; *apply* puts a new one in its place, or raises and changes nothing."""

    def __init__(self, loaded: Loaded, metrics: Metrics, apply: Callable[[Loaded], Awaitable[None]]) -> None:
        self.loaded = loaded
        self._metrics = metrics
        self._apply = apply
        self._lock = asyncio.Lock()
        self.tried: str | None = loaded.digest
        """The digest of the text that was last loaded, with or without success."""
        self._asked_for: str | None = loaded.digest
        """The digest of the text that an operator last asked for."""
        self._failures = 0
        """In a row."""
        self._try_again_at: float | None = None
        """By the monotonic clock."""
        self.last_successful = True
        self.loaded_at = time.time()
        """Unix time at which the configuration in force was loaded."""
        self.last_report = ReloadReport(successful=True, warnings=loaded.warnings)
        """How the last load went; the start's, until there was another."""
        self.last_at = self.loaded_at
        """Unix time of it."""
        metrics.record_load(successful=True)

    async def reload(self, trigger: str) -> ReloadReport:
        """Load the file and put it in force whole, or change nothing. *trigger* says who asked, for the log.

        Raises nothing: what went wrong is in the report.
        """
        async with self._lock:
            with systemd.reloading() as told:
                report = await self._load(None)
                assert report is not None  # no particular text was expected
                self._asked_for = self.tried
                self._note(report, trigger)
                told.status = self._status(report)
        return report

    async def follow(self, digest: str) -> None:
        """The same for a file that has changed, unasked; *digest* is that of its text, or nothing is done yet."""
        async with self._lock:
            if digest == self.tried:
                return  # a command was quicker
            with systemd.reloading() as told:
                report = await self._load(digest)
                if report is not None:
                    self._note(report, "file changed")
                told.status = self._status(report or self.last_report)

    @property
    def is_due(self) -> bool:
        """Whether a text that was not taken is to be tried again."""
        return self._try_again_at is not None and time.monotonic() >= self._try_again_at

    async def try_again(self) -> None:
        """Try the text that was not taken once more; only another outcome than before is reported."""
        async with self._lock:
            if not self.is_due or self.tried is None:
                return
            report = await self._load(self.tried)
            if report is None or report == self.last_report:
                return
            self._note(report, "tried again")
            systemd.ready(self._status(report))

    # --- one attempt ---

    async def _load(self, expected: str | None) -> ReloadReport | None:
        """Load the file and apply it. None where its text is not the *expected* one (any more), and nothing was done.

        A caller that asks for the file as it is expects None.
        """
        began, least = time.monotonic(), 0.0
        self._try_again_at = None
        try:
            report = await self._attempt(expected)
        except Exception as exc:
            report = _not_applied(self.loaded, exc)
            if isinstance(exc, MemoryError | SystemError):
                least = _TRY_AGAIN_AFTER[-1]  # where memory is short, each attempt is a risk
            if report != self.last_report and not isinstance(exc, EXPECTED_ERRORS):
                logger.error("a configuration could not be put in force", exc_info=exc)
        if report is None or report.successful:
            self._failures = 0
        elif report.reason is not FailureReason.MASS_REMOVAL and self.tried is not None:
            now = time.monotonic()
            wait = _TRY_AGAIN_AFTER[min(self._failures, len(_TRY_AGAIN_AFTER) - 1)]
            self._try_again_at = now + max(wait, least, (now - began) * _REST)
            self._failures += 1
        return report

    async def _attempt(self, expected: str | None) -> ReloadReport | None:
        look = await asyncio.to_thread(self._look)
        if expected is not None and look.digest != expected:
            return None
        self.tried = look.digest
        if look.loaded is None:
            return ReloadReport(successful=False, problems=look.problems, reason=FailureReason.INVALID)
        is_asked_for = expected is None or expected == self._asked_for
        if not is_asked_for and (removal := _mass_removal(self.loaded, look.loaded)) is not None:
            return ReloadReport(successful=False, problems=(removal,), reason=FailureReason.MASS_REMOVAL)
        await self._apply(look.loaded)
        self.loaded, self.loaded_at = look.loaded, time.time()
        return ReloadReport(successful=True, changes=look.changes, warnings=look.loaded.warnings)

    def _look(self) -> _Look:
        """The file as it is now, and what is new in it; blocking."""
        path = self.loaded.path
        digest = file_digest(path)
        try:
            loaded = load(path)
        except ConfigError as exc:
            # Of the text that has these problems, not of one that came in between.
            return _Look(digest if file_digest(path) == digest else None, None, problems=exc.problems)
        return _Look(loaded.digest, loaded, tuple(differences(self.loaded.config, loaded.config)))

    def _status(self, report: ReloadReport) -> str:
        status = f"serving {plural(len(self.loaded.config.apps), 'app')}"
        if not report.successful:
            status += f"; the configuration on disk is NOT in force: {report.problems[0]}"
        return status

    def _note(self, report: ReloadReport, trigger: str) -> None:
        """Report it to all who want to know; none of them can undo it."""
        self.last_successful = report.successful
        self.last_report, self.last_at = report, time.time()
        try:
            self._metrics.record_reload(report.reason)
            _log(report, trigger)
        except Exception:
            logger.exception("a reload could not be reported")


def _not_applied(loaded: Loaded, exc: Exception) -> ReloadReport:
    problem = Problem(str(loaded.path), 1, 1, "", f"cannot be put in force: {failure_reason(exc)}")
    return ReloadReport(successful=False, problems=(problem,), reason=FailureReason.NOT_APPLIED)


def _mass_removal(before: Loaded, after: Loaded) -> Problem | None:
    """What is wrong with removing so many apps unasked; None where it is not so many, or is allowed."""
    watch, apps = before.config.server.watch, before.config.apps
    removed = [name for name in apps if name not in after.config.apps]
    if len(apps) < _MANY or len(removed) * 2 <= len(apps) or watch is None or watch.allow_mass_removal:
        return None
    message = (
        f"would remove {len(removed)} of {len(apps)} apps, as a file that is cut off does; if this is meant, reload it "
        "by command (POST /-/reload, or SIGHUP), or set server.watch.allow_mass_removal: true beforehand"
    )
    return Problem(str(before.path), 1, 1, "apps", message)


def with_workers(config: Config, workers: int) -> Config:
    """The configuration with the number of processes that really run: client connections are shared out among these."""
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
