"""Keys and lists of methods: names that are mistyped, globs that match nothing, streams that a failing backend ends.

The checks run on the file's plain data, and skip values of the wrong type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from gateway.config.sections.apps import compile_method_keys
from gateway.config.sections.rules import MAX_METHOD
from gateway.config.source.problems import NameSuggester, Path, path_text
from gateway.model.hooks import KEEP_ALIVE, MethodType, method_type
from gateway.model.verdicts import Cause
from gateway.policy.method_keys import TYPES, is_name
from gateway.policy.rules.globs import compile_glob, fold, is_glob

NO_METHOD: Final = "neither in the catalogue of methods nor in hook_types"
_NO_MATCH: Final = "matches no method of the catalogue and of hook_types"
_ALL: Final = "{" + ", ".join(f"{cause}: allow" for cause in Cause) + "}"
_ALLOWED_ALONE: Final = frozenset({Cause.TIMEOUT, Cause.UNREACHABLE, Cause.OVERLOAD})
_MANY: Final = 3
"""Apps that are named one by one."""


class MethodChecks:
    """The known methods, and the checks that need nothing else. Findings go to *problem* and *warn*."""

    def __init__(
        self,
        problem: Callable[[Path, str], None],
        warn: Callable[[Path, str], None],
        suggester: NameSuggester,
        known: Mapping[str, Any],
    ) -> None:
        """*known*: the catalogue's methods and those of ``hook_types``, with what is written there as their type."""
        self._problem = problem
        self._warn = warn
        self._suggester = suggester
        self._known = known
        self._kinds = {
            name: MethodType(kind) for name, kind in known.items() if isinstance(kind, str) and kind in TYPES
        }
        self._folded = {fold(name): kind for name, kind in self._kinds.items()}
        self._globs: dict[str, frozenset[MethodType]] = {}

    @property
    def events(self) -> Iterator[str]:
        """The known methods of type event."""
        return (name for name, kind in self._kinds.items() if kind is MethodType.EVENT)

    def kinds(self, key: str) -> frozenset[MethodType]:
        """The types of the methods that a key or glob matches: of the known ones, or by the name itself."""
        if is_glob(key):
            return frozenset(kind for name, kind in self._kinds.items() if compile_glob(key).fullmatch(name))
        return frozenset({MethodType(key) if key in TYPES else method_type(key, self._kinds)})

    def check_type_names(self, hook_types: Iterable[object]) -> None:
        """No method can have the name of a type."""
        for name in hook_types:
            if isinstance(name, str) and name in TYPES and not is_name(name):
                self._problem(("hook_types", name), "means all methods of a type: no method can have this name")

    def check_key(self, path: Path, key: object, hint: str = "") -> None:
        """A key under ``methods``; *hint* is added if no similar name is found."""
        if not isinstance(key, str) or key in TYPES:
            return
        if is_glob(key):
            if len(key) <= MAX_METHOD and not self.kinds(key):
                self._warn(path, _NO_MATCH)
        elif key not in self._known:
            found = self._suggester.suggest(key, {*self._known, *TYPES})
            self._warn(path, f"{NO_METHOD}{found or hint}")

    def check_item(self, path: Path, name: str) -> None:
        """A name, glob or type in a list of methods, where upper and lower case do not differ."""
        folded = fold(name)
        if folded in TYPES:
            return
        if not is_glob(name):
            if folded not in self._folded:
                self._warn(path, f"{NO_METHOD}{self._suggester.suggest(name, {*self._known, *TYPES})}")
        elif len(name) <= MAX_METHOD and not self._matched(folded):
            self._warn(path, _NO_MATCH)

    def check_for_events(self, path: Path, glob: str) -> None:
        """Warn of a rule's glob, with a verdict, that matches events and methods that ask: that is rarely intended."""
        if is_glob(glob) and len(glob) <= MAX_METHOD:
            kinds = self._matched(fold(glob))
            if MethodType.EVENT in kinds and len(kinds) > 1:
                self._warn(
                    path,
                    "matches events too: the rule answers them here, and they are missing in the backend's records; "
                    "name the methods, or the types that ask: connect, direct, incoming",
                )

    def check_event_answers(self, path: Path, key: str) -> None:
        """Warn of it where no event can be meant."""
        if (kinds := self.kinds(key)) and MethodType.EVENT not in kinds:
            self._warn(path, "does nothing here: it is for methods of type event")

    def _matched(self, folded: str) -> frozenset[MethodType]:
        """The types of the known methods that a folded glob matches."""
        if folded not in self._globs:
            matches = compile_glob(folded).fullmatch
            self._globs[folded] = frozenset(kind for name, kind in self._folded.items() if matches(name))
        return self._globs[folded]

    # --- streams that a failing backend would end ---

    def check_keep_alive(self, defaults: dict[str, Any], apps: Mapping[str, Any]) -> None:
        """Warn where a failing backend would end live streams, unless the file says that it should."""
        kind = self._kinds.get(KEEP_ALIVE, MethodType.DIRECT)
        ended: list[str] = []
        warned: set[Path] = set()
        for name, app in apps.items():
            if not isinstance(app, dict) or "static" in app:
                continue
            path, fallback = next(_fallbacks(("apps", name), app, defaults, kind), ((), "reject"))
            lacking = _causes_not_allowed(fallback)
            if path[-2:-1] != (KEEP_ALIVE,):
                if lacking:
                    ended.append(name)
            elif fallback != "reject" and path not in warned:
                warned.add(path)
                unsaid = [cause for cause in lacking if not isinstance(fallback, dict) or cause not in fallback]
                if unsaid:
                    self._warn(
                        path,
                        f"has no verdict for {', '.join(unsaid)}: a backend that fails in this way ends every live "
                        "stream whose session set FAIL; write allow, or reject if that is intended",
                    )
        if ended:
            names = ", ".join(path_text((name,)) for name in ended[:_MANY]) + (
                f" and {len(ended) - _MANY} more" if len(ended) > _MANY else ""
            )
            self._warn(
                ("defaults",) if defaults else ("apps",),
                f"a failing backend ends every live stream whose session set FAIL for {KEEP_ALIVE} (apps: {names}): "
                f"write defaults.methods: {{{KEEP_ALIVE}: {{fallback: {_ALL}}}}}, or fallback: reject there if that is "
                "intended",
            )


def _fallbacks(
    path: Path, app: dict[str, Any], defaults: dict[str, Any], kind: MethodType
) -> Iterator[tuple[Path, object]]:
    """What is written for failed hooks that ask whether a stream may go on, the most specific first, with its place."""
    own, common = _methods(app), _methods(defaults)
    ranks = (compile_method_keys(tuple(level)).ranks(KEEP_ALIVE, kind) for level in (own, common))
    for mine, wider in zip(*ranks, strict=True):
        levels = [((*path, "methods", key), own[key]) for key in mine]
        levels += [(("defaults", "methods", key), common[key]) for key in wider]
        yield from (((*place, "fallback"), level["fallback"]) for place, level in levels if "fallback" in level)
    for place, level in ((path, app), (("defaults",), defaults)):
        if "fallback" in level:
            yield (*place, "fallback"), level["fallback"]


def _methods(level: dict[str, Any]) -> dict[str, dict[str, Any]]:
    methods = level.get("methods")
    if not isinstance(methods, dict):
        return {}
    return {key: it for key, it in methods.items() if isinstance(key, str) and isinstance(it, dict)}


def _causes_not_allowed(fallback: object) -> list[Cause]:
    """The causes for which a hook is not allowed; none if that is not known."""
    if fallback in ("allow", "reject"):
        return [cause for cause in Cause if fallback == "reject" or cause not in _ALLOWED_ALONE]
    if not isinstance(fallback, dict):
        return []
    return [cause for cause in Cause if not _allows(fallback.get(cause))]


def _allows(verdict: object) -> bool:
    return verdict == "allow" or (isinstance(verdict, dict) and "allow" in verdict)
