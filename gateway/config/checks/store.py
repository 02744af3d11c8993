"""The store and what needs it: spool and history, each of which has no effect, or harms, without the other keys.

The checks run on the file's plain data, and skip values of the wrong type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from gateway.config.checks.methods import MethodChecks
from gateway.config.checks.plain import is_mapping
from gateway.config.sections.apps import compile_method_keys
from gateway.config.sections.root import Config
from gateway.config.sections.spool import LEAST_SIZE, OFF
from gateway.config.sections.store import (
    EXAMPLE,
    POSTGRESQL,
    StoreSettings,
    is_driver_installed,
    parse_store_url,
    path_problem,
)
from gateway.config.sections.types import format_duration, parse_duration, parse_size
from gateway.config.source.problems import Path
from gateway.model.hooks import MethodType
from gateway.policy.history import HistorySettings
from gateway.policy.spooling import NEVER_SPOOLED, RESERVE, SpoolSettings

SHORTEST: Final = 2 * RESERVE
"""Seconds; with less, a backend would have less time than it takes to keep an event."""
_DEFAULTS: Final = Config()
_SPOOL: Final = SpoolSettings()
_HISTORY: Final = HistorySettings()
_NO_STORE: Final = f'needs a store: write store: {{url: "{EXAMPLE}"}}, for a file beside this one'
_NO_DRIVER: Final = "needs packages that are not installed: pip install 'wcs-gateway[postgresql]'"
_NO_USE: Final = "has no effect: nothing uses it; write history: {}, and spool: on under defaults or an app"
_NO_EVENT: Final = "can keep nothing: it is for methods of type event, and this key matches none"
_ASKS: Final = (
    "can keep nothing: this method asks whether a stream may continue, and a later answer is of no use; write "
    "fallback for it"
)

Levels = list[tuple[Path, dict[str, Any]]]


class StoreChecks:
    """Checks the store, then each level that may have a spool. Findings go to *problem* and *warn*."""

    def __init__(
        self,
        problem: Callable[[Path, str], None],
        warn: Callable[[Path, str], None],
        data: dict[str, Any],
        methods: MethodChecks,
        directory: str,
    ) -> None:
        self._problem = problem
        self._warn = warn
        self._data = data
        self._methods = methods
        self._directory = directory
        self._defaults = _mapping(data.get("defaults"))
        self._max_body = _size(_mapping(data.get("server")).get("max_body"), _DEFAULTS.server.max_body)
        self._too_short: set[Path] = set()

    def check(self, events: Iterable[str]) -> None:
        """Everything; *events* are the known methods of type event."""
        self._store()
        self._history()
        spools = list(self._spools())
        for path, value in spools:
            self._spool(path, value)
        used = [path for path, value in spools if value != OFF]
        if "store" not in self._data:
            for path in [("history",)] * ("history" in self._data) + used[:1]:
                self._problem(path, _NO_STORE)
        elif not used and "history" not in self._data:
            self._warn(("store",), _NO_USE)
        if used:
            self._timeouts(tuple(events))

    # --- the sections ---

    def _store(self) -> None:
        place = ("store", "url")
        settings = _store_settings(_mapping(self._data.get("store")).get("url"), self._directory)
        if settings is None:
            return
        if settings.engine == POSTGRESQL:
            if not is_driver_installed():
                self._problem(place, _NO_DRIVER)
            return
        wrong, odd = path_problem(settings.path)
        if wrong is not None:
            self._problem(place, wrong)
        if odd is not None:
            self._warn(place, odd)

    def _history(self) -> None:
        section = _mapping(self._data.get("history"))
        keep = _seconds(section.get("keep"), _HISTORY.keep)
        allowed = _seconds(section.get("keep_allowed"))
        if keep is not None and allowed is not None and allowed > keep:
            self._warn(
                ("history", "keep_allowed"),
                f"is longer than keep: nothing is kept for longer than {format_duration(keep)}",
            )

    # --- the spool of each level ---

    def _spools(self) -> Iterator[tuple[Path, object]]:
        apps = _mapping(self._data.get("apps"))
        levels = [*_levels(("defaults",), self._defaults)]
        for name, app in apps.items():
            if is_mapping(app) and "static" not in app:
                levels += _levels(("apps", name), app)
        yield from (((*path, "spool"), level["spool"]) for path, level in levels if "spool" in level)

    def _spool(self, path: Path, value: object) -> None:
        if value == OFF:
            return
        if path[-3:-2] == ("methods",) and isinstance(key := path[-2], str):
            if key in NEVER_SPOOLED:
                self._problem(path, _ASKS)
            elif (kinds := self._methods.kinds(key)) and MethodType.EVENT not in kinds:
                self._problem(path, _NO_EVENT)
        size = _size(_mapping(value).get("max_size"), _SPOOL.max_size)
        if size is not None and self._max_body is not None and parse_size(LEAST_SIZE) <= size < self._max_body:
            self._problem(
                (*path, "max_size"), "is smaller than server.max_body: an event of that size could not be kept"
            )

    # --- time to keep an event ---

    def _timeouts(self, events: tuple[str, ...]) -> None:
        """A timeout that leaves no time to keep an event, once at its place."""
        common = _methods(self._defaults)
        tight = {path for path, level in _levels(("defaults",), self._defaults) if _is_tight(level.get("timeout"))}
        for name, app in _mapping(self._data.get("apps")).items():
            if not is_mapping(app) or "static" in app:
                continue
            levels = _levels(("apps", name), app)
            if not tight and not any(_is_tight(level.get("timeout")) for _, level in levels):
                continue
            own = _methods(app)
            for event in (*events, *filter(self._is_event, (*own, *common))):
                self._timeout(_applying(event, ("apps", name), app, self._defaults))

    def _is_event(self, key: str) -> bool:
        return self._methods.kinds(key) == {MethodType.EVENT}

    def _timeout(self, levels: Levels) -> None:
        spool = next((level["spool"] for _, level in levels if "spool" in level), OFF)
        path, timeout = next(
            (((*path, "timeout"), it["timeout"]) for path, it in levels if "timeout" in it), ((), None)
        )
        if spool == OFF or not _is_tight(timeout) or path in self._too_short:
            return
        self._too_short.add(path)
        self._problem(
            path,
            f"must be longer than {format_duration(SHORTEST)} where events are kept (spool): the upstream gets "
            f"{format_duration(RESERVE)} less, so that there is time to keep one",
        )


@lru_cache(4096)
def _keys(own: tuple[str, ...], common: tuple[str, ...], event: str) -> tuple[tuple[bool, str], ...]:
    """The keys that an event meets, the most specific one first; whether each is the app's own."""
    found: list[tuple[bool, str]] = []
    ranks = (compile_method_keys(keys).ranks(event, MethodType.EVENT) for keys in (own, common))
    for mine, wider in zip(*ranks, strict=True):
        found += [(True, key) for key in mine] + [(False, key) for key in wider]
    return tuple(found)


def _applying(event: str, path: Path, app: dict[str, Any], defaults: dict[str, Any]) -> Levels:
    """The places that may set something for an event of the app, the most specific one first."""
    own, common = _methods(app), _methods(defaults)
    levels: Levels = [
        ((*path, "methods", key), own[key]) if is_own else (("defaults", "methods", key), common[key])
        for is_own, key in _keys(tuple(own), tuple(common), event)
    ]
    return [*levels, (path, app), (("defaults",), defaults)]


def _levels(path: Path, level: dict[str, Any]) -> Levels:
    """A level and those of its methods."""
    return [(path, level), *(((*path, "methods", key), it) for key, it in _methods(level).items())]


def _methods(level: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    methods = _mapping(level.get("methods"))
    return {key: it for key, it in methods.items() if is_mapping(it)}


def _mapping(value: object) -> dict[str, Any]:
    return value if is_mapping(value) else {}


def _store_settings(url: object, directory: str) -> StoreSettings | None:
    try:
        return parse_store_url(url, directory) if isinstance(url, str) else None
    except ValueError:  # which the model reports
        return None


def _is_tight(timeout: object) -> bool:
    seconds = _seconds(timeout)
    return seconds is not None and seconds <= SHORTEST


def _seconds(value: object, default: float | None = None) -> float | None:
    """A duration of the file; the default where there is none; None where it is not one."""
    try:
        return default if value is None else parse_duration(value if isinstance(value, str) else "")
    except ValueError:
        return None


def _size(value: object, default: int) -> int | None:
    """A size of the file; the default where there is none; None where it is not one."""
    try:
        return default if value is None else parse_size(value if isinstance(value, str) else "")
    except ValueError:
        return None
