"""From appKey and method to a Route: an immutable table, all of it worked out when the configuration is loaded."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from gateway.access import BasicCredentials, Signature
from gateway.clientconfig import ClientConfig, Mode
from gateway.config import DEDUPED, Config, Settings
from gateway.hooks import CATALOGUE, MethodType, method_type
from gateway.ratelimit import Rate
from gateway.repair import ResponseCheck
from gateway.retry import Retry
from gateway.rules.globs import compile_glob, is_glob
from gateway.rules.screening import Rule, Rules
from gateway.shadow import Shadow, shadow_of
from gateway.split import Split
from gateway.tenants import Tenant
from gateway.verdicts import Cause, Fallback, Verdict

OTHER_METHOD = "_other"


Guard = BasicCredentials | Signature


class Route(msgspec.Struct, frozen=True, gc=False):
    """What awaits a hook of one method; apps that are configured alike share it."""

    method: str | None
    """The configured method whose settings these are; None = the app's own."""
    upstream: str | None
    """None where *static* decides; the first of them where several share the sessions."""
    static: Verdict | None
    budget: float
    """Seconds for the whole hook."""
    fallback: Fallback
    retry: Retry
    inherits_retry: bool
    """Whether *retry* is its upstream's; another upstream then has its own."""
    dedupe: float | None
    """Seconds for which a hook that comes again byte for byte gets the same verdict; None = each is asked."""
    guard: Guard | None
    """What a hook must prove; None = nothing."""
    sign_with: bytes | None
    """Key of the signature that the backend gets in place of the media server's."""
    max_in_flight: int | None
    """Hooks of the app that backends are asked for at once; None = no limit of its own."""
    is_plain: bool
    """Whether *upstream* is known without looking at the hook."""
    rules: Rules | None
    split: Split | None
    failover: tuple[str, ...]
    """Asked in turn where the upstream fails in one of the ways of *failover_on*."""
    rate: Rate | None
    """How fast hooks of the app may come; None = as fast as they like."""
    client_config: ClientConfig | None
    """What answers to connect are to set; None = they are not looked at."""
    connects: bool
    """Whether a session begins with this hook, and its answer is to be looked at."""
    response_check: ResponseCheck
    shadow: Shadow | None
    failover_on: frozenset[Cause]
    first_budget: float | None
    """Seconds that the upstream has before *failover* gets its time; None = the whole budget."""


class App(msgspec.Struct, gc=False):
    """An app of the configuration, compiled."""

    name: str
    """The configured name or glob."""
    default: Route
    methods: Mapping[str, Route]
    tenant: Tenant
    """What lives; whoever takes the table into service puts that of before in its place."""


class Match(NamedTuple):
    """A route and why it was taken, for people."""

    app: str
    """The configured name or glob."""
    route: Route
    why: str


class RuleNames(Container[tuple[str, str]]):
    """App and rule, by name, of all that there are; the rules of defaults are not written down for each app."""

    def __init__(self, config: Config) -> None:
        self._apps = frozenset(config.apps)
        self._common = frozenset(rule.name for rule in config.defaults.rules)
        self._own = {name: frozenset(rule.name for rule in app.rules) for name, app in config.apps.items() if app.rules}

    def __contains__(self, pair: Any) -> bool:
        app, rule = pair
        return app in self._apps and (rule in self._common or rule in self._own.get(app, ()))


class Table:
    """All routes of one configuration. Look-ups cost the same for ten apps and for ten thousand."""

    def __init__(self, config: Config) -> None:
        connects = {name for name, kind in config.hook_types.items() if kind is MethodType.CONNECT}
        special = DEDUPED | connects
        routes = _Routes(config)
        self._apps = {name: routes.app(name, special.union(app.methods)) for name, app in config.apps.items()}
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
        # ``prefix*`` is the usual glob: it is found by its prefix, longest first, however many there are.
        self._prefixes = sorted(prefixes.items(), reverse=True)
        self._globs = sorted(globs, key=lambda entry: len(entry[0]), reverse=True)
        self._other = None if config.unknown_app == "reject" else self._apps[config.unknown_app]
        self.sharing = self._sharing()
        """The upstreams that several apps use."""
        self.rules = RuleNames(config)
        configured = {method for app in config.apps.values() for method in app.methods}
        self._labels = {method: method for method in (*CATALOGUE, *config.hook_types, *configured)}

    @property
    def apps(self) -> Iterable[App]:
        """All of them."""
        return self._apps.values()

    def find(self, app_key: str, method: str) -> tuple[Tenant, Route] | None:
        """Whose a hook is, and its route; None where no app of the configuration serves it."""
        app = self._exact.get(app_key) or self._by_glob(app_key) or self._other
        return None if app is None else (app.tenant, app.methods.get(method, app.default))

    def explain(self, app_key: str, method: str) -> Match | None:
        """The route of a hook, with the reason in words."""
        found = self.find(app_key, method)
        if found is None:
            return None
        tenant, route = found
        if app_key in self._exact:
            why = "an app of exactly this name is configured"
        elif self._by_glob(app_key) is not None:
            why = f"{tenant.name!r} is the longest glob that matches"
        else:
            why = f"no app matches; unknown_app names {tenant.name!r}"
        return Match(tenant.name, route, why)

    def route_of(self, app: str, method: str | None) -> Route:
        """The route that a configured app has for one of its configured methods, or for all others (None)."""
        compiled = self._apps[app]
        return compiled.default if method is None else compiled.methods[method]

    def method_label(self, method: str) -> str:
        """The method's name as a metric label: bounded by catalogue and configuration."""
        return self._labels.get(method, OTHER_METHOD)

    def _sharing(self) -> set[str]:
        users: dict[str, int] = {}
        for name, app in self._apps.items():
            for upstream in upstreams_of(app.default):
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


def upstreams_of(route: Route) -> set[str]:
    """The upstreams that may decide a hook of this route."""
    names = set(route.failover)
    if route.upstream is not None:
        names.add(route.upstream)
    if route.split is not None:
        names |= route.split.names
    if route.rules is not None:
        names |= route.rules.upstreams
    return names


class _Routes:
    """Makes routes, each once: apps that are configured alike share them, and the hooks of all find them at hand."""

    def __init__(self, config: Config) -> None:
        self._config = config
        common = config.defaults.rules
        verdicts = tuple(rule for rule in common if rule.upstream is None)
        all_of_them = Rules(common) if common else None
        of_verdicts = all_of_them if verdicts == common else Rules(verdicts) if verdicts else None
        self._common = {False: all_of_them, True: of_verdicts}
        """The rules of defaults, by whether an app is static: then it has none that names an upstream."""
        self._rules: dict[tuple[tuple[Rule, ...], bool], Rules] = {}
        self._routes: dict[tuple[object, ...], Route] = {}
        self._methods: dict[tuple[object, ...], Mapping[str, Route]] = {}
        self._settings: list[Settings] = []
        """Of each route: while they live, nothing else has the identity of a part of theirs."""

    def app(self, name: str, methods: Collection[str]) -> App:
        """An app with routes of its own for these methods."""
        settings = self._config.settings(name, None)
        # They are the app's, whatever the method.
        rules = self._compiled(self._config.apps[name].rules, static=settings.static is not None)
        own = {method: self._route(method, self._config.settings(name, method), rules) for method in methods}
        shared = self._methods.setdefault(tuple((method, id(route)) for method, route in own.items()), own)
        return App(name, self._route(None, settings, rules), shared, Tenant(name))

    def _route(self, method: str | None, settings: Settings, rules: Rules | None) -> Route:
        key = (
            method, settings.upstream, settings.static, settings.timeout, settings.fallback, settings.retry,
            settings.max_in_flight, settings.dedupe, id(settings.credentials), id(settings.signature), settings.split,
            settings.failover, id(settings.client_config), settings.response_check, settings.rate_limit, id(rules),
            settings.shadow, settings.failover_on, settings.failover_reserve,
        )  # fmt: skip
        route = self._routes.get(key)
        if route is None:
            route = self._routes[key] = _route(self._config, method, settings, rules)
            self._settings.append(settings)
        return route

    def _compiled(self, own: tuple[Rule, ...], *, static: bool) -> Rules | None:
        common = self._common[static]
        if not own:
            return common
        compiled = self._rules.get((own, static))
        if compiled is None:
            compiled = self._rules[own, static] = Rules(own, common)
        return compiled


def _route(config: Config, method: str | None, settings: Settings, rules: Rules | None) -> Route:
    client_config = settings.client_config if settings.client_config.mode is not Mode.OFF else None
    connects = method is not None and method_type(method, config.hook_types) is MethodType.CONNECT
    return Route(
        method,
        settings.upstream,
        settings.static,
        settings.timeout,
        settings.fallback,
        settings.retry or _retry_of(config, settings.upstream),
        settings.retry is None,
        settings.dedupe,
        _guard(settings),
        _upstream_key(settings),
        settings.max_in_flight,
        rules is None and not settings.split and settings.upstream is not None,
        rules,
        Split(settings.split) if settings.split else None,
        settings.failover,
        settings.rate_limit,
        client_config,
        connects and client_config is not None,
        settings.response_check,
        shadow_of(settings.shadow, method),
        settings.failover_on,
        _first_budget(settings),
    )


def _first_budget(settings: Settings) -> float | None:
    """Only a timeout uses up the time: after any other failure there is some left."""
    if not settings.failover or Cause.TIMEOUT not in settings.failover_on or not settings.failover_reserve:
        return None
    return settings.timeout * (1.0 - settings.failover_reserve)


def _guard(settings: Settings) -> Guard | None:
    if settings.credentials is not None:
        return BasicCredentials(settings.credentials.username, settings.credentials.password.reveal())
    if settings.signature is not None and settings.signature.mode == "verify":
        return Signature([key.reveal() for key in settings.signature.keys])
    return None


def _upstream_key(settings: Settings) -> bytes | None:
    signature = settings.signature
    return None if signature is None or signature.upstream_key is None else signature.upstream_key.reveal().encode()


def _retry_of(config: Config, upstream: str | None) -> Retry:
    return Retry() if upstream is None else config.upstreams[upstream].retry
