"""From appKey and method to a Route: an immutable table, all of it worked out when the configuration is loaded."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from gateway.access import BasicCredentials, Signature
from gateway.config import DEDUPED, Config, Settings
from gateway.hooks import CATALOGUE
from gateway.retry import Retry
from gateway.verdicts import Fallback, Verdict

OTHER_METHOD = "_other"


Guard = BasicCredentials | Signature


class Route(msgspec.Struct, frozen=True, gc=False):
    """What awaits a hook of one app and method."""

    app: str
    """The configured name or glob that serves it."""
    method: str | None
    """The configured method whose settings these are; None = the app's own."""
    upstream: str | None
    """None where *static* decides."""
    static: Verdict | None
    budget: float
    """Seconds for the whole hook."""
    fallback: Fallback
    retry: Retry
    dedupe: float | None
    """Seconds for which a hook that comes again byte for byte gets the same verdict; None = each is asked."""
    guard: Guard | None
    """What a hook must prove; None = nothing."""
    sign_with: bytes | None
    """Key of the signature that the backend gets in place of the media server's."""
    max_in_flight: int | None
    """Hooks of the app inside this process at once; None = no limit of its own."""


class _App(msgspec.Struct, frozen=True, gc=False):
    default: Route
    methods: Mapping[str, Route]


class Match(NamedTuple):
    """A route and why it was taken, for people."""

    route: Route
    why: str


class Table:
    """All routes of one configuration. Look-ups cost the same for ten apps and for ten thousand."""

    def __init__(self, config: Config) -> None:
        self._apps = {name: _compile(config, name, {*app.methods, *DEDUPED}) for name, app in config.apps.items()}
        self._exact: dict[str, _App] = {}
        prefixes: dict[int, dict[str, _App]] = {}
        globs: list[tuple[str, re.Pattern[str], _App]] = []
        for name, compiled in self._apps.items():
            if not is_glob(name):
                self._exact[name] = compiled
            elif is_glob(name[:-1]) or not name.endswith("*"):
                globs.append((name, _pattern(name), compiled))
            else:
                prefixes.setdefault(len(name) - 1, {})[name[:-1]] = compiled
        # ``prefix*`` is the usual glob: it is found by its prefix, longest first, however many there are.
        self._prefixes = sorted(prefixes.items(), reverse=True)
        self._globs = sorted(globs, key=lambda entry: len(entry[0]), reverse=True)
        self._other = None if config.unknown_app == "reject" else self._apps[config.unknown_app]
        configured = {method for app in config.apps.values() for method in app.methods}
        self._labels = {method: method for method in (*CATALOGUE, *config.hook_types, *configured)}

    def find(self, app_key: str, method: str) -> Route | None:
        """The route of a hook; None where no app of the configuration serves it."""
        app = self._exact.get(app_key) or self._by_glob(app_key) or self._other
        return None if app is None else app.methods.get(method, app.default)

    def explain(self, app_key: str, method: str) -> Match | None:
        """The route of a hook, with the reason in words."""
        route = self.find(app_key, method)
        if route is None:
            return None
        if app_key in self._exact:
            why = "an app of exactly this name is configured"
        elif self._by_glob(app_key) is not None:
            why = f"{route.app!r} is the longest glob that matches"
        else:
            why = f"no app matches; unknown_app names {route.app!r}"
        return Match(route, why)

    def route_of(self, app: str, method: str | None) -> Route:
        """The route that a configured app has for one of its configured methods, or for all others (None)."""
        compiled = self._apps[app]
        return compiled.default if method is None else compiled.methods[method]

    def sharing(self) -> set[str]:
        """The upstreams that several apps use."""
        users: dict[str, set[str]] = {}
        for name, app in self._apps.items():
            if app.default.upstream is not None:
                users.setdefault(app.default.upstream, set()).add(name)
        return {upstream for upstream, apps in users.items() if len(apps) > 1 or any(map(is_glob, apps))}

    def method_label(self, method: str) -> str:
        """The method's name as a metric label: bounded by catalogue and configuration."""
        return self._labels.get(method, OTHER_METHOD)

    def _by_glob(self, app_key: str) -> _App | None:
        found: _App | None = None
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


def is_glob(name: str) -> bool:
    """Whether an app's name in the configuration is a pattern."""
    return "*" in name or "?" in name


def _pattern(glob: str) -> re.Pattern[str]:
    first, *rest = ("".join("." if c == "?" else re.escape(c) for c in part) for part in re.split(r"\*+", glob))
    if not rest:
        return re.compile(first, re.DOTALL)
    *middle, last = rest
    # Atomic groups: each part is sought once, from the left. Backtracking over several ``.*`` would let a long appKey
    # stop the event loop for minutes.
    return re.compile(first + "".join(f"(?>.*?{part})" for part in middle) + ".*" + last, re.DOTALL)


def _compile(config: Config, name: str, methods: Collection[str]) -> _App:
    return _App(_route(config, name, None), {method: _route(config, name, method) for method in methods})


def _route(config: Config, app: str, method: str | None) -> Route:
    settings = config.settings(app, method)
    return Route(
        app,
        method,
        settings.upstream,
        settings.static,
        settings.timeout,
        settings.fallback,
        settings.retry or _retry_of(config, settings.upstream),
        settings.dedupe,
        _guard(settings),
        _upstream_key(settings),
        None if settings.max_in_flight is None else max(1, settings.max_in_flight // config.server.workers),
    )


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
