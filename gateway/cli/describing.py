"""Settings in words: what ``check`` says of each app beside its upstreams and budgets, and ``explain`` of a hook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from gateway.clientconfig import Mode
from gateway.comparison import Compare
from gateway.config import App, Config, Defaults, Settings
from gateway.repair import ResponseCheck
from gateway.rules.screening import Rule
from gateway.shadow import ShadowSettings
from gateway.split import Share
from gateway.verdicts import Verdict

_MANY: Final = 8
"""How many names or rules are told one by one."""
_CALL: Final = "OnCallEvent"
_CHECKS: Final = {
    ResponseCheck.STRICT: "a 200 must be one JSON object, and nothing beside it",
    ResponseCheck.REPAIR: "repair: a byte-order mark and PHP's notices around the object are cut away",
    ResponseCheck.OFF: "off: a 200 counts, whatever its body is",
}
_MODES: Final = {
    Mode.ENFORCE: "the gateway adds that to their answers",
    Mode.WARN: "it is left to their backends; the gateway counts answers that lack it, and refusals that do nothing",
    Mode.OFF: "it is left to their backends, and nobody looks",
}
_OTHERS: Final = {
    Mode.ENFORCE: "the gateway adds",
    Mode.WARN: "it is left to their backends; the gateway counts answers that lack",
}


# --- one setting ---


def share_of(shares: Sequence[Share], name: str) -> str:
    """How much of the sessions an upstream gets, in percent."""
    weight = sum(share.weight for share in shares if share.name == name)
    return f"{100 * weight / sum(share.weight for share in shares):.3g}%"


def shares_in_words(shares: Sequence[Share]) -> str:
    """``php 95%, new 5%``."""
    return ", ".join(f"{share.name} {share_of(shares, share.name)}" for share in shares)


def check_in_words(check: ResponseCheck) -> str:
    """What an answer must be."""
    return _CHECKS[check]


def conditions(rule: Rule) -> str:
    """What a hook must be to meet a rule."""
    parts = [
        f"{what} {some(globs)}"
        for what, globs in (("caller", rule.caller), ("callee", rule.callee), ("method", rule.methods))
        if globs
    ]
    return ", ".join([*parts, *([f"time {rule.time}"] if rule.time is not None else [])])


def outcome(rule: Rule) -> str:
    """What a rule comes to."""
    return f"upstream {rule.upstream}" if rule.verdict is None else rule.verdict.value


def shadow_in_words(shadow: ShadowSettings) -> str:
    """Who gets copies of what, and how the answers are compared."""
    how = "verdicts and bodies" if shadow.compare is Compare.BODY else "verdicts"
    but = f" but for {some(sorted(shadow.ignore))}" if shadow.ignore else ""
    part = "" if shadow.sample >= 1 else f" in {100 * shadow.sample:.3g}% of the sessions"
    return f"{shadow.upstream} gets copies of {some(shadow.methods)}{part}; {how} compared{but}"


def some(names: Sequence[str], most: int = _MANY) -> str:
    """Names, of many the first ones and how many more."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# --- all of them ---


def wisdom(config: Config) -> Iterator[str]:
    """What the defaults and each app say of their own, a block for each, and last what a refusal comes to."""
    yield from _block("defaults", config.defaults, config.inherited(), config)
    for name, app in config.apps.items():
        yield from _block(name, app, config.settings(name, None), config)
    if config.record is not None:
        part = "" if config.record.sample >= 1 else f"{100 * config.record.sample:.3g}% of the sessions' "
        which = "hooks that failed" if config.record.failures_only else "hooks"
        yield from ("", f"{part}{which} recorded in {config.record.path}")
    yield from _refusals(config)


def _block(name: str, level: App | Defaults, settings: Settings, config: Config) -> Iterator[str]:
    lines = list(_own(level, settings))
    if isinstance(level, App) and level.static is None:
        for method, own in level.methods.items():
            lines += _of_method(method, own.model_fields_set, config.settings(name, method))
    if lines:
        yield from ("", name, *(f"  {what:13} {words}" for what, words in lines))


def _own(level: App | Defaults, settings: Settings) -> Iterator[tuple[str, str]]:
    written = level.model_fields_set
    if "rules" in written:
        yield from _rules_in_words(level.rules)
    if isinstance(level, App) and level.static is not None:
        return
    if "upstream" in written and settings.split:
        yield "split", f"{shares_in_words(settings.split)}; a session stays with its upstream"
    if "failover" in written:
        yield "failover", " then ".join(settings.failover) or "none"
    if "rate_limit" in written:
        rate = settings.rate_limit
        yield "rate limit", "off" if rate is None else f"{rate}; past it, overload"
    if "response_check" in written:
        yield "answers", check_in_words(settings.response_check)
    if "shadow" in written:
        yield "shadow", "off" if settings.shadow is None else shadow_in_words(settings.shadow)


def _of_method(method: str, written: set[str], settings: Settings) -> Iterator[tuple[str, str]]:
    if "response_check" in written:
        yield f"{method}:", f"answers: {check_in_words(settings.response_check)}"
    if "shadow" in written:
        shadow = settings.shadow
        yield f"{method}:", "shadow: " + ("off" if shadow is None else shadow_in_words(shadow))


def _rules_in_words(rules: Sequence[Rule]) -> Iterator[tuple[str, str]]:
    for index, rule in enumerate(rules[:_MANY]):
        yield "" if index else "rules", f"{rule.name}: {conditions(rule)}: {outcome(rule)}"
    if len(rules) > _MANY:
        yield "", f"and {len(rules) - _MANY:,} more"


def _refusals(config: Config) -> Iterator[str]:
    """What a reject of a call comes to, by what the apps want of the answers to connect."""
    apps: dict[tuple[Mode, bool], list[str]] = {}
    for name in config.apps:
        settings = config.settings(name, _CALL)
        if settings.static is None or _refuses(settings.rules):
            wanted = settings.client_config
            names_others = wanted.mode is not Mode.OFF and _CALL not in wanted.failing
            apps.setdefault((wanted.mode, names_others), []).append(name)
    if not apps:
        return
    yield ""
    yield f"A reject of {_CALL} stops the call only if the session's connect answer set restOnError=FAIL for it:"
    for (mode, names_others), names in sorted(apps.items()):
        others = f"{_OTHERS.get(mode, '')} what methods names, and {_CALL} is not there"
        words = others if names_others else _MODES[mode]
        yield f"  {mode:8} {some(names)}: {words}"
    if any(mode is not Mode.ENFORCE for mode, _ in apps):
        yield "  rest_client_config: enforce makes rejects count whatever the backend answers to connect."


def _refuses(rules: Iterable[Rule]) -> bool:
    return any(rule.verdict is Verdict.REJECT for rule in rules)
