"""Finds the Route of an appKey and a method: an immutable table, computed when the configuration is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Any, Final, NamedTuple

import msgspec

from gateway.config import DEDUPED, Config, Settings
from gateway.model.decision import OTHER_METHOD
from gateway.model.hooks import MethodType, method_type
from gateway.model.verdicts import Cause, Fallback, Verdict
from gateway.policy.access import BasicCredentials, Signature
from gateway.policy.event_answers import EventAnswers, EventCheck
from gateway.policy.method_keys import MethodKeys, is_name, known_methods
from gateway.policy.rate_limit import Rate
from gateway.policy.repair import ResponseCheck
from gateway.policy.rest_client_config import ClientConfig, Mode
from gateway.policy.retry import Retry
from gateway.policy.rules.globs import compile_glob, fold, is_glob
from gateway.policy.rules.matcher import Rule, Rules, method_globs
from gateway.policy.shadow import Shadow, ShadowSettings, find_shadow
from gateway.policy.split import Split
from gateway.policy.spooling import NEVER_SPOOLED, RESERVE, SpoolSettings
from gateway.proxy.tenants import Tenant

Guard = BasicCredentials | Signature


class Route(msgspec.Struct, frozen=True, gc=False):
    """What applies to the hooks of a method; apps with the same settings share it."""

    upstream: str | None
    """None where *static* decides; the first one where sessions are split."""
    static: Verdict | None
    budget: float
    """Seconds for the whole hook."""
    fallback: Fallback
    retry: Retry
    inherits_retry: bool
    """Whether *retry* comes from the upstream; another upstream then uses its own."""
    dedupe: float | None
    """Seconds for which a hook that comes again byte for byte gets the same verdict; None = each hook is decided."""
    guard: Guard | None
    """The proof of origin that a hook must bring; None = none."""
    sign_with: bytes | None
    """The key to sign hooks for the backend with, in place of the media server's signature."""
    max_in_flight: int | None
    """Hooks of the app that may be at backends at once; None = no limit of its own."""
    is_plain: bool
    """Whether *upstream* is certain without looking at the hook."""
    rules: Rules | None
    split: Split | None
    failover: tuple[str, ...]
    """Asked in turn when the upstream fails with one of the causes in *failover_on*."""
    rate: Rate | None
    """How fast hooks of the app may come; None = no limit."""
    client_config: ClientConfig | None
    """What answers to connect must set; None = they are not checked."""
    connects: bool
    """Whether the hook begins a session and its answer is checked."""
    response_check: ResponseCheck | EventCheck
    shadow: Shadow | None
    failover_on: frozenset[Cause]
    upstream_budget: float
    """Seconds for its upstreams: the budget, less what it takes to keep an event that they do not take."""
    first_budget: float | None
    """Seconds for the first of them, so that *failover* has time left; None = *upstream_budget*."""
    spool: SpoolSettings | None
    """Of methods of type event: how one is kept that could not be delivered; None = it is not."""


_MAX_OTHERS: Final = 1024
"""Unknown methods whose class is cached, per set of keys: their names come from outside."""
_MAX_CLASSES: Final = 256
"""Classes of methods whose routes are cached, per app."""


class MethodClass(NamedTuple):
    """Methods to which the same settings apply, in every app with the same keys under ``methods``."""

    example: str | None
    """One of them; None = any method that no key names."""
    kind: MethodType
    """Their type, as far as it matters for routes."""
    is_named: bool
    """Whether a key under ``methods`` matches them."""


class MethodClasses(dict[str, int]):
    """From a method's name to the index of its class; class 0 is that of methods that no key names.

    Known methods are in it from the start; another is added when its first hook comes. Apps with the same keys under
    ``methods`` share it.
    """

    def __init__(self, own: Collection[str], common: Collection[str], kinds: _MethodTypes) -> None:
        self._own, self._common, self._kinds = MethodKeys(own), MethodKeys(common), kinds
        nothing_said = ((((), (), ()), ((), (), ())), False, MethodType.DIRECT, False)
        self._places: dict[object, int] = {nothing_said: 0}
        self.all: list[MethodClass] = [MethodClass(None, MethodType.DIRECT, is_named=False)]
        """Those found so far."""
        for method in (*known_methods(kinds.hook_types), *filter(is_name, (*own, *common))):
            self[method] = self._class_index(method)
        self._max_known = len(self) + _MAX_OTHERS

    def __missing__(self, method: str) -> int:
        place = self._class_index(method)
        if len(self) < self._max_known:
            self[method] = place
        return place

    def _class_index(self, method: str) -> int:
        kind = method_type(method, self._kinds.hook_types)
        matters = self._kinds.relevant_type(kind)
        ranks = self._own.ranks(method, kind), self._common.ranks(method, kind)
        unkept = matters is MethodType.EVENT and method in NEVER_SPOOLED
        place = self._places.setdefault((ranks, method in DEDUPED, matters, unkept), len(self.all))
        if place == len(self.all):
            self.all.append(MethodClass(method, matters, is_named=any(map(any, ranks))))
        return place


class _MethodTypes:
    """The types of methods, as far as routes depend on them."""

    def __init__(self, config: Config) -> None:
        self.hook_types = config.hook_types
        rules = chain(config.defaults.rules, *(app.rules for app in config.apps.values()))
        named = {fold(method) for rule in rules for method in rule.methods}
        for app in config.apps.values():
            named.update(key for key, own in app.methods.items() if own.shadow is not None)
            if isinstance(app.shadow, ShadowSettings):
                named.update(map(fold, app.shadow.methods))
        self._all = bool(named & {MethodType.DIRECT, MethodType.INCOMING})

    def relevant_type(self, kind: MethodType) -> MethodType:
        """The type, or ``direct`` where it makes no difference."""
        return kind if self._all or kind in (MethodType.CONNECT, MethodType.EVENT) else MethodType.DIRECT


class _AppRoutes(dict[int, Route]):
    """An app's routes by the index of their class; a missing one is built."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[int], Route]) -> None:
        self._make = make

    def __missing__(self, place: int) -> Route:
        route = self._make(place)
        if len(self) < _MAX_CLASSES:
            self[place] = route
        return route


class App(msgspec.Struct, gc=False):
    """An app of the configuration, compiled."""

    name: str
    """The configured name or glob."""
    classes: MethodClasses
    routes: Mapping[int, Route]
    tenant: Tenant
    """Its live state; a reload puts the existing one in its place."""

    @property
    def default(self) -> Route:
        """The route of methods that no key names."""
        return self.routes[0]

    def route(self, method: str) -> Route:
        """The route of a method."""
        return self.routes[self.classes[method]]


class Match(NamedTuple):
    """A route, and why it applies, for people."""

    app: str
    """The configured name or glob."""
    route: Route
    reason: str


class RuleNames(Container[tuple[str, str]]):
    """All (app, rule) pairs by name; the rules of ``defaults`` are stored once."""

    def __init__(self, config: Config) -> None:
        self._apps = frozenset(config.apps)
        self._common = frozenset(rule.name for rule in config.defaults.rules)
        self._own = {name: frozenset(rule.name for rule in app.rules) for name, app in config.apps.items() if app.rules}

    def __contains__(self, pair: Any) -> bool:
        app, rule = pair
        return app in self._apps and (rule in self._common or rule in self._own.get(app, ()))


class Table:
    """All routes of one configuration. A look-up takes the same time for ten apps and for ten thousand."""

    def __init__(self, config: Config) -> None:
        routes = _RouteBuilder(config)
        self._apps = {name: routes.app(name) for name in config.apps}
        routes.forget()
        self._exact: dict[str, App] = {}
        prefixes: dict[int, dict[str, App]] = {}
        globs: list[tuple[str, re.Pattern[str], App]] = []
        for name, compiled in self._apps.items():
            if not is_glob(name):
                self._exact[name] = compiled
            elif is_glob(name[:-1]) or not name.endswith("*"):
                globs.append((name, compile_glob(name), compiled))
            else:
                prefixes.setdefault(len(name) - 1, {})[name[:-1]] = compiled
        # ``prefix*`` is the usual glob: it is found by its prefix, longest first, in the same time for any number.
        self._prefixes = sorted(prefixes.items(), reverse=True)
        self._globs = sorted(globs, key=lambda entry: len(entry[0]), reverse=True)
        self._other = None if config.unknown_app == "reject" else self._apps[config.unknown_app]
        self.shared_upstreams = self._sharing()
        """The upstreams that several apps use."""
        self.rules = RuleNames(config)
        configured = set(config.defaults.methods).union(*(app.methods for app in config.apps.values()))
        self._labels = {name: name for name in (*known_methods(config.hook_types), *filter(is_name, configured))}

    @property
    def apps(self) -> Iterable[App]:
        """Every app."""
        return self._apps.values()

    def __contains__(self, app: str) -> bool:
        """Whether an app, or a glob, of exactly this name is configured."""
        return app in self._apps

    def find(self, app_key: str, method: str) -> tuple[Tenant, Route] | None:
        """The app and route of a hook; None if no app matches."""
        app = self._exact.get(app_key) or self._by_glob(app_key) or self._other
        return None if app is None else (app.tenant, app.routes[app.classes[method]])

    def explain(self, app_key: str, method: str) -> Match | None:
        """The route of a hook, with the reason in words; None if no app matches."""
        found = self.find(app_key, method)
        if found is None:
            return None
        tenant, route = found
        if app_key in self._exact:
            reason = "an app of exactly this name is configured"
        elif self._by_glob(app_key) is not None:
            reason = f"{tenant.name!r} is the longest glob that matches"
        else:
            reason = f"no app matches; unknown_app names {tenant.name!r}"
        return Match(tenant.name, route, reason)

    def route_for(self, app: str, method: str | None) -> Route:
        """The route of a configured app for a method, or for methods that no key names (None)."""
        compiled = self._apps[app]
        return compiled.default if method is None else compiled.route(method)

    def method_label(self, method: str) -> str:
        """The method as a metric label: bounded by the catalogue and the configuration."""
        return self._labels.get(method, OTHER_METHOD)

    def _sharing(self) -> set[str]:
        users: dict[str, int] = {}
        for name, app in self._apps.items():
            for upstream in set[str]().union(*map(route_upstreams, app.routes.values())):
                users[upstream] = users.get(upstream, 0) + (2 if is_glob(name) else 1)
        return {upstream for upstream, apps in users.items() if apps > 1}

    def _by_glob(self, app_key: str) -> App | None:
        found: App | None = None
        length = -1
        for size, apps in self._prefixes:
            if size <= len(app_key) and (app := apps.get(app_key[:size])) is not None:
                found, length = app, size + 1
                break
        for name, pattern, app in self._globs:
            if len(name) <= length:
                break
            if pattern.fullmatch(app_key):
                return app
        return found


def route_upstreams(route: Route) -> set[str]:
    """The upstreams that may decide a hook of this route."""
    names = set(route.failover)
    if route.upstream is not None:
        names.add(route.upstream)
    if route.split is not None:
        names |= route.split.names
    if route.rules is not None:
        names |= route.rules.upstreams
    return names


class _RouteBuilder:
    """Builds routes, each once: apps with the same settings share them, which keeps them in the caches."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._kinds = _MethodTypes(config)
        self._classes: dict[tuple[str, ...], MethodClasses] = {}
        self._rules: dict[tuple[object, ...], Rules | None] = {}
        self._routes: dict[tuple[object, ...], Route] = {}
        self._shared: dict[tuple[int, ...], _AppRoutes] = {}
        self._settings: list[Settings] = []
        """Those of each route: while they are referenced, the ``id`` of a part of them is not reused."""

    def forget(self) -> None:
        """Release what is needed only while routes are built for all apps."""
        self._routes.clear()
        self._shared.clear()
        self._settings.clear()

    def app(self, name: str) -> App:
        """An app, with the routes of every class known so far."""
        app = self._config.apps[name]
        keys = tuple(app.methods)
        classes = self._classes.get(keys)
        if classes is None:
            classes = self._classes[keys] = MethodClasses(keys, tuple(self._config.defaults.methods), self._kinds)
        every = self._config.settings(name, None)
        own = _AppRoutes(partial(self._class_route, name, classes, None))
        for place in range(len(classes.all)):
            own[place] = self._class_route(name, classes, every, place)
        if not any(map(is_glob, (*keys, *self._config.defaults.methods))):
            # These get no further class: apps that are the same now stay the same.
            own = self._shared.setdefault((id(classes), *map(id, own.values())), own)
        return App(name, classes, own, Tenant(name))

    def _class_route(self, name: str, classes: MethodClasses, every: Settings | None, place: int) -> Route:
        method, kind, is_named = classes.all[place]
        if is_named or every is None:
            settings = self._config.settings(name, method)
        else:
            settings = self._config.plain_settings(name, method, every)
        rules = self._compile_rules(self._config.apps[name].rules, kind, static=settings.static is not None)
        return self._build_route(kind, settings, rules)

    def _build_route(self, kind: MethodType, settings: Settings, rules: Rules | None) -> Route:
        key = (
            kind is MethodType.CONNECT, _response_check(settings, kind), settings.upstream, settings.static,
            settings.timeout, settings.fallback, settings.retry,
            settings.max_in_flight, settings.dedupe, id(settings.credentials), id(settings.signature), settings.split,
            settings.failover, id(settings.client_config), settings.rate_limit, id(rules),
            settings.shadow, settings.shadow and kind, settings.failover_on, settings.failover_reserve,
            _spool(settings, kind),
        )  # fmt: skip
        route = self._routes.get(key)
        if route is None:
            route = self._routes[key] = _build_route(self._config, kind, settings, rules)
            self._settings.append(settings)
        return route

    def _compile_rules(self, own: tuple[Rule, ...], kind: MethodType, *, static: bool) -> Rules | None:
        """The rules that can match methods of this type; None if there are none. A static app uses no upstream."""
        more = None
        if common := self._config.defaults.rules:
            more = self._share_rules(
                tuple(it for it in common if it.upstream is None) if static else common, kind, None
            )
        return self._share_rules(own, kind, more) if own else more

    def _share_rules(self, rules: tuple[Rule, ...], kind: MethodType, more: Rules | None) -> Rules | None:
        scopes = tuple(method_globs(rule, kind) for rule in rules)
        if not any(methods is not None for methods in scopes):
            return more
        key = (rules, scopes, id(more))
        compiled = self._rules.get(key)
        if compiled is None:
            compiled = self._rules[key] = Rules(rules, more, kind)
        return compiled


def _response_check(settings: Settings, kind: MethodType) -> ResponseCheck | EventCheck:
    """What an answer must be to count as a verdict."""
    check = settings.response_check
    if kind is not MethodType.EVENT or settings.event_answers is EventAnswers.STRICT:
        return check
    return EventCheck.REPAIR if check is ResponseCheck.REPAIR else EventCheck.ANY


def _build_route(config: Config, kind: MethodType, settings: Settings, rules: Rules | None) -> Route:
    client_config = settings.client_config if settings.client_config.mode is not Mode.OFF else None
    return Route(
        upstream=settings.upstream,
        static=settings.static,
        budget=settings.timeout,
        fallback=settings.fallback,
        retry=settings.retry or _upstream_retry(config, settings.upstream),
        inherits_retry=settings.retry is None,
        dedupe=settings.dedupe,
        guard=_guard(settings),
        sign_with=_upstream_key(settings),
        max_in_flight=settings.max_in_flight,
        is_plain=rules is None and not settings.split and settings.upstream is not None,
        rules=rules,
        split=Split(settings.split) if settings.split else None,
        failover=settings.failover,
        rate=settings.rate_limit,
        client_config=client_config,
        connects=kind is MethodType.CONNECT and client_config is not None,
        response_check=_response_check(settings, kind),
        shadow=find_shadow(settings.shadow, None, kind),
        failover_on=settings.failover_on,
        upstream_budget=_upstream_budget(settings, kind),
        first_budget=_first_budget(settings, kind),
        spool=_spool(settings, kind),
    )


def _spool(settings: Settings, kind: MethodType) -> SpoolSettings | None:
    """The class of methods that no key names has what is said for all methods."""
    return settings.spool if kind is MethodType.EVENT else None


def _upstream_budget(settings: Settings, kind: MethodType) -> float:
    """Seconds for the upstreams; where events are kept, at least half of the budget."""
    budget = settings.timeout
    return budget if _spool(settings, kind) is None else max(budget - RESERVE, budget / 2.0)


def _first_budget(settings: Settings, kind: MethodType) -> float | None:
    """Seconds for the first upstream; only a timeout uses up the time, so only then it must leave some."""
    if not settings.failover or Cause.TIMEOUT not in settings.failover_on or not settings.failover_reserve:
        return None
    return _upstream_budget(settings, kind) * (1.0 - settings.failover_reserve)


def _guard(settings: Settings) -> Guard | None:
    if settings.credentials is not None:
        return BasicCredentials(settings.credentials.username, settings.credentials.password.get_secret_value())
    if settings.signature is not None and settings.signature.mode == "verify":
        return Signature([key.get_secret_value() for key in settings.signature.keys])
    return None


def _upstream_key(settings: Settings) -> bytes | None:
    signature = settings.signature
    return (
        None
        if signature is None or signature.upstream_key is None
        else signature.upstream_key.get_secret_value().encode()
    )


def _upstream_retry(config: Config, upstream: str | None) -> Retry:
    return Retry() if upstream is None else config.upstreams[upstream].retry
