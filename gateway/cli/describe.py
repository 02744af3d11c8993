"""Settings in words: the summary that ``check`` prints for each app, and the parts that ``explain`` uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from gateway.config import App, Config, Defaults, Loaded, Settings, display_value, format_duration
from gateway.model.reasons import FAILURE_CLAUSES
from gateway.model.text import plural
from gateway.model.verdicts import Cause, Fallback, Verdict
from gateway.policy.comparison import Compare
from gateway.policy.event_answers import EventAnswers
from gateway.policy.history import Bodies, HistorySettings
from gateway.policy.repair import ResponseCheck
from gateway.policy.rest_client_config import ClientConfig, Mode
from gateway.policy.rules.matcher import Rule
from gateway.policy.shadow import ShadowSettings
from gateway.policy.split import Share
from gateway.policy.spooling import SpoolSettings

_MANY: Final = 8
"""The most names or rules that are listed."""
_CALL: Final = "OnCallEvent"
_CHECKS: Final = {
    ResponseCheck.STRICT: "a 200 must be exactly one JSON object",
    ResponseCheck.REPAIR: "repair: a byte-order mark and PHP notices around the JSON object are removed",
    ResponseCheck.OFF: "off: any 200 is valid, with any body",
}
_EVENTS: Final = {
    EventAnswers.ANY: "any: every 2xx means delivered, unless it contains a PHP fatal error",
    EventAnswers.STRICT: "strict: answers are judged like those of other methods",
}
_MODES: Final = {
    Mode.ENFORCE: "the gateway adds it to their connect answers",
    Mode.WARN: "left to their backends; the gateway counts connect answers without it, and ineffective rejections",
    Mode.OFF: "left to their backends, and not checked",
}
_OTHERS: Final = {
    Mode.ENFORCE: "the gateway adds the methods under rest_client_config.methods",
    Mode.WARN: "left to their backends; the gateway checks the methods under rest_client_config.methods",
}


_BODIES: Final = {
    Bodies.OFF: "without bodies",
    Bodies.FAILURES: "with the bodies of failures, masked",
    Bodies.ALL: "with bodies, masked",
}
_UNITS: Final = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


# --- one setting ---


def share_percent(shares: Sequence[Share], name: str) -> str:
    """The share of sessions that an upstream gets, in percent."""
    weight = sum(share.weight for share in shares if share.name == name)
    return f"{100 * weight / sum(share.weight for share in shares):.3g}%"


def describe_split(shares: Sequence[Share]) -> str:
    """``php 95%, new 5%``."""
    return ", ".join(f"{share.name} {share_percent(shares, share.name)}" for share in shares)


def describe_response_check(check: ResponseCheck) -> str:
    """When a 200 is a valid answer."""
    return _CHECKS[check]


def describe_fallback(fallback: Fallback, cause: Cause) -> str:
    """The fallback's verdict for a cause, with the fields that it changes."""
    verdict = fallback.verdict(cause).value
    if (changes := fallback.fields.get(cause)) is None:
        return verdict
    return f"{verdict} with {', '.join(f'{name}={value}' for name, value in changes.written().items())}"


def changed_fields(fallback: Fallback) -> tuple[str, ...]:
    """All fields that the fallback changes, for any cause."""
    return tuple(dict.fromkeys(name for changes in fallback.fields.values() for name in changes.names))


def overwrite_settings(fields: Sequence[str]) -> str:
    """What a connect answer must set so that the media server accepts these fields."""
    return f"sets restPolicy=OVERWRITE and restOverwrite={','.join(fields)}"


def leaves_to_backend(wanted: ClientConfig, method: str, fields: Sequence[str]) -> bool:
    """Whether the backend must make the media server accept these fields of an answer to the method."""
    set_here = wanted.methods.get(method, {}) if wanted.mode is Mode.ENFORCE else {}
    listed = {name.strip() for name in set_here.get("restOverwrite", "").split(",")}
    return set_here.get("restPolicy") != "OVERWRITE" or not listed.issuperset(fields)


def enforce_setting(wanted: ClientConfig, method: str, fields: Sequence[str]) -> str:
    """The setting that adds it to connect answers, in addition to the method's present settings."""
    present = dict(wanted.methods.get(method, {}))
    listed = [name.strip() for name in present.get("restOverwrite", "").split(",") if name.strip()]
    present |= {"restPolicy": "OVERWRITE", "restOverwrite": ",".join(dict.fromkeys([*listed, *fields]))}
    written = ", ".join(f"{name}: {_quoted(value)}" for name, value in present.items())
    return f"rest_client_config: {{mode: enforce, methods: {{{method}: {{{written}}}}}}}"


def _quoted(text: str) -> str:
    return f'"{text}"' if "," in text else text


def describe_failover_on(causes: Iterable[Cause], upstream: str) -> str:
    """When a hook fails over to another upstream."""
    words = [words.format(upstream) for cause, words in FAILURE_CLAUSES.items() if cause in causes]
    *most, last = words
    both = f"{', '.join(most)} or {last}" if most else last
    twice = "" if list(causes) == [Cause.UNREACHABLE] else "; both upstreams may then process the same hook"
    return f"when {both}{twice}"


def describe_reserve(settings: Settings) -> str:
    """The share of the budget that is reserved for failover."""
    return f"{100 * settings.failover_reserve:.3g}% of the budget is reserved for failover"


def describe_event_answers(answers: EventAnswers) -> str:
    """Which answers to an event mean that it was delivered."""
    return _EVENTS[answers]


def describe_size(size: int) -> str:
    """Bytes as the configuration writes them."""
    for unit, factor in _UNITS:
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


def describe_spool(spool: SpoolSettings | None) -> str:
    """How events are kept that cannot be delivered."""
    if spool is None:
        return "off: an event that cannot be delivered is lost"
    attempts = plural(spool.attempts, "failed attempt")
    return (
        f"an event that cannot be delivered is kept for {format_duration(spool.max_age)}, in at most "
        f"{describe_size(spool.max_size)} for the app; a dead letter after {attempts} of its own"
    )


def describe_history(history: HistorySettings) -> str:
    """How long decisions are kept."""
    return (
        f"kept for {format_duration(history.keep)}, if allowed as usual for {format_duration(history.keep_allowed)}, "
        f"in at most {describe_size(history.max_size)}, {_BODIES[history.bodies]}"
    )


def describe_conditions(rule: Rule) -> str:
    """The conditions of a rule."""
    parts = [
        f"{what} {shorten_list(globs)}"
        for what, globs in (("caller", rule.caller), ("callee", rule.callee), ("method", rule.methods))
        if globs
    ]
    return ", ".join([*parts, *([f"time {rule.time}"] if rule.time is not None else [])])


def describe_result(rule: Rule) -> str:
    """What a rule does with a hook."""
    return f"upstream {rule.upstream}" if rule.verdict is None else rule.verdict.value


def describe_shadow(shadow: ShadowSettings) -> str:
    """Which hooks are copied to which upstream, and how the answers are compared."""
    how = "verdicts and bodies" if shadow.compare is Compare.BODY else "verdicts"
    but = f", except {shorten_list(sorted(shadow.ignore))}" if shadow.ignore else ""
    part = "" if shadow.sample >= 1 else f" in {100 * shadow.sample:.3g}% of the sessions"
    return f"{shadow.upstream} gets copies of {shorten_list(shadow.methods)}{part}; {how} are compared{but}"


def shorten_list(names: Sequence[str], most: int = _MANY) -> str:
    """Names separated by commas; of many names, the first ones and how many more."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def seconds(value: float) -> str:
    """A duration as the configuration writes it."""
    return f"{value:g}s" if value >= 1 else f"{value * 1000:g}ms"


# --- the summary ---


def summary(loaded: Loaded) -> Iterator[str]:
    """The settings of the defaults and of each app, one block each; then the effect of rejections."""
    config = loaded.config
    yield from _block("defaults", config.defaults, config.inherited_settings(), config)
    for name, app in config.apps.items():
        yield from _block(name, app, config.settings(name, None), config)
    if config.record is not None:
        part = "" if config.record.sample >= 1 else f"{100 * config.record.sample:.3g}% of the sessions' "
        which = "hooks that failed" if config.record.failures_only else "hooks"
        where = display_value(config.record.path, loaded.masked, "record", "path")
        yield from ("", f"{part}{which} recorded in {where}")
    yield from _rejection_lines(config)
    yield from _change_lines(config)


def _block(name: str, level: App | Defaults, settings: Settings, config: Config) -> Iterator[str]:
    lines = list(_level_lines(level, settings))
    if isinstance(level, Defaults) or level.static is None:
        for method, own in level.methods.items():
            of_key = config.inherited_settings(method) if isinstance(level, Defaults) else config.settings(name, method)
            lines += _method_lines(method, own.model_fields_set, of_key)
    if lines:
        yield from ("", name, *(f"  {what:13} {words}" for what, words in lines))


def _level_lines(level: App | Defaults, settings: Settings) -> Iterator[tuple[str, str]]:
    written = level.model_fields_set
    if "rules" in written:
        yield from _describe_rules(level.rules)
    if isinstance(level, App) and level.static is not None:
        return
    if "upstream" in written and settings.split:
        yield "split", f"{describe_split(settings.split)}; a session stays with its upstream"
    if "failover" in written:
        yield "failover", " then ".join(settings.failover) or "none"
    if settings.failover and written & {"failover_on", "failover_reserve"}:
        yield "", _failover_conditions(settings)
    if "rate_limit" in written:
        rate = settings.rate_limit
        yield "rate limit", "off" if rate is None else f"{rate}; above it, overload"
    if "response_check" in written:
        yield "answers", describe_response_check(settings.response_check)
    if "event_answers" in written:
        yield "events", describe_event_answers(settings.event_answers)
    if "spool" in written:
        yield "spool", describe_spool(settings.spool)
    if "shadow" in written:
        yield "shadow", "off" if settings.shadow is None else describe_shadow(settings.shadow)


def _failover_conditions(settings: Settings) -> str:
    reserve = ""
    if Cause.TIMEOUT in settings.failover_on and settings.failover_reserve:
        reserve = f"; {describe_reserve(settings)}"
    return f"on {', '.join(sorted(settings.failover_on))}{reserve}"


def _method_lines(method: str, written: set[str], settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.failover and written & {"failover_on", "failover_reserve"}:
        yield f"{method}:", f"failover: {_failover_conditions(settings)}"
    if "response_check" in written:
        yield f"{method}:", f"answers: {describe_response_check(settings.response_check)}"
    if "event_answers" in written:
        yield f"{method}:", f"events: {describe_event_answers(settings.event_answers)}"
    if "spool" in written:
        yield f"{method}:", f"spool: {describe_spool(settings.spool)}"
    if "shadow" in written:
        shadow = settings.shadow
        yield f"{method}:", "shadow: " + ("off" if shadow is None else describe_shadow(shadow))


def _describe_rules(rules: Sequence[Rule]) -> Iterator[tuple[str, str]]:
    for index, rule in enumerate(rules[:_MANY]):
        yield "" if index else "rules", f"{rule.name}: {describe_conditions(rule)}: {describe_result(rule)}"
    if len(rules) > _MANY:
        yield "", f"and {len(rules) - _MANY:,} more"
    if any(rule.verdict is not None and not rule.methods for rule in rules):
        yield "", "rules with a verdict and without methods do not apply to events, which go to the backend"


def _rejection_lines(config: Config) -> Iterator[str]:
    """Whether a reject of a call stops it, by the apps' rest_client_config."""
    apps: dict[tuple[Mode, bool], list[str]] = {}
    for name in config.apps:
        settings = config.settings(name, _CALL)
        if settings.static is None or _has_rejecting_rule(settings.rules):
            wanted = settings.client_config
            names_others = wanted.mode is not Mode.OFF and _CALL not in wanted.failing
            apps.setdefault((wanted.mode, names_others), []).append(name)
    if not apps:
        return
    yield ""
    yield f"A reject of {_CALL} stops the call only if the session's connect answer set restOnError=FAIL for it:"
    for (mode, names_others), names in sorted(apps.items()):
        others = f"{_OTHERS.get(mode, '')}, but {_CALL} is not listed there"
        words = others if names_others else _MODES[mode]
        yield f"  {mode:8} {shorten_list(names)}: {words}"
    if any(mode is not Mode.ENFORCE for mode, _ in apps):
        yield "  rest_client_config: enforce makes rejects stop calls with any connect answer of the backend."


def _change_lines(config: Config) -> Iterator[str]:
    """Where fallbacks change fields: whether the media server accepts them."""
    lines: list[str] = []
    for name, app in config.apps.items():
        if app.static is None:
            lines += _app_change_lines(config, name, app)
    if lines:
        yield ""
        yield "The media server accepts a field that a fallback changes only if the session's connect answer sets"
        yield "restPolicy=OVERWRITE and lists the field in restOverwrite for the method; otherwise nothing changes:"
        yield from lines[:_MANY]
        if len(lines) > _MANY:
            yield f"  and {len(lines) - _MANY:,} more"


def _app_change_lines(config: Config, name: str, app: App) -> Iterator[str]:
    """One line for the app, and one for each of its methods with its own fallback."""
    for method in (None, *app.methods):
        settings = config.settings(name, method)
        fields = changed_fields(settings.fallback)
        if not fields or (method is not None and app.methods[method].fallback is None):
            continue
        where = f"  {name}{'' if method is None else f' {method}'}: {', '.join(fields)}"
        example = method or _CALL
        if not leaves_to_backend(settings.client_config, example, fields):
            yield f"{where}: the gateway adds this to connect answers"
        else:
            yield f"{where}: left to the backend; {enforce_setting(settings.client_config, example, fields)} adds this"


def _has_rejecting_rule(rules: Iterable[Rule]) -> bool:
    return any(rule.verdict is Verdict.REJECT for rule in rules)
