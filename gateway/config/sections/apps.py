"""The settings of apps and of their methods, the defaults of both, and what applies when all levels are merged."""

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
from gateway.config.sections.spool import SPOOL
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
from gateway.policy.rules.globs import is_glob
from gateway.policy.rules.matcher import Rule
from gateway.policy.shadow import ShadowSettings
from gateway.policy.split import Share
from gateway.policy.spooling import NEVER_SPOOLED, SpoolSettings

NO_TYPES: Final[Mapping[str, MethodType]] = {}
"""An empty ``hook_types``."""
EVENT_ANSWERS: Final = one_of(*EventAnswers)

DEDUPED: Final = frozenset({"connect", "OnCallEvent"})
"""Methods whose repeats are recognised by default."""
DEDUPE_DEFAULT: Final = 10.0
"""Seconds, for these methods."""
FAILOVER_ON_DEFAULT: Final = frozenset({Cause.UNREACHABLE})
FAILOVER_RESERVE_DEFAULT: Final = 0.4


_TIMEOUT: Final = (
    "Time budget of one hook: queueing, connecting, every attempt, and reading the answer. Default: 3s, unless a "
    "wider level sets it. If the backend needs longer, fallback answers."
)
_FALLBACK: Final = (
    "Verdict if the backend gives none: reject, allow (for timeout, unreachable and overload only), or a mapping of "
    'causes, such as {timeout: allow, unreachable: {allow: {callee: "1000"}}}, where allow changes these fields of '
    "the hook. Default: reject, unless a wider level sets it. A mapping replaces the wider level's entirely. allow "
    "lets calls through unchecked while the backend is down, and the media server takes a changed field only if the "
    "session's answer to connect lists it (restOverwrite)."
)


class AppSettings(Section):
    """Settings of apps, which may also be set for all of them in defaults."""

    upstream: UpstreamChoice = Field(
        default=None,
        description="Upstream that decides the app's hooks, or several with weights, among which its sessions are "
        "split. Default: that of defaults, if any. A wrong one applies another tenant's rules; and with one in "
        "defaults, an app that lacks its own is not reported.",
    )
    failover: Failover = Field(
        default=None,
        description="Upstreams tried in this order, before the fallback, when the upstream that decides fails in a "
        "way that failover_on lists: one name or a list; an empty list means none. Default: that of defaults, if any. "
        "They answer within the same budget, and need the same data as the upstream that decides.",
    )
    max_in_flight: Annotated[int | None, IN_FLIGHT] = Field(
        default=None,
        description="Hooks of the app in the gateway at once, over all workers, and with state over the whole fleet; "
        "past it, they are answered at once with the verdict for overload. All appKeys of a glob share one limit. "
        "Default: that of defaults, or no limit but server.max_in_flight. Too small rejects calls in a peak; without "
        "a limit, an app whose backend hangs can use up server.max_in_flight.",
    )
    rate_limit: RateLimit = Field(
        default=None,
        description="Hooks of the app per second (/s), minute (/m) or hour (/h), and how many at once (burst; without "
        "it, one second's worth), over all workers, and with state over the whole fleet; or off. Past it, hooks are "
        "answered at once with the verdict for overload. All appKeys of a glob share one limit. Default: that of "
        "defaults, or off. Below the media server's peak rate, it rejects calls.",
    )
    rest_client_config: Annotated[ClientConfigPart | None, CLIENT_CONFIG] = Field(
        default=None,
        description="Whether answers to connect set what makes rejections count: off, warn, enforce, or a mapping, "
        "whose keys are inherited one by one. Default: that of defaults, or warn, for OnCallEvent. Without "
        "restOnError=FAIL there, the media server only logs a rejection, and the call continues.",
    )


class CommonMethod(Section):
    """Settings of all apps for the methods that a key matches; what is left out comes from the next wider level."""

    timeout: Annotated[float | None, BUDGET] = Field(default=None, description=_TIMEOUT)
    fallback: Annotated[Fallback | None, VERDICTS_BY_CAUSE] = Field(default=None, description=_FALLBACK)
    failover_on: FailoverOn = Field(
        default=None,
        description="Failures of an upstream after which failover is tried: unreachable (it cannot be reached at "
        "all), timeout, error_status, bad_answer; one or a list. Default: unreachable alone, unless a wider level "
        "sets it. After any other failure the upstream may have processed the hook, and the next one processes it "
        "again. timeout includes a connection that broke after the hook was sent, and one that was not free in time. "
        "A 403 is a verdict, and never sent to another upstream.",
    )
    failover_reserve: Annotated[float | None, FAILOVER_RESERVE] = Field(
        default=None,
        description="Share of the budget kept free for failover, where failover_on lists timeout. Default: 40%, "
        "unless a wider level sets it. An upstream that regularly needs longer than the rest is cut off, and its "
        "breaker counts that as a timeout.",
    )
    retry: Annotated[Retry | None, ReadAs(RetrySection, Retry)] = Field(
        default=None,
        description="When a failed attempt is followed by another. Default: the upstream's, unless a wider level sets "
        "it. A mapping here replaces that entirely.",
    )
    dedupe: Annotated[float | None, REPEATS] = Field(
        default=None,
        description="How long a repeat of the same hook (app, method and body) gets the first one's verdict without "
        "asking the backend; off: never. Default: 10s for connect and OnCallEvent, off for all others, unless a wider "
        "level sets it. Set for all methods, it applies to every one of them. A hook that is repeated on purpose "
        "within that time, as StreamKeepAliveEvent is, does not reach the backend again.",
    )
    response_check: Annotated[ResponseCheck | None, RESPONSE_CHECK] = Field(
        default=None,
        description="How strictly a 200 must be one JSON object: strict; repair (removes a byte-order mark, and PHP's "
        "notices before or after the object); off (accepts any body). Default: strict, unless a wider level sets it. "
        "With off, an error page with status 200 is an allow.",
    )
    event_answers: Annotated[EventAnswers | None, EVENT_ANSWERS] = Field(
        default=None,
        description="For methods of type event, which answers count as delivered: any (every 2xx; for what is not one "
        "JSON object, the media server gets the hook's own body) or strict (as for other methods, by response_check). "
        "Default: any, unless a wider level sets it. Even with any, text in which PHP reports a fatal error is a "
        "bad_answer; with strict, an answer such as 204 or OK is a failure.",
    )
    spool: Annotated[SpoolSettings | Literal["off"] | None, SPOOL] = Field(
        default=None,
        description="For methods of type event: on, a mapping, or off. An event that its upstream, and those of "
        "failover, do not take is kept in the store, answered with 200, and delivered later, in order per call; "
        "fallback is only for one that cannot be kept. Default: off, unless a wider level sets it. A mapping here "
        "replaces that entirely. The upstream gets 100ms less than timeout. An event whose first attempt timed out may "
        "reach the backend twice, both times with the same Idempotency-Key. StreamKeepAliveEvent is never kept.",
    )


class Defaults(CommonMethod, AppSettings):
    """Settings of every app that does not set its own."""

    timeout: Annotated[float, BUDGET] = Field(default="3s", validate_default=True, description=_TIMEOUT)
    fallback: Annotated[Fallback, VERDICTS_BY_CAUSE] = Field(
        default="reject", validate_default=True, description=_FALLBACK
    )
    rules: DefaultRules = Field(
        default=(),
        description="Rules of every app, tried after its own: the first match decides the hook without a backend, or "
        "names its upstream. Default: none. Apps with a static verdict have them too, except those that name an "
        "upstream. Plain numbers and numbers that end in * are looked up; a list may have at most 512 other globs.",
    )
    methods: dict[MethodKey, CommonMethod] = Field(
        default={},
        description="Settings by method, for all apps: keys are exact names such as OnCallEvent, globs such as "
        '"*StatusEvent", or the types connect, direct, event and incoming. For each setting, an exact name comes '
        "before the longest glob, and that before the type; of two that are alike, the app's comes first. All of them "
        "come before what apps and defaults say for all methods. Default: none. Without {StreamKeepAliveEvent: "
        "{fallback: {timeout: allow, unreachable: allow, overload: allow, bad_answer: allow, error_status: allow}}}, "
        "a failing backend can end live streams.",
    )


class Method(CommonMethod):
    """Settings of one app for the methods that a key matches; what is left out comes from the next wider level."""

    shadow: Annotated[ShadowSettings | Literal["off"] | None, METHOD_SHADOW] = Field(
        default=None,
        description="A candidate that gets copies of this method's hooks, instead of the one in the app's shadow; or "
        "off. Default: the app's, if it lists the method. A mapping here replaces that entirely.",
    )


class App(Method, AppSettings):
    """Settings of one appKey, or of all that match a glob; what is left out comes from defaults."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["credentials", "signature"]}})

    static: Annotated[Verdict | None, one_of(Verdict.ALLOW, Verdict.REJECT)] = Field(
        default=None,
        description="Verdict for every hook of this app that no rule decides, events included: allow or reject. No "
        "default. No backend gets these hooks: allow lets every call through, and nobody records it.",
    )
    rules: OwnRules = Field(
        default=(),
        description="Rules of this app, tried before those of defaults: the first match decides the hook without a "
        "backend, or names its upstream. Default: none. Order counts, so write the exceptions first. Plain numbers "
        "and numbers that end in * are looked up; a list may have at most 512 other globs.",
    )
    shadow: Annotated[ShadowSettings | Literal["off"] | None, SHADOW] = Field(
        default=None,
        description="A candidate that gets copies of this app's hooks, but does not decide; or off. Default: none. It "
        "can neither delay nor change an answer, but it does act on the hooks.",
    )
    credentials: Annotated[Credentials | None, NotNull()] = Field(
        default=None,
        description="HTTP Basic credentials that the media server must send: its restUsername and restPassword for "
        "this app; without them, a hook is answered with 401. Default: none are required. Without TLS they can be "
        "read in transit.",
    )
    signature: Annotated[Signature | None, NotNull()] = Field(
        default=None,
        description="The media server's signature of each hook (its rest_hook_send_hash). Default: none is required, "
        "and the header is forwarded unchanged.",
    )
    methods: dict[MethodKey, Method] = Field(
        default={},
        description='Settings by method: keys are exact names such as OnCallEvent, globs such as "*StatusEvent", or '
        "the types connect, direct, event and incoming. For each setting, an exact name comes before the longest "
        "glob, and that before the type; of two that are alike, the app's comes first. All of them come before what "
        "apps and defaults say for all methods. Default: none. gateway check warns of a name that it does not know.",
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
    """Of the app, for all methods; None = no limit of its own."""
    dedupe: float | None = None
    """Seconds; None = every repeat asks the backend."""
    credentials: Credentials | None = None
    """Of the app: what a hook must present; None = nothing."""
    signature: Signature | None = None
    """Of the app: the signature that a hook must have; None = none."""
    split: tuple[Share, ...] = ()
    """Of the app, where several upstreams share its sessions; *upstream* is then the first of them."""
    failover: tuple[str, ...] = ()
    """Of the app: asked in turn where *upstream*, the share, or a rule's cannot be reached; may name these too."""
    client_config: ClientConfig = ClientConfig()
    """Of the app: what its answers to connect should set."""
    response_check: ResponseCheck = ResponseCheck.STRICT
    event_answers: EventAnswers = EventAnswers.ANY
    """Of methods of type event: it does not apply to others."""
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
    spool: SpoolSettings | None = None
    """Of methods of type event: how events are kept that could not be delivered; None = they are not."""


def setting_levels(
    app: App, method: str | None, defaults: Defaults, hook_types: Mapping[str, MethodType] = NO_TYPES
) -> Iterator[tuple[tuple[str, ...], CommonMethod]]:
    """The places that may set something for hooks of a method: of each setting, the first place that has it applies.

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
    """The result of all levels; *method* is None for what the app says for all methods.

    A configuration of 10,000 apps calls this fifty thousand times, so it is written for speed: every setting is read at
    most once a level, and one that most apps lack costs one lookup.
    """
    keys = _keys(app, method, defaults, hook_types)
    levels: list[CommonMethod] = [app.methods[key] if own else defaults.methods[key] for own, key in keys]
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
            upstream=None,
            static=app.static,
            timeout=timeout,
            fallback=fallback,
            max_in_flight=max_in_flight,
            credentials=app.credentials,
            signature=app.signature,
            client_config=client_config,
            rules=tuple(rule for rule in rules if rule.upstream is None),
        )
    chosen = app.upstream or defaults.upstream
    split: tuple[Share, ...] = chosen if isinstance(chosen, tuple) else ()
    upstream = chosen[0].name if isinstance(chosen, tuple) else chosen
    failover = defaults.failover if app.failover is None else app.failover
    rate_limit = app.rate_limit or defaults.rate_limit
    failover_on = _first(levels, "failover_on")
    reserve = _first(levels, "failover_reserve") if failover_on else None
    return Settings(
        upstream=upstream,
        static=None,
        timeout=timeout,
        fallback=fallback,
        retry=_first(levels, "retry"),
        max_in_flight=max_in_flight,
        dedupe=_dedupe(levels, method),
        credentials=app.credentials,
        signature=app.signature,
        split=split,
        failover=_others(failover, upstream, split, rules) if failover else (),
        client_config=client_config,
        response_check=_first(levels, "response_check") or ResponseCheck.STRICT,
        event_answers=_first(levels, "event_answers") or EventAnswers.ANY,
        rate_limit=None if isinstance(rate_limit, str) else rate_limit,
        rules=rules,
        shadow=_shadow(app, keys),
        failover_on=FAILOVER_ON_DEFAULT if failover_on is None else frozenset(failover_on),
        failover_reserve=FAILOVER_RESERVE_DEFAULT if reserve is None else reserve,
        spool=_spool(_first(levels, "spool"), method, hook_types),
    )


def plain_settings(
    every: Settings,
    app: App,
    method: str | None,
    defaults: Defaults,
    hook_types: Mapping[str, MethodType] = NO_TYPES,
) -> Settings:
    """The same for a method that no key under ``methods`` matches: nearly what the app has for *every* method."""
    dedupe = None if every.static is not None else _dedupe((app, defaults), method)
    spool = _spool(every.spool, method, hook_types)
    if dedupe == every.dedupe and spool is every.spool:
        return every
    return every._replace(dedupe=dedupe, spool=spool)


def _first(levels: Sequence[CommonMethod], name: str) -> Any:
    """A setting of the first level that has it."""
    for level in levels:
        value = getattr(level, name)
        if value is not None:
            return value
    return None


def _dedupe(levels: Sequence[CommonMethod], method: str | None) -> float | None:
    for level in levels:
        seconds = level.dedupe
        if seconds is not None or "dedupe" in level.model_fields_set:  # None is a value here: off
            return seconds
    return DEDUPE_DEFAULT if method in DEDUPED else None


def _spool(
    value: SpoolSettings | str | None, method: str | None, hook_types: Mapping[str, MethodType]
) -> SpoolSettings | None:
    """What is written of the spool, where it applies; of a glob, and of all methods, it is not asked."""
    if value is None or isinstance(value, str):
        return None
    if method is None or is_glob(method):
        return value
    kind = MethodType(method) if method in TYPES else method_type(method, hook_types)
    return value if kind is MethodType.EVENT and method not in NEVER_SPOOLED else None


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
