"""Settings in words: what ``check`` says of each app beside its upstreams and budgets, and ``explain`` of a hook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from gateway.config import App, Config, Defaults, Loaded, Settings, display_value
from gateway.model.verdicts import Cause, Fallback, Verdict
from gateway.policy.comparison import Compare
from gateway.policy.event_answers import EventAnswers
from gateway.policy.repair import ResponseCheck
from gateway.policy.rest_client_config import ClientConfig, Mode
from gateway.policy.rules.matcher import Rule
from gateway.policy.shadow import ShadowSettings
from gateway.policy.split import Share

_MANY: Final = 8
"""How many names or rules are told one by one."""
_CALL: Final = "OnCallEvent"
_CHECKS: Final = {
    ResponseCheck.STRICT: "a 200 must be one JSON object, and nothing beside it",
    ResponseCheck.REPAIR: "repair: a byte-order mark and PHP's notices around the object are cut away",
    ResponseCheck.OFF: "off: a 200 counts, whatever its body is",
}
_EVENTS: Final = {
    EventAnswers.ANY: "any: every 2xx is a delivery, unless PHP reports a fatal error in it",
    EventAnswers.STRICT: "strict: an answer is judged as that of any other method",
}
_MODES: Final = {
    Mode.ENFORCE: "the gateway adds that to their answers",
    Mode.WARN: "it is left to their backends; the gateway counts answers that lack it, and refusals that do nothing",
    Mode.OFF: "it is left to their backends, and nobody looks",
}
_FAILURES: Final = {
    Cause.UNREACHABLE: "{} cannot be reached at all",
    Cause.TIMEOUT: "gives no answer in time",
    Cause.ERROR_STATUS: "answers with an error status",
    Cause.BAD_ANSWER: "gives a bad answer",
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


def fallback_in_words(fallback: Fallback, cause: Cause) -> str:
    """The verdict that stands in for a backend's, with the fields that it changes."""
    verdict = fallback.verdict(cause).value
    if (changes := fallback.fields.get(cause)) is None:
        return verdict
    return f"{verdict} with {', '.join(f'{name}={value}' for name, value in changes.written().items())}"


def changed_fields(fallback: Fallback) -> tuple[str, ...]:
    """All fields that it changes, for any cause."""
    return tuple(dict.fromkeys(name for changes in fallback.fields.values() for name in changes.names))


def lists(fields: Sequence[str]) -> str:
    """What an answer to connect must do so that the media server takes these fields."""
    return f"sets restPolicy=OVERWRITE and restOverwrite={','.join(fields)}"


def lacking(wanted: ClientConfig, method: str, fields: Sequence[str]) -> bool:
    """Whether it is left to the backend that the media server takes these fields of an answer to the method."""
    set_here = wanted.methods.get(method, {}) if wanted.mode is Mode.ENFORCE else {}
    listed = {name.strip() for name in set_here.get("restOverwrite", "").split(",")}
    return set_here.get("restPolicy") != "OVERWRITE" or not listed.issuperset(fields)


def enforcing(wanted: ClientConfig, method: str, fields: Sequence[str]) -> str:
    """The setting that adds it to answers to connect, beside what is wanted for the method anyway."""
    present = dict(wanted.methods.get(method, {}))
    listed = [name.strip() for name in present.get("restOverwrite", "").split(",") if name.strip()]
    present |= {"restPolicy": "OVERWRITE", "restOverwrite": ",".join(dict.fromkeys([*listed, *fields]))}
    written = ", ".join(f"{name}: {_quoted(value)}" for name, value in present.items())
    return f"rest_client_config: {{mode: enforce, methods: {{{method}: {{{written}}}}}}}"


def _quoted(text: str) -> str:
    return f'"{text}"' if "," in text else text


def failures_in_words(causes: Iterable[Cause], upstream: str) -> str:
    """When another upstream is asked."""
    words = [_FAILURES[cause].format(upstream) for cause in _FAILURES if cause in causes]
    *most, last = words
    both = f"{', '.join(most)} or {last}" if most else last
    twice = "" if list(causes) == [Cause.UNREACHABLE] else "; it may act on a hook that the first one acted on"
    return f"where {both}{twice}"


def reserve_in_words(settings: Settings) -> str:
    """How much of the budget is kept free for failover."""
    return f"{100 * settings.failover_reserve:.3g}% of the budget is kept free for failover"


def events_in_words(answers: EventAnswers) -> str:
    """Which answers to an event mean that it was delivered."""
    return _EVENTS[answers]


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


def wisdom(loaded: Loaded) -> Iterator[str]:
    """What the defaults and each app say of their own, a block for each, and last what a refusal comes to."""
    config = loaded.config
    yield from _block("defaults", config.defaults, config.inherited_settings(), config)
    for name, app in config.apps.items():
        yield from _block(name, app, config.settings(name, None), config)
    if config.record is not None:
        part = "" if config.record.sample >= 1 else f"{100 * config.record.sample:.3g}% of the sessions' "
        which = "hooks that failed" if config.record.failures_only else "hooks"
        where = display_value(config.record.path, loaded.masked, "record", "path")
        yield from ("", f"{part}{which} recorded in {where}")
    yield from _refusals(config)
    yield from _changes(config)


def _block(name: str, level: App | Defaults, settings: Settings, config: Config) -> Iterator[str]:
    lines = list(_own(level, settings))
    if isinstance(level, Defaults) or level.static is None:
        for method, own in level.methods.items():
            of_key = config.inherited_settings(method) if isinstance(level, Defaults) else config.settings(name, method)
            lines += _of_method(method, own.model_fields_set, of_key)
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
    if settings.failover and written & {"failover_on", "failover_reserve"}:
        yield "", _asked_after(settings)
    if "rate_limit" in written:
        rate = settings.rate_limit
        yield "rate limit", "off" if rate is None else f"{rate}; past it, overload"
    if "response_check" in written:
        yield "answers", check_in_words(settings.response_check)
    if "event_answers" in written:
        yield "events", events_in_words(settings.event_answers)
    if "shadow" in written:
        yield "shadow", "off" if settings.shadow is None else shadow_in_words(settings.shadow)


def _asked_after(settings: Settings) -> str:
    reserve = ""
    if Cause.TIMEOUT in settings.failover_on and settings.failover_reserve:
        reserve = f"; {reserve_in_words(settings)}"
    return f"asked after {', '.join(sorted(settings.failover_on))}{reserve}"


def _of_method(method: str, written: set[str], settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.failover and written & {"failover_on", "failover_reserve"}:
        yield f"{method}:", f"failover: {_asked_after(settings)}"
    if "response_check" in written:
        yield f"{method}:", f"answers: {check_in_words(settings.response_check)}"
    if "event_answers" in written:
        yield f"{method}:", f"events: {events_in_words(settings.event_answers)}"
    if "shadow" in written:
        shadow = settings.shadow
        yield f"{method}:", "shadow: " + ("off" if shadow is None else shadow_in_words(shadow))


def _rules_in_words(rules: Sequence[Rule]) -> Iterator[tuple[str, str]]:
    for index, rule in enumerate(rules[:_MANY]):
        yield "" if index else "rules", f"{rule.name}: {conditions(rule)}: {outcome(rule)}"
    if len(rules) > _MANY:
        yield "", f"and {len(rules) - _MANY:,} more"
    if any(rule.verdict is not None and not rule.methods for rule in rules):
        yield "", "events meet no rule with a verdict that does not name them: they go to the backend"


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


def _changes(config: Config) -> Iterator[str]:
    """Where fallbacks change fields: whether the media server takes them."""
    lines: list[str] = []
    for name, app in config.apps.items():
        if app.static is None:
            lines += _changes_of(config, name, app)
    if lines:
        yield ""
        yield "The media server takes a field that a fallback changes only if the session's connect answer sets"
        yield "restPolicy=OVERWRITE and lists it in restOverwrite for the method; else the answer changes nothing:"
        yield from lines[:_MANY]
        if len(lines) > _MANY:
            yield f"  and {len(lines) - _MANY:,} more"


def _changes_of(config: Config, name: str, app: App) -> Iterator[str]:
    """A line for the app, and one for each of its methods that has a fallback of its own."""
    for method in (None, *app.methods):
        settings = config.settings(name, method)
        fields = changed_fields(settings.fallback)
        if not fields or (method is not None and app.methods[method].fallback is None):
            continue
        where = f"  {name}{'' if method is None else f' {method}'}: {', '.join(fields)}"
        example = method or _CALL
        if not lacking(settings.client_config, example, fields):
            yield f"{where}: the gateway adds that to connect answers"
        else:
            yield f"{where}: left to the backend; {enforcing(settings.client_config, example, fields)} adds it"


def _refuses(rules: Iterable[Rule]) -> bool:
    return any(rule.verdict is Verdict.REJECT for rule in rules)
