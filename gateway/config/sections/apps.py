"""The settings of apps and of their methods, the defaults of both, and what comes of all levels in the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import ConfigDict, Field

from gateway.config.sections.authorization import Credentials, Signature
from gateway.config.sections.fallback import FAILOVER_RESERVE, VERDICTS_BY_CAUSE, FailoverOn
from gateway.config.sections.fields import BUDGET, IN_FLIGHT, REPEATS, MethodKey, Section
from gateway.config.sections.rate_limit import RateLimit
from gateway.config.sections.rest_client_config import (
    CLIENT_CONFIG,
    RESPONSE_CHECK,
    ClientConfigPart,
    merge_client_config,
)
from gateway.config.sections.rules import DefaultRules, OwnRules
from gateway.config.sections.shadow import METHOD_SHADOW, SHADOW
from gateway.config.sections.split import Failover, UpstreamChoice
from gateway.config.sections.types import NotNull, ReadAs, one_of
from gateway.config.sections.upstreams import RetrySection
from gateway.model.hooks import MethodType, method_type
from gateway.model.verdicts import Cause, Fallback, Verdict
from gateway.policy.event_answers import EventAnswers
from gateway.policy.method_keys import TYPES, MethodKeys
from gateway.policy.rate_limit import Rate
from gateway.policy.repair import ResponseCheck
from gateway.policy.rest_client_config import ClientConfig
from gateway.policy.retry import Retry
from gateway.policy.rules.matcher import Rule
from gateway.policy.shadow import ShadowSettings
from gateway.policy.split import Share

NO_TYPES: Final[Mapping[str, MethodType]] = {}
"""Where ``hook_types`` says nothing."""
EVENT_ANSWERS: Final = one_of(*EventAnswers)

DEDUPED: Final = frozenset({"connect", "OnCallEvent"})
"""The methods whose repeats are recognised unless the configuration says otherwise."""
DEDUPE_DEFAULT: Final = 10.0
"""Seconds, for these methods."""
FAILOVER_ON_DEFAULT: Final = frozenset({Cause.UNREACHABLE})
FAILOVER_RESERVE_DEFAULT: Final = 0.4


class Defaults(Section):
    """Settings of every app that does not set its own."""

    upstream: UpstreamChoice = Field(
        default=None,
        description="Upstream of the apps that name none, or several with weights. No default; where there is one, an "
        "app that lacks its upstream is no mistake any more: its hooks go there.",
    )
    failover: Failover = Field(
        default=None,
        description="Upstreams asked, in this order, when the one that decides cannot be reached at all, before the "
        "fallback: one name or a list. Default: none; they answer within the same budget, and must know what the "
        "other knows.",
    )
    failover_on: FailoverOn = Field(
        default=None,
        description="How an upstream may fail so that failover is asked: unreachable (it cannot be reached at all), "
        "timeout, error_status, bad_answer; one or a list. Default: unreachable alone; after any other failure the "
        "upstream may have acted on the hook, and another one acts on it again. timeout also stands for a connection "
        "that broke after the hook was sent, and for one that was not free in time; a 403 is a verdict, and never "
        "asked of another.",
    )
    failover_reserve: Annotated[float | None, FAILOVER_RESERVE] = Field(
        default=None,
        description="Part of the budget kept free for failover, where failover_on has timeout. Default 40%; an "
        "upstream that regularly needs longer than the rest is cut off, and counts as timed out for its breaker too.",
    )
    timeout: Annotated[float, BUDGET] = Field(
        default="3s",
        validate_default=True,
        description="Whole budget of one hook: queueing, connecting, every attempt, the answer's body. Default 3s; "
        "callers wait so long for a backend that hangs, and one that needs longer is answered for by fallback.",
    )
    fallback: Annotated[Fallback, VERDICTS_BY_CAUSE] = Field(
        default="reject",
        validate_default=True,
        description="Verdict when the backend gives none: reject, allow (timeout, unreachable and overload only), or a "
        'mapping of causes, such as {timeout: allow, unreachable: {allow: {callee: "1000"}}}: allow with these fields '
        "of the hook changed. Default reject; allow lets calls through unchecked while the backend is down, and the "
        "media server takes a changed field only where the session's answer to connect lists it (restOverwrite).",
    )
    retry: Annotated[Retry | None, ReadAs(RetrySection, Retry)] = Field(
        default=None,
        description="When another attempt follows a failed one, in place of what every upstream says. Default: the "
        "upstream's; a mapping here replaces that as a whole.",
    )
    dedupe: Annotated[float | None, REPEATS] = Field(
        default=None,
        description="How long a repeat of the very same hook (app, method and body) gets the first one's verdict "
        "without asking the backend; off: never. Default 10s for connect and OnCallEvent, off for all other methods; "
        "set here, it holds for every method. A hook that is repeated on purpose within that time, as "
        "StreamKeepAliveEvent is, is not asked again.",
    )
    max_in_flight: Annotated[int | None, IN_FLIGHT] = Field(
        default=None,
        description="Hooks of each app inside the gateway at once, at all workers together; past it they are "
        "answered at once with the verdict for overload. Default: no limit but server.max_in_flight; "
        "without one, an app whose backend hangs can take all of that.",
    )
    rate_limit: RateLimit = Field(
        default=None,
        description="Hooks of each app in a second (/s), minute (/m) or hour (/h), and how many at once (burst; "
        "without it, a second's worth), at all workers together; past it they are answered at once with the "
        "verdict for overload. Default: off; below what a media server sends in a peak, it refuses calls.",
    )
    rules: DefaultRules = Field(
        default=(),
        description="Rules of every app, met after its own: the first that a hook meets decides it without a backend, "
        "or names its upstream. Default none; also apps with a static verdict have them, but for those that name an "
        "upstream. Plain numbers and those that end in * are looked up; of other globs a list may hold 512.",
    )
    rest_client_config: Annotated[ClientConfigPart | None, CLIENT_CONFIG] = Field(
        default=None,
        description="Whether answers to connect set what makes refusals count: off, warn, enforce, or a mapping. "
        "Default warn, for OnCallEvent; without restOnError=FAIL there, the media server only logs a refusal and the "
        "call goes on.",
    )
    response_check: Annotated[ResponseCheck | None, RESPONSE_CHECK] = Field(
        default=None,
        description="How exactly a 200 must be one JSON object: strict; repair (a byte-order mark, and PHP's notices "
        "before or after the object, are cut away); off (any body is taken). Default strict; with off, an error page "
        "with status 200 is an allow.",
    )
    event_answers: Annotated[EventAnswers | None, EVENT_ANSWERS] = Field(
        default=None,
        description="For methods of type event, which answers mean that it was delivered: any (every 2xx; what is not "
        "one JSON object is answered with the hook's own body) or strict (as for other methods, by "
        "response_check). Default any, but for a text in which PHP reports a fatal error, which is a bad_answer; with "
        "strict, an answer such as 204 or OK counts as a failure.",
    )
    methods: dict[MethodKey, CommonMethod] = Field(
        default={},
        description='Settings by method, for all apps: keys are exact names, globs such as "*StatusEvent", or the '
        "types connect, direct, event and incoming. An exact name counts before the longest glob, that before the "
        "type; of two that are alike, the app's before this one; and each of them before what apps and defaults say "
        "for all methods. Default: none. Without {StreamKeepAliveEvent: {fallback: {timeout: allow, unreachable: "
        "allow, overload: allow, bad_answer: allow, error_status: allow}}}, a backend that fails can end live streams.",
    )


class CommonMethod(Section):
    """Settings of the methods that a key stands for, of all apps; what is left out is the app's, or the defaults'."""

    timeout: Annotated[float | None, BUDGET] = Field(
        default=None,
        description="Whole budget of one hook: queueing, connecting, every attempt, the answer's body. Default: the "
        "next wider level's; a backend that needs longer is answered for by fallback.",
    )
    fallback: Annotated[Fallback | None, VERDICTS_BY_CAUSE] = Field(
        default=None,
        description='Verdict when the backend gives none, per cause; {allow: {callee: "1000"}} allows with these '
        "fields of the hook changed. Default: the next wider level's; a mapping here replaces that as a whole. allow "
        "lets calls through unchecked while the backend is down, and the media server takes a changed field only where "
        "the session's answer to connect lists it (restOverwrite).",
    )
    failover_on: FailoverOn = Field(
        default=None,
        description="How an upstream may fail so that failover is asked: unreachable (it cannot be reached at all), "
        "timeout, error_status, bad_answer; one or a list. Default: the next wider level's, at last unreachable alone; "
        "after any other failure the upstream may have acted on the hook, and another one acts on it again. timeout "
        "also stands for a connection that broke after the hook was sent, and for one that was not free in time; a 403 "
        "is a verdict, and never asked of another.",
    )
    failover_reserve: Annotated[float | None, FAILOVER_RESERVE] = Field(
        default=None,
        description="Part of the budget kept free for failover, where failover_on has timeout. Default: the next wider "
        "level's, at last 40%; an upstream that regularly needs longer than the rest is cut off, and counts as timed "
        "out for its breaker too.",
    )
    retry: Annotated[Retry | None, ReadAs(RetrySection, Retry)] = Field(
        default=None,
        description="When another attempt follows a failed one. Default: the next wider level's, at last the "
        "upstream's; a mapping here replaces that as a whole.",
    )
    dedupe: Annotated[float | None, REPEATS] = Field(
        default=None,
        description="How long a repeat of the very same hook gets the first one's verdict without asking the backend; "
        "off: never. Default: the next wider level's; a hook that is repeated on purpose within that time is not asked "
        "again.",
    )
    response_check: Annotated[ResponseCheck | None, RESPONSE_CHECK] = Field(
        default=None,
        description="How exactly a 200 must be one JSON object: strict, repair or off. Default: the next wider "
        "level's; with off, an error page with status 200 is an allow.",
    )
    event_answers: Annotated[EventAnswers | None, EVENT_ANSWERS] = Field(
        default=None,
        description="For methods of type event, which answers mean that it was delivered: any or strict. Default: the "
        "next wider level's; with strict, an answer such as 204 or OK counts as a failure.",
    )


class Method(CommonMethod):
    """Settings of the methods that a key stands for, of one app; what is left out is the next wider level's."""

    shadow: Annotated[ShadowSettings | Literal["off"] | None, METHOD_SHADOW] = Field(
        default=None,
        description="A candidate that gets copies of this method's hooks, whatever the app's shadow names; or off. "
        "Default: the app's, if it names the method; a mapping here replaces that as a whole.",
    )


class App(Method):
    """Settings of one appKey, or of all that match a glob; what is left out is the defaults'."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["credentials", "signature"]}})

    upstream: UpstreamChoice = Field(
        default=None,
        description="Upstream that decides this app's hooks, or several with weights, among which its sessions are "
        "split. Default: defaults.upstream; a wrong one decides them by somebody else's rules.",
    )
    failover: Failover = Field(
        default=None,
        description="Upstreams asked, in this order, when the one that decides cannot be reached at all, before the "
        "fallback: one name or a list; an empty list for none. Default: defaults.failover; they answer within the same "
        "budget, and must know what the other knows.",
    )
    static: Annotated[Verdict | None, one_of(Verdict.ALLOW, Verdict.REJECT)] = Field(
        default=None,
        description="The verdict for every hook of this app that no rule decides, events included: allow or reject. No "
        "default; no backend is asked or told, so allow lets every call through, and nobody records it.",
    )
    max_in_flight: Annotated[int | None, IN_FLIGHT] = Field(
        default=None,
        description="Hooks of this app inside at once, at all workers together, so that it cannot crowd out "
        "others; all appKeys of a glob share it; past it, the verdict for overload. Default: "
        "defaults.max_in_flight; too small refuses calls in a peak.",
    )
    rate_limit: RateLimit = Field(
        default=None,
        description="Hooks of this app in a second (/s), minute (/m) or hour (/h), and how many at once (burst; "
        "without it, a second's worth), at all workers together; all appKeys of a glob share it; past it, the "
        "verdict for overload; or off. Default: defaults.rate_limit; below what a media server sends in a peak, it "
        "refuses calls.",
    )
    rules: OwnRules = Field(
        default=(),
        description="Rules of this app, met before those of defaults: the first that a hook meets decides it without a "
        "backend, or names its upstream. Default none; order counts, so write the exceptions first. Plain numbers and "
        "those that end in * are looked up; of other globs a list may hold 512.",
    )
    rest_client_config: Annotated[ClientConfigPart | None, CLIENT_CONFIG] = Field(
        default=None,
        description="Whether answers to connect set what makes refusals count: off, warn, enforce, or a mapping, whose "
        "keys are inherited each for itself. Default: defaults.rest_client_config; without restOnError=FAIL there, the "
        "media server only logs a refusal and the call goes on.",
    )
    shadow: Annotated[ShadowSettings | Literal["off"] | None, SHADOW] = Field(
        default=None,
        description="A candidate that gets copies of this app's hooks, without any say; or off. Default: none; it can "
        "neither delay nor change an answer, but what it does on a hook, it does.",
    )
    credentials: Annotated[Credentials | None, NotNull()] = Field(
        default=None,
        description="HTTP Basic credentials that the media server must present: what its restUsername and "
        "restPassword are for this app; without them a hook is answered with 401. Default: none are asked for. "
        "Without TLS they can be read on the way.",
    )
    signature: Annotated[Signature | None, NotNull()] = Field(
        default=None,
        description="The media server's signature of each hook (its rest_hook_send_hash). Default: none is asked for, "
        "and the header goes on as it came.",
    )
    methods: dict[MethodKey, Method] = Field(
        default={},
        description='Settings by method: keys are exact names such as OnCallEvent, globs such as "*StatusEvent", or '
        "the types connect, direct, event and incoming. An exact name counts before the longest glob, that before the "
        "type, for each setting by itself; of two that are alike, this one before that of defaults.methods. Default: "
        "none, the app's hold for all but what defaults.methods names; check warns of a name that it does not know.",
    )


class Settings(NamedTuple):
    """What applies to one app's hooks of one method, every level merged."""

    upstream: str | None
    """None exactly where ``static`` decides."""
    static: Verdict | None
    timeout: float
    """Seconds."""
    fallback: Fallback
    retry: Retry | None = None
    """None = the upstream's."""
    max_in_flight: int | None = None
    """Of the app, whatever the method; None = no limit of its own."""
    dedupe: float | None = None
    """Seconds; None = every repeat asks the backend."""
    credentials: Credentials | None = None
    """Of the app: what a hook must present; None = nothing."""
    signature: Signature | None = None
    """Of the app: whose signature a hook must bear; None = nobody's."""
    split: tuple[Share, ...] = ()
    """Of the app, where several upstreams share its sessions; *upstream* is then the first of them."""
    failover: tuple[str, ...] = ()
    """Of the app: asked in turn where *upstream*, the share, or a rule's cannot be reached; may name these too."""
    client_config: ClientConfig = ClientConfig()
    """Of the app: what its answers to connect are to set."""
    response_check: ResponseCheck = ResponseCheck.STRICT
    event_answers: EventAnswers = EventAnswers.ANY
    """Of methods of type event: for all others it says nothing."""
    rate_limit: Rate | None = None
    """Of the app, for all methods; None = no limit."""
    rules: tuple[Rule, ...] = ()
    """Of the app, its own before those of defaults; a static app has none that names an upstream."""
    shadow: ShadowSettings | None = None
    """Of a method with a shadow of its own, ``methods`` is that one; else it is to be asked whether it names one."""
    failover_on: frozenset[Cause] = FAILOVER_ON_DEFAULT
    """After which failures *failover* is asked."""
    failover_reserve: float = FAILOVER_RESERVE_DEFAULT
    """Part of the budget kept free for *failover*, where it is asked after a timeout."""


def setting_levels(
    app: App, method: str | None, defaults: Defaults, hook_types: Mapping[str, MethodType] = NO_TYPES
) -> Iterator[tuple[tuple[str, ...], CommonMethod | Defaults]]:
    """The places that may set something for hooks of a method: of each setting, the first that has it counts.

    Each with its path: below the app, or from the top of the file where it begins with ``defaults``. *method* may be a
    glob or a type, for what a key itself comes to; None = no key counts.
    """
    for is_own, key in _keys(app, method, defaults, hook_types):
        if is_own:
            yield ("methods", key), app.methods[key]
        else:
            yield ("defaults", "methods", key), defaults.methods[key]
    yield (), app
    yield ("defaults",), defaults


def _keys(
    app: App, method: str | None, defaults: Defaults, hook_types: Mapping[str, MethodType]
) -> tuple[tuple[bool, str], ...]:
    """The keys under ``methods`` that a method meets, the most specific one first; whether each is the app's own."""
    if method is None or not (app.methods or defaults.methods):
        return ()
    kind = MethodType(method) if method in TYPES else method_type(method, hook_types)
    return _ranked(tuple(app.methods), tuple(defaults.methods), method, kind)


@lru_cache(4096)
def _ranked(
    own: tuple[str, ...], common: tuple[str, ...], method: str, kind: MethodType
) -> tuple[tuple[bool, str], ...]:
    """An exact name, then globs, the longest first, then the type; of each, the app's before that of defaults."""
    found: list[tuple[bool, str]] = []
    for mine, wider in zip(*(compile_method_keys(keys).ranks(method, kind) for keys in (own, common)), strict=True):
        found += [(True, key) for key in mine]
        found += [(False, key) for key in wider]
    return tuple(found)


compile_method_keys: Final = lru_cache(1024)(MethodKeys)
"""The keys of a mapping, compiled: most apps have the same ones."""


def merge_settings(
    app: App, method: str | None, defaults: Defaults, hook_types: Mapping[str, MethodType] = NO_TYPES
) -> Settings:
    """What comes of all levels; *method* is None for what the app says for all methods.

    A configuration of 10,000 apps asks fifty thousand times, so this is written for speed: every setting is read at
    most once a level, and one that most apps lack costs a look.
    """
    keys = _keys(app, method, defaults, hook_types)
    levels: list[CommonMethod | Defaults] = [app.methods[key] if own else defaults.methods[key] for own, key in keys]
    levels += [app, defaults]
    rules = app.rules or defaults.rules
    if rules and app.rules:
        rules += defaults.rules
    client_config = merge_client_config(app.rest_client_config, defaults.rest_client_config, hook_types)
    max_in_flight = app.max_in_flight or defaults.max_in_flight
    timeout = _first(levels, "timeout")
    fallback = _first(levels, "fallback")
    if app.static is not None:
        return Settings(
            None, app.static, timeout, fallback, None, max_in_flight, None, app.credentials, app.signature,
            client_config=client_config, rules=tuple(rule for rule in rules if rule.upstream is None),
        )  # fmt: skip
    chosen = app.upstream or defaults.upstream
    split: tuple[Share, ...] = chosen if isinstance(chosen, tuple) else ()
    upstream = chosen[0].name if isinstance(chosen, tuple) else chosen
    failover = defaults.failover if app.failover is None else app.failover
    rate_limit = app.rate_limit or defaults.rate_limit
    failover_on = _first(levels, "failover_on")
    reserve = _first(levels, "failover_reserve") if failover_on else None
    return Settings(
        upstream,
        None,
        timeout,
        fallback,
        _first(levels, "retry"),
        max_in_flight,
        _dedupe(levels, method),
        app.credentials,
        app.signature,
        split,
        _others(failover, upstream, split, rules) if failover else (),
        client_config,
        _first(levels, "response_check") or ResponseCheck.STRICT,
        _first(levels, "event_answers") or EventAnswers.ANY,
        None if isinstance(rate_limit, str) else rate_limit,
        rules,
        _shadow(app, keys),
        FAILOVER_ON_DEFAULT if failover_on is None else frozenset(failover_on),
        FAILOVER_RESERVE_DEFAULT if reserve is None else reserve,
    )


def plain_settings(every: Settings, app: App, method: str | None, defaults: Defaults) -> Settings:
    """The same for a method that no key under ``methods`` stands for: nearly what the app has for *every* method."""
    dedupe = None if every.static is not None else _dedupe((app, defaults), method)
    return every if dedupe == every.dedupe else every._replace(dedupe=dedupe)


def _first(levels: Sequence[CommonMethod | Defaults], name: str) -> Any:
    """A setting of the first level that has it."""
    for level in levels:
        value = getattr(level, name)
        if value is not None:
            return value
    return None


def _dedupe(levels: Sequence[CommonMethod | Defaults], method: str | None) -> float | None:
    for level in levels:
        seconds = level.dedupe
        if seconds is not None or "dedupe" in level.model_fields_set:  # None is a value here: off
            return seconds
    return DEDUPE_DEFAULT if method in DEDUPED else None


def _others(
    failover: tuple[str, ...], upstream: str | None, split: tuple[Share, ...], rules: tuple[Rule, ...]
) -> tuple[str, ...]:
    """Without the one that is asked anyway; where it may be one of several, it is left out when it was asked."""
    if split or any(rule.upstream is not None for rule in rules):
        return failover
    return tuple(name for name in failover if name != upstream)


def _shadow(app: App, keys: Sequence[tuple[bool, str]]) -> ShadowSettings | None:
    for own, key in keys:
        if own and (shadow := app.methods[key].shadow) is not None:
            return None if isinstance(shadow, str) else shadow._replace(methods=(key,))
    return None if isinstance(app.shadow, str) else app.shadow


Defaults.model_rebuild()  # it names a section that comes after it
