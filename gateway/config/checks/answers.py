"""Settings that have no effect on answers, or harm the gateway itself: fallback, failover, restExclude.

The checks run on the file's plain data, and skip values of the wrong type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gateway.config.checks.methods import MethodChecks
from gateway.config.checks.plain import mappings, texts
from gateway.config.sections.rules import MAX_METHOD
from gateway.config.source.problems import Path
from gateway.model.hooks import MethodType
from gateway.policy.rest_client_config import FIXED
from gateway.policy.rules.globs import compile_glob, fold

_NUMBERS: Final = ("caller", "callee")
_NOT_A_NUMBER: Final = "must be text, in quotes: a number loses its + and its leading zeros"
_RECEIPT: Final = "changes nothing: the media server takes no field from the answer to an event"
_NO_FAILOVER: Final = "has no effect: no failover names an upstream"
_NO_TIMEOUT: Final = "has no effect: failover_on has no timeout"
_NEEDED: Final = "the gateway needs {}: without it, it cannot tell which session the hook belongs to"
_READ: Final = "rules read {}: with this, they never match hooks of this method"


class AnswerChecks:
    """Checks one level after another. Findings go to *problem* and *warn*."""

    def __init__(
        self,
        problem: Callable[[Path, str], None],
        warn: Callable[[Path, str], None],
        defaults: dict[str, Any],
        methods: MethodChecks,
    ) -> None:
        self._problem = problem
        self._warn = warn
        self._defaults = defaults
        self._methods = methods

    def check_defaults(self) -> None:
        """The defaults; their failover settings may be for apps that have a failover."""
        for place, level in _levels(("defaults",), self._defaults):
            self._fallback(place, level)
        self._excluded(("defaults",), self._defaults, mappings(self._defaults.get("rules")))

    def check_app(self, path: Path, app: dict[str, Any]) -> None:
        """An app, with its methods."""
        levels = _levels(path, app)
        for place, level in levels:
            self._fallback(place, level)
        if "static" not in app:
            self._failover(levels)
        self._excluded(path, app, [*mappings(app.get("rules")), *mappings(self._defaults.get("rules"))])

    def _fallback(self, path: Path, level: dict[str, Any]) -> None:
        fallback = level.get("fallback")
        for cause, verdict in fallback.items() if isinstance(fallback, dict) else ():
            fields = verdict.get("allow") if isinstance(verdict, dict) else None
            if not isinstance(fields, dict):
                continue
            place = (*path, "fallback", cause, "allow")
            for name in _NUMBERS:
                if isinstance(fields.get(name), int | float):
                    self._problem((*place, name), _NOT_A_NUMBER)
            if path[-2:-1] == ("methods",) and self._is_event(str(path[-1])):
                self._warn(place, _RECEIPT)

    def _is_event(self, key: str) -> bool:
        """Whether a key matches only events."""
        return self._methods.kinds(key) == {MethodType.EVENT}

    def _can_meet(self, rule: dict[str, Any], key: str) -> bool:
        """Whether a hook of a method that the key matches can match the rule."""
        kinds = self._methods.kinds(key)
        if not (names := _texts(rule.get("methods", []))):
            return "verdict" not in rule or kinds != {MethodType.EVENT}
        globs = [fold(name) for name in names if len(name) <= MAX_METHOD]
        types = {kind.value for kind in kinds}
        return any(glob in types or compile_glob(glob).fullmatch(fold(key)) is not None for glob in globs)

    def _failover(self, levels: list[tuple[Path, dict[str, Any]]]) -> None:
        """*levels*: the app and its methods."""
        _, app = levels[0]
        has_failover = bool(app.get("failover", self._defaults.get("failover")))
        wider = app.get("failover_on", self._defaults.get("failover_on"))
        for path, level in levels:
            for key in ("failover_on", "failover_reserve"):
                if key in level and not has_failover:
                    self._warn((*path, key), _NO_FAILOVER)
            within = [level] if level is not app else [level for _, level in levels]
            waits = any("timeout" in _texts(level.get("failover_on", wider)) for level in within)
            if "failover_reserve" in level and has_failover and not waits:
                self._warn((*path, "failover_reserve"), _NO_TIMEOUT)

    def _excluded(self, path: Path, level: dict[str, Any], rules: list[dict[str, Any]]) -> None:
        wanted = level.get("rest_client_config")
        methods = wanted.get("methods") if isinstance(wanted, dict) else None
        for method, fields in methods.items() if isinstance(methods, dict) else ():
            names = fields.get("restExclude") if isinstance(fields, dict) else None
            place = (*path, "rest_client_config", "methods", method, "restExclude")
            for name in [it.strip() for it in names.split(",")] if isinstance(names, str) else ():
                if name in FIXED:
                    self._warn(place, _NEEDED.format(name))
                elif name in _NUMBERS and any(name in rule and self._can_meet(rule, str(method)) for rule in rules):
                    self._warn(place, _READ.format(name))


def _levels(path: Path, level: dict[str, Any]) -> list[tuple[Path, dict[str, Any]]]:
    """A level and those of its methods."""
    methods = level.get("methods")
    inner = methods.items() if isinstance(methods, dict) else ()
    return [(path, level), *(((*path, "methods", key), it) for key, it in inner if isinstance(it, dict))]


def _texts(value: object) -> list[str]:
    return [text for _, text in texts((), value)]
