"""Rules that decide a hook without a backend, or choose its upstream: by caller, callee, method and time.

The first rule whose conditions are all met wins. That is found without trying them one after the other: each rule is
filed under its most telling condition, and where that is plain text or ``text*``, it is looked up by it. Ten thousand
blocked numbers cost a hook what ten cost.

What the texts are that a glob is held against:

- caller and callee: the JSON string, however it is escaped; of anything else, such as a number, the characters as they
  are written in the body. A field that is absent or null matches no condition, not even ``*``. Of doubled keys the last
  one counts, as for PHP.
- upper and lower case are the same (see globs.fold). Nothing else is made equal: a full-width ``４`` is no ``4``, a
  Cyrillic ``а`` no ``a``, and ``004930123`` not ``+4930123``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from gateway.model.hooks import Hook, MethodType, field_text
from gateway.model.verdicts import Verdict
from gateway.policy.rules.globs import compile_glob, fold, is_glob, is_prefix
from gateway.policy.rules.time_windows import Windows, parse_windows

__all__ = ["Rule", "Rules", "Windows", "parse_windows"]


class Rule(NamedTuple):
    """One rule of an app; all of its conditions must match."""

    name: str
    caller: tuple[str, ...] = ()
    """Globs of which one must match; without any, every caller matches, and a hook without a caller too."""
    callee: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    time: Windows | None = None
    verdict: Verdict | None = None
    """*allow* or *reject*; None where *upstream* is asked."""
    upstream: str | None = None


def method_globs(rule: Rule, kind: MethodType | None) -> tuple[str, ...] | None:
    """The method globs that a hook of this type must still match; None = it never matches the rule.

    Among a rule's methods, the word for a type means all of that type. Without any, a rule with a verdict matches only
    methods that ask: an event that is answered here would be missing in the backend's records. *kind*: None = unknown.
    """
    if kind is None:
        return rule.methods
    if not rule.methods:
        return None if kind is MethodType.EVENT and rule.verdict is not None else ()
    folded = tuple(map(fold, rule.methods))
    if kind.value in folded:
        return ()
    return tuple(method for method in folded if method not in _OTHER_TYPES) or None


_OTHER_TYPES: Final = frozenset({MethodType.DIRECT.value, MethodType.EVENT.value, MethodType.INCOMING.value})
"""The words for types that are no method's name."""


class Rules:
    """All rules of one app, compiled, for methods of one type. It is for one thread."""

    __slots__ = (
        "_by_callee",
        "_by_caller",
        "_by_method",
        "_compiled",
        "_kind",
        "_more",
        "_unfiled",
        "reads_methods",
        "reads_texts",
        "upstreams",
    )

    def __init__(self, rules: Sequence[Rule], more: Rules | None = None, kind: MethodType | None = None) -> None:
        """*more* are those that come after these: many apps share them, and a copy of each would be too much.

        *kind*: the type of the methods; what no hook of theirs meets is left out. None = rules go by names alone.
        """
        scopes = [(rule, methods) for rule in rules if (methods := method_globs(rule, kind)) is not None]
        rules = [rule for rule, _ in scopes]
        timings: dict[Windows, _Timing] = {}
        self._by_caller, self._by_callee, self._by_method = _Index(), _Index(), _Index()
        self._unfiled: list[int] = []
        """The rules that can only be tried: by globs with a ``*`` or ``?`` within, or by time alone."""
        self._more = more
        self._kind = kind
        self.upstreams: set[str] = {rule.upstream for rule in rules if rule.upstream is not None}
        """Those that a rule may choose."""
        self.reads_texts: bool = any(rule.caller or rule.callee for rule in rules)
        self.reads_methods: bool = any(methods for _, methods in scopes)
        if more is not None:
            self.upstreams |= more.upstreams
            self.reads_texts |= more.reads_texts
            self.reads_methods |= more.reads_methods
        self._compiled = [self._file(place, rule, methods, timings) for place, (rule, methods) in enumerate(scopes)]

    def __len__(self) -> int:
        return len(self._compiled) + (0 if self._more is None else len(self._more))

    def match_hook(self, hook: Hook, method: str, now: float) -> Rule | None:
        """The first rule that matches this hook at this time (seconds since 1970)."""
        if not self.reads_texts:
            return self.match(None, None, method, now)
        return self.match(field_text(hook.caller, sys.maxsize), field_text(hook.callee, sys.maxsize), method, now)

    def reads(self, field: str, method: str) -> bool:
        """Whether a rule for this method looks at the field, ``caller`` or ``callee``; looks at every rule."""
        if not self.reads_texts:
            return False
        method = fold(method)
        return any(
            (rule.caller if field == "caller" else rule.callee)
            and any(compile_glob(fold(glob)).fullmatch(method) for glob in method_globs(rule, self._kind) or ("*",))
            for rule in (compiled.rule for compiled in self._compiled)
        ) or (self._more is not None and self._more.reads(field, method))

    def match(self, caller: str | None, callee: str | None, method: str, now: float) -> Rule | None:
        """The same for the texts themselves; None = the hook does not carry it."""
        if self.reads_texts:
            caller, callee = caller and fold(caller), callee and fold(callee)
        if self.reads_methods:
            method = fold(method)
        return self.match_folded(caller, callee, method, now)

    def match_folded(self, caller: str | None, callee: str | None, method: str, now: float) -> Rule | None:
        """The same for texts that are folded already."""
        compiled = self._compiled
        found = len(compiled)
        for places in (
            *self._by_caller.places(caller),
            *self._by_callee.places(callee),
            *self._by_method.places(method),
            self._unfiled,
        ):
            for place in places:
                if place >= found:
                    break
                if compiled[place].matches(caller, callee, method, now):
                    found = place
                    break
        if found < len(compiled):
            return compiled[found].rule
        return None if self._more is None else self._more.match_folded(caller, callee, method, now)

    def _file(self, place: int, rule: Rule, methods: tuple[str, ...], timings: dict[Windows, _Timing]) -> _Compiled:
        """Put a rule where it will be found; what is left of its conditions is to be tried then."""
        caller, callee, methods = (tuple(map(fold, globs)) for globs in (rule.caller, rule.callee, methods))
        timing = None if rule.time is None else timings.setdefault(rule.time, _Timing(rule.time))
        if max(telling := (_selectivity(caller), _selectivity(callee))) > _NOTHING:
            if telling[0] >= telling[1]:
                self._by_caller.add(caller, place)
                caller = ()
            else:
                self._by_callee.add(callee, place)
                callee = ()
        elif _selectivity(methods) > _NOTHING:
            self._by_method.add(methods, place)
            methods = ()
        else:
            self._unfiled.append(place)
        return _Compiled(rule, _AnyOf.compile(caller), _AnyOf.compile(callee), _AnyOf.compile(methods), timing)


_NOTHING: Final = (False, 0)
_split_wild: Final = re.compile(r"[*?]+").split


def _selectivity(globs: tuple[str, ...]) -> tuple[bool, int]:
    """How selective the least strict of these globs is, for comparison; nothing if it can only be tried."""
    if not all(is_prefix(glob) or not is_glob(glob) for glob in globs):
        return _NOTHING
    return min(((not is_glob(glob), len(glob)) for glob in globs), default=_NOTHING)


class _Index:
    """From a text to the places of the rules that are filed under it, or under a beginning of it."""

    __slots__ = ("_exact", "_prefixes")

    def __init__(self) -> None:
        self._exact: dict[str, list[int]] = {}
        self._prefixes: dict[int, dict[str, list[int]]] = {}

    def add(self, globs: Iterable[str], place: int) -> None:
        """Places are added in rising order."""
        for glob in dict.fromkeys(globs):
            if is_glob(glob):
                self._prefixes.setdefault(len(glob) - 1, {}).setdefault(glob[:-1], []).append(place)
            else:
                self._exact.setdefault(glob, []).append(place)

    def places(self, text: str | None) -> list[list[int]]:
        """Lists of places, each in rising order."""
        found: list[list[int]] = []
        if text is None:
            return found
        if (places := self._exact.get(text)) is not None:
            found.append(places)
        for length, by_prefix in self._prefixes.items():
            if (places := by_prefix.get(text[:length])) is not None:
                found.append(places)
        return found


class _AnyOf(NamedTuple):
    """A condition of a text: one of several globs."""

    exact: frozenset[str]
    prefixes: tuple[tuple[int, frozenset[str]], ...]
    patterns: tuple[tuple[str, re.Pattern[str]], ...]
    """With a text in front without which none can match: to look for that is many times quicker."""

    @classmethod
    def compile(cls, globs: tuple[str, ...]) -> _AnyOf | None:
        """None if there is no condition."""
        if not globs:
            return None
        prefixes: dict[int, set[str]] = {}
        for glob in filter(is_prefix, globs):
            prefixes.setdefault(len(glob) - 1, set()).add(glob[:-1])
        return cls(
            frozenset(glob for glob in globs if not is_glob(glob)),
            tuple((length, frozenset(texts)) for length, texts in prefixes.items()),
            tuple(
                (max(_split_wild(glob), key=len), compile_glob(glob))
                for glob in globs
                if is_glob(glob) and not is_prefix(glob)
            ),
        )

    def matches(self, text: str | None) -> bool:
        """Whether one of them does."""
        if text is None:
            return False
        if text in self.exact:
            return True
        for length, texts in self.prefixes:
            if text[:length] in texts:
                return True
        if not self.patterns:
            return False
        return any(needle in text and pattern.fullmatch(text) is not None for needle, pattern in self.patterns)


class _Timing:
    """Whether windows are open, worked out once a minute."""

    __slots__ = ("_minute", "_open", "_windows")

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._minute: float | None = None
        self._open = False

    def is_open(self, now: float) -> bool:
        minute = now // 60
        if minute != self._minute:
            self._minute, self._open = minute, self._windows.is_open(now)
        return self._open


class _Compiled(NamedTuple):
    """A rule, and its conditions that the index does not check."""

    rule: Rule
    caller: _AnyOf | None
    callee: _AnyOf | None
    methods: _AnyOf | None
    timing: _Timing | None

    def matches(self, caller: str | None, callee: str | None, method: str, now: float) -> bool:
        return (
            (self.methods is None or self.methods.matches(method))
            and (self.timing is None or self.timing.is_open(now))
            and (self.caller is None or self.caller.matches(caller))
            and (self.callee is None or self.callee.matches(callee))
        )
