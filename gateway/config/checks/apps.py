"""Settings of one app that contradict each other: its upstreams, rules, shadows, and what makes rejections count.

The checks run on the file's plain data, and skip values of the wrong type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from gateway.config.checks.methods import MethodChecks
from gateway.config.checks.plain import as_list, is_mapping, texts
from gateway.config.sections.rest_client_config import KNOWN_FIELDS
from gateway.config.sections.rules import MAX_METHODS, MAX_RULES
from gateway.config.sections.split import MAX_FAILOVERS, MAX_SHARES
from gateway.config.source.problems import NameSuggester, Path
from gateway.model.hooks import PLAY_HLS, MethodType
from gateway.policy.shadow import PREFIX

_COUNT: Final = "restOnError"
_USELESS: Final = {
    MethodType.CONNECT: "does nothing here: a rejected connect is declined in any case",
    MethodType.EVENT: "does nothing here: an event has happened already and cannot be rejected",
}
_HLS: Final = "does nothing here: the media server stops a rejected playHLS in any case, and no connect comes before it"


class AppChecks:
    """Checks one level after another: the defaults, then each app. Findings go to *problem* and *warn*."""

    def __init__(
        self,
        problem: Callable[[Path, str], None],
        warn: Callable[[Path, str], None],
        suggester: NameSuggester,
        *,
        defaults: dict[str, Any],
        methods: MethodChecks,
        upstreams: Mapping[str, Any] | None,
    ) -> None:
        """*upstreams* is None if they are not known."""
        self._problem = problem
        self._warn = warn
        self._suggester = suggester
        self._defaults = defaults
        self._methods = methods
        self._upstreams = upstreams

    def check_level(self, path: Path, level: dict[str, Any]) -> None:
        """Settings that the defaults and an app can both have."""
        if "upstream" in level:
            self._choice((*path, "upstream"), level["upstream"])
        if "failover" in level:
            self._failover((*path, "failover"), level)
        if "rules" in level:
            self._rules((*path, "rules"), level["rules"], static="static" in level)
        if isinstance(wanted := level.get("rest_client_config"), dict):
            self._client_config((*path, "rest_client_config", "methods"), wanted.get("methods"))

    def check_app(self, path: Path, app: dict[str, Any]) -> None:
        """An app, with its methods."""
        self.check_level(path, app)
        # Those of a static app are never used, but they are built.
        chosen = None if "static" in app else app.get("upstream", self._defaults.get("upstream"))
        if "shadow" in app:
            self._shadow((*path, "shadow"), app["shadow"], chosen)
        if isinstance(methods := app.get("methods"), dict):
            for method, settings in methods.items():
                if isinstance(settings, dict) and "shadow" in settings:
                    self._shadow((*path, "methods", method, "shadow"), settings["shadow"], chosen)

    def reachable_upstreams(self, app: dict[str, Any]) -> Iterator[str]:
        """The names of all upstreams that an app's hooks may reach, some of them twice."""
        wider = self._defaults
        yield from (name for _, name in _choices((), app.get("upstream", wider.get("upstream"))))
        yield from (name for _, name in texts((), app.get("failover", wider.get("failover"))))
        methods = app.get("methods")
        others = [*as_list(app.get("rules")), *as_list(wider.get("rules")), app.get("shadow")]
        others += [it.get("shadow") for it in (methods.values() if is_mapping(methods) else ()) if is_mapping(it)]
        yield from (it["upstream"] for it in others if is_mapping(it) and isinstance(it.get("upstream"), str))

    def check_reserved_name(self, name: str) -> None:
        """An upstream must not take the name of a candidate."""
        if name.startswith(PREFIX):
            self._problem(("upstreams", name), f"names that begin with {PREFIX} are reserved: choose another")

    # --- upstreams ---

    def _exists(self, path: Path, name: object) -> None:
        if self._upstreams is not None and isinstance(name, str) and name and name not in self._upstreams:
            self._problem(path, f"no upstream has this name{self._suggester.suggest(name, self._upstreams)}")

    def _choice(self, path: Path, chosen: object) -> None:
        names = list(_choices(path, chosen))
        for place, name in names:
            self._exists(place, name)
        shares = as_list(chosen)
        if not 2 <= len(shares) <= MAX_SHARES:
            return
        self._distinct(names, 1)
        if all(is_mapping(share) and share.get("weight") == 0 for share in shares):
            self._problem(path, "must have a weight above 0: with these, no upstream would be asked")

    def _failover(self, path: Path, level: dict[str, Any]) -> None:
        names = list(texts(path, level["failover"]))
        if len(names) > MAX_FAILOVERS:
            return
        chosen = level.get("upstream", self._defaults.get("upstream"))
        rules = [*as_list(level.get("rules")), *as_list(self._defaults.get("rules"))]
        is_only_one = not any(is_mapping(rule) and rule.get("upstream", chosen) != chosen for rule in rules)
        for place, name in names:
            self._exists(place, name)
            if name == chosen and is_only_one:
                self._problem(place, "is the upstream that is asked anyway: name another one")
        self._distinct(names, 0)

    def _distinct(self, names: list[tuple[Path, str]], above: int) -> None:
        """*above* says how many steps the name is below its item of the list."""
        first: dict[str, object] = {}
        for place, name in names:
            index = place[len(place) - 1 - above]
            if (same := first.setdefault(name, index)) != index:
                self._problem(place, f"names the same upstream as item [{same}] of this list")

    # --- rules ---

    def _rules(self, path: Path, rules: object, *, static: bool) -> None:
        first: dict[str, int] = {}
        for index, rule in enumerate(as_list(rules)[:MAX_RULES]):
            if not is_mapping(rule):
                continue
            if isinstance(name := rule.get("name"), str) and (same := first.setdefault(name, index)) != index:
                self._problem((*path, index, "name"), f"is the name of item [{same}] of this list too")
            if "upstream" in rule:
                self._exists((*path, index, "upstream"), rule["upstream"])
                if static:
                    self._problem((*path, index, "upstream"), "cannot be asked: the app is static, it has no backend")
            self._known((*path, index, "methods"), rule.get("methods"), verdict="verdict" in rule)

    def _known(self, path: Path, methods: object, *, verdict: bool = False) -> None:
        """Names and globs that match no method are probably mistyped."""
        for place, name in islice(texts(path, methods), MAX_METHODS):
            self._methods.check_item(place, name)
            if verdict:
                self._methods.check_for_events(place, name)

    # --- shadows ---

    def _shadow(self, path: Path, shadow: object, chosen: object) -> None:
        if not is_mapping(shadow):
            return
        candidate = shadow.get("upstream")
        self._exists((*path, "upstream"), candidate)
        if isinstance(candidate, str) and candidate == chosen:
            self._problem((*path, "upstream"), "is the upstream that decides: a shadow's candidate is another one")
        self._known((*path, "methods"), shadow.get("methods"))

    # --- rejections that count ---

    def _client_config(self, path: Path, methods: object) -> None:
        for method, fields in methods.items() if isinstance(methods, dict) else ():
            place = (*path, method)
            self._methods.check_key(place, method)
            for field in fields if isinstance(fields, dict) else ():
                if field not in KNOWN_FIELDS:
                    hint = self._suggester.suggest(field, KNOWN_FIELDS)
                    self._warn((*place, field), f"no field of a method that the media server is known to read{hint}")
            if isinstance(fields, dict) and _COUNT in fields and (why := self._why_useless(method)):
                self._warn((*place, _COUNT), why)

    def _why_useless(self, method: str) -> str:
        """Why restOnError has no effect for a key; empty if it has one."""
        if method == PLAY_HLS:
            return _HLS
        kinds = self._methods.kinds(method)
        return next(iter(map(_USELESS.__getitem__, kinds)), "") if kinds <= _USELESS.keys() else ""


def _choices(path: Path, value: object) -> Iterator[tuple[Path, str]]:
    """The names of one upstream, or of several with their weights, each with its place."""
    if isinstance(value, str):
        yield path, value
    for index, share in enumerate(as_list(value)):
        if is_mapping(share) and isinstance(share.get("name"), str):
            yield (*path, index, "name"), share["name"]
