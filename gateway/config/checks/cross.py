"""Checks across sections: references between sections, budgets, addresses, names that look mistyped.

The checks run on the file's plain data rather than on the model, so that they also work if some other part is wrong.
The model has reported values of the wrong type, and they are skipped here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from gateway.config.checks.answers import AnswerChecks
from gateway.config.checks.apps import AppChecks
from gateway.config.checks.methods import MethodChecks
from gateway.config.checks.plain import as_list
from gateway.config.checks.proxies import ProxyChecks
from gateway.config.checks.store import StoreChecks
from gateway.config.sections.addresses import (
    AdminAddress,
    ListenAddress,
    SystemdAddress,
    overlap,
    parse_admin_address,
    parse_listen_address,
)
from gateway.config.sections.recording import path_problem
from gateway.config.sections.root import Config
from gateway.config.sections.state import is_driver_installed
from gateway.config.sections.tls import TlsFiles
from gateway.config.sections.tracing import is_installed
from gateway.config.sections.types import format_duration, parse_duration
from gateway.config.sections.upstreams import MAX_TARGETS, Health
from gateway.config.source.document import Document, Scalar, Unresolved, is_from_reference
from gateway.config.source.problems import NameSuggester, Path, Problem, path_text, quote
from gateway.model.hooks import CATALOGUE, MethodType
from gateway.policy.retry import Retry, RetryOn

_JAVA_KEEPALIVE: Final = 5.0
"""Seconds after which Java's HTTP client closes an idle connection by itself."""
AnyAddress = TypeVar("AnyAddress", AdminAddress, ListenAddress)
_DEFAULTS: Final = Config()
_HEALTH: Final = Health()
_ONCE_ONLY: Final = (MethodType.DIRECT, MethodType.INCOMING)
"""Methods on which a backend acts: what is asked twice may be done twice."""
_RETRY: Final = Retry()
_STATIC: Final = "has no effect: the app is static, so no backend is asked"
_ASKS: Final = (
    *("timeout", "fallback", "retry", "dedupe", "max_in_flight", "methods"),
    *("failover", "failover_on", "failover_reserve", "rate_limit", "response_check", "event_answers", "shadow"),
    "spool",
)
"""An app's settings that only matter where a backend is asked."""
_PORTS: Final = {"http": 80, "https": 443}


class CrossChecks:
    """Runs all checks on one document; ``problems`` and ``warnings`` hold what they found."""

    def __init__(self, document: Document, data: dict[str, Any], suggester: NameSuggester, directory: str) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._document = document
        self._data = data
        self._suggester = suggester
        self._directory = directory
        self._tls_files = TlsFiles(directory)
        self._server = self._section("server")
        self._defaults = self._section("defaults")
        self._upstreams = self._section("upstreams")
        self._apps = self._section("apps")
        methods = {**CATALOGUE, **self._section("hook_types")}
        self._methods = MethodChecks(self._problem, self._warn, suggester, methods)
        self._has_default_upstream = "upstream" in self._defaults or not isinstance(data.get("defaults", {}), dict)
        self._each_app = AppChecks(
            self._problem,
            self._warn,
            suggester,
            defaults=self._defaults,
            methods=self._methods,
            upstreams=self._upstreams if isinstance(data.get("upstreams", {}), dict) else None,
        )
        self._answers = AnswerChecks(self._problem, self._warn, self._defaults, self._methods)
        self._limit = self._budget_limit()
        self._addresses()
        ProxyChecks(self._warn, self._server).check()
        self._files(("server", "tls"), self._server.get("tls"))
        self._client_keepalive()
        self._tracing()
        self._record()
        self._state()
        for name, upstream in self._upstreams.items():
            self._each_app.check_reserved_name(name)
            if isinstance(upstream, dict):
                self._upstream(("upstreams", name), upstream)
        self._default_settings()
        for name, app in self._apps.items():
            if isinstance(app, dict):
                self._app(name, app)
        self._methods.check_type_names(self._section("hook_types"))
        self._methods.check_keep_alive(self._defaults, self._apps)
        StoreChecks(self._problem, self._warn, data, self._methods, directory).check(self._methods.events)
        self._unknown_app()

    def _section(self, name: str) -> dict[str, Any]:
        section = self._data.get(name)
        return section if isinstance(section, dict) else {}

    def _problem(self, path: Path, message: str) -> None:
        if not isinstance(self._document.node(path), Unresolved):
            self.problems.append(self._document.problem(path, message))

    def _warn(self, path: Path, message: str) -> None:
        self.warnings.append(self._document.problem(path, message))

    def _as_written(self, path: Path, words: str) -> str:
        """A value in words, or as the file has it, where a reference brings it in."""
        node = self._document.node(path)
        return quote(node.text) if isinstance(node, Scalar) and is_from_reference(node) else words

    def _duration(self, path: Path, seconds: float) -> str:
        return self._as_written(path, format_duration(seconds))

    # --- server ---

    def _addresses(self) -> None:
        listen = self._server.get("listen", str(_DEFAULTS.server.listen[0]))
        is_list = isinstance(listen, list)
        taken: list[ListenAddress] = []
        for index, text in enumerate(listen if is_list else [listen]):
            address = _parse_or_none(text, parse_listen_address)
            if address is None:
                continue
            if any(overlap(address, other) for other in taken):
                place = ("server", "listen", index)
                words = self._as_written(place, str(address))
                self._problem(place, f"{words} is taken by another address of this list")
            taken.append(address)
        admin = _parse_or_none(self._server.get("admin", str(_DEFAULTS.server.admin)), parse_admin_address)
        if admin is None:
            return
        if any(overlap(admin, other) for other in taken):
            words = self._as_written(("server", "admin"), str(admin))
            self._problem(("server", "admin"), f"{words} is a hook port too: the admin port needs its own")
        if isinstance(admin, SystemdAddress):
            return  # its address is in the socket unit
        if not admin.is_loopback and "token" not in self._section("admin"):
            self._warn(
                ("server", "admin"),
                "without admin.token, clients that are not on loopback can only use /-/healthy and /-/ready",
            )

    def _files(self, path: Path, section: object) -> None:
        if isinstance(section, dict):
            for key, message in self._tls_files.problems(section):
                self._problem((*path, key), message)

    def _client_keepalive(self) -> None:
        seconds = _seconds(self._server.get("keepalive_timeout"))
        if seconds is not None and seconds <= _JAVA_KEEPALIVE:
            self._warn(
                ("server", "keepalive_timeout"),
                "should be longer than 5s: the media server keeps idle connections that long, and repeats a hook "
                "that meets a closing one",
            )

    def _tracing(self) -> None:
        if isinstance(self._data.get("tracing"), dict) and not is_installed():
            self._problem(("tracing",), "needs packages that are not installed: pip install 'wcs-gateway[otel]'")

    def _state(self) -> None:
        state = self._section("state")
        if "state" in self._data and not is_driver_installed():
            self._problem(("state",), "needs packages that are not installed: pip install 'wcs-gateway[fleet]'")
        self._files(("state", "tls"), state.get("tls"))
        url = state.get("url")
        if "tls" in state and isinstance(url, str) and url.startswith(("redis:", "redis+")):
            self._warn(("state", "tls"), "has no effect: state.url does not begin with rediss")

    def _record(self) -> None:
        record = self._section("record")
        if "path" in record:
            wrong, odd = path_problem(record["path"], self._directory)
            if wrong is not None:
                self._problem(("record", "path"), wrong)
            if odd is not None:
                self._warn(("record", "path"), odd)

    # --- budgets ---

    def _budget_limit(self) -> float | None:
        section = self._section("media_server")
        request_timeout = _seconds(section.get("request_timeout"), _DEFAULTS.media_server.request_timeout)
        margin = _seconds(section.get("margin"), _DEFAULTS.media_server.margin)
        if request_timeout is None or margin is None:
            return None
        margin_text = self._duration(("media_server", "margin"), margin)
        whole_text = self._duration(("media_server", "request_timeout"), request_timeout)
        if margin >= request_timeout:
            self._problem(
                ("media_server", "margin"),
                f"{margin_text} leaves no time for a hook: it must be shorter than request_timeout, which is "
                f"{whole_text}",
            )
            return None
        limit = round(request_timeout - margin, 9)
        is_literal = (format_duration(margin), format_duration(request_timeout)) == (margin_text, whole_text)
        sum_text = f"media_server.request_timeout {whole_text} minus margin {margin_text}"
        self._limit_text = (
            f"must be below {f'{format_duration(limit)} ({sum_text})' if is_literal else sum_text}, "
            "or the media server gives up first"
        )
        return limit

    def _budget(self, path: Path, value: object) -> None:
        seconds = _seconds(value)
        if self._limit is not None and seconds is not None and seconds >= self._limit:
            words = self._duration((*path, "timeout"), seconds)
            self._problem((*path, "timeout"), f"timeout {words} {self._limit_text}")

    # --- upstreams ---

    def _upstream(self, path: Path, upstream: dict[str, Any]) -> None:
        targets = upstream.get("targets")
        if isinstance(targets, list) and len(targets) <= MAX_TARGETS:
            self._distinct_targets((*path, "targets"), targets)
        health = upstream.get("health")
        if isinstance(health, dict):
            interval = _seconds(health.get("interval"), _HEALTH.interval)
            timeout = _seconds(health.get("timeout"), _HEALTH.timeout)
            if interval is not None and timeout is not None and timeout > interval:
                place = (*path, "health")
                words = self._duration((*place, "timeout"), timeout)
                self._problem(
                    (*place, "timeout"),
                    f"{words} is longer than interval, which is {self._duration((*place, 'interval'), interval)}",
                )
        if isinstance(upstream.get("tls"), dict):
            self._upstream_tls(path, upstream, upstream["tls"])
        self._retry(path, upstream)

    def _upstream_tls(self, path: Path, upstream: dict[str, Any], tls: dict[str, Any]) -> None:
        targets = upstream.get("targets", [upstream])
        urls = [_url_parts(it.get("url")) if isinstance(it, dict) else None for it in as_list(targets)]
        if urls and all(url is not None and url[0] == "http" for url in urls):
            self._problem((*path, "tls"), "has no effect: no target is https")
        for key, other in (("certificate", "key"), ("key", "certificate")):
            if key in tls and other not in tls:
                self._problem((*path, "tls", key), f"needs {other} too: write both, or neither")
        self._files((*path, "tls"), tls)

    def _distinct_targets(self, path: Path, targets: list[Any]) -> None:
        first: dict[tuple[str, str | None, int | None, str], int] = {}
        for index, target in enumerate(targets):
            url = _url_parts(target.get("url")) if isinstance(target, dict) else None
            if url is not None and (same := first.setdefault(url, index)) != index:
                self._problem((*path, index, "url"), f"names the same target as item [{same}] of this list")

    def _retry(self, path: Path, holder: dict[str, Any]) -> None:
        retry = holder.get("retry")
        if not isinstance(retry, dict) or retry.get("attempts", _RETRY.attempts) == 1:
            return
        on = retry.get("on")
        if isinstance(on, list) and any(cause in on for cause in RetryOn if cause is not RetryOn.CONNECT):
            self._warn((*path, "retry", "on"), "a backend may act on the hook more than once")

    # --- apps ---

    def _default_settings(self) -> None:
        if "timeout" in self._defaults:
            self._budget(("defaults",), self._defaults["timeout"])
        else:
            self._budget(("defaults",), format_duration(_DEFAULTS.defaults.timeout))
        self._each_app.check_level(("defaults",), self._defaults)
        self._answers.check_defaults()
        self._retry(("defaults",), self._defaults)
        self._each_method(("defaults", "methods"), self._defaults.get("methods"))

    def _app(self, name: str, app: dict[str, Any]) -> None:
        path = ("apps", name)
        if "static" in app:
            self._static_app(path, app)
        elif "upstream" not in app and not self._has_default_upstream:
            self._problem(path, "has no upstream: name one here or in defaults, or write static: allow or reject")
        self._each_app.check_app(path, app)
        self._answers.check_app(path, app)
        if "timeout" in app:
            self._budget(path, app["timeout"])
        self._authentication(path, app)
        if "static" not in app:
            self._retry(path, app)
        self._each_method((*path, "methods"), app.get("methods"), static="static" in app)

    def _each_method(self, path: Path, methods: object, *, static: bool = False) -> None:
        for method, settings in methods.items() if isinstance(methods, dict) else ():
            if not isinstance(method, str):
                continue
            place = (*path, method)
            self._methods.check_key(place, method, "; if the media server has it, give its type there")
            if not isinstance(settings, dict):
                continue
            if "timeout" in settings:
                self._budget(place, settings["timeout"])
            if "event_answers" in settings:
                self._methods.check_event_answers((*place, "event_answers"), method)
            if not static and not self._methods.kinds(method).isdisjoint(_ONCE_ONLY):
                self._retry(place, settings)

    def _authentication(self, path: Path, app: dict[str, Any]) -> None:
        credentials, signature = app.get("credentials"), app.get("signature")
        if isinstance(credentials, dict) and credentials.get("password") == "":
            self._problem((*path, "credentials", "password"), "must not be empty")
        if "credentials" in app and "signature" in app:
            self._problem(
                (*path, "signature"),
                "cannot be combined with credentials: a hook has only one Authorization header",
            )
        if not isinstance(signature, dict):
            return
        if "keys" not in signature and signature.get("mode", "verify") == "verify":
            self._problem((*path, "signature"), "has no keys to verify with: write them, or mode: pass")
        if "upstream_key" in signature and "static" not in app:
            self._one_authorization((*path, "signature", "upstream_key"), app)

    def _one_authorization(self, path: Path, app: dict[str, Any]) -> None:
        for name in dict.fromkeys(self._each_app.reachable_upstreams(app)):
            upstream = self._upstreams.get(name)
            if not isinstance(upstream, dict):
                continue
            headers = upstream.get("headers")
            sets = "credentials" if "credentials" in upstream else ""
            if isinstance(headers, dict) and any(key.lower() == "authorization" for key in headers):
                sets = sets or "headers"
            if sets:
                self._problem(path, f"conflicts with {path_text(('upstreams', name, sets))}: both set Authorization")
                return

    def _static_app(self, path: Path, app: dict[str, Any]) -> None:
        if "upstream" in app:
            self._problem((*path, "static"), "cannot be combined with upstream: an app has one or the other")
        for key in _ASKS:
            if key in app:
                self._warn((*path, key), _STATIC)
        if isinstance(signature := app.get("signature"), dict) and "upstream_key" in signature:
            self._warn((*path, "signature", "upstream_key"), _STATIC)

    def _unknown_app(self) -> None:
        name = self._data.get("unknown_app")
        if isinstance(name, str) and name != "reject" and name not in self._apps:
            self._problem(("unknown_app",), f"no app has this name{self._suggester.suggest(name, self._apps)}")
        if not self._apps and isinstance(self._data.get("apps", {}), dict):
            self._warn(("apps",), "there are no apps: every hook is rejected")


def _seconds(value: object, default: float | None = None) -> float | None:
    """A duration of the file; the default where there is none; None where it is not one."""
    if value is None:
        return default
    try:
        return parse_duration(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _url_parts(text: object) -> tuple[str, str | None, int | None, str] | None:
    """What tells one target from another, however its URL is spelt; None where it is no URL."""
    try:
        parts = urlsplit(text) if isinstance(text, str) else None
        return parts and (parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme), parts.path.rstrip("/"))
    except ValueError:
        return None


def _parse_or_none(text: object, parse: Callable[[str], AnyAddress]) -> AnyAddress | None:
    try:
        return parse(text) if isinstance(text, str) else None
    except ValueError:
        return None
