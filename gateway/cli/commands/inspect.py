"""``gateway check``, ``explain``, ``schema`` and ``version``: everything that answers without serving."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterable
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from importlib.metadata import version as version_of
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from gateway import __version__
from gateway.cli.common import (
    BAD_USAGE,
    DEFAULT_CONFIG,
    ConfigOption,
    HookFile,
    MethodOption,
    fail,
    load_or_fail,
    read_hook_file,
)
from gateway.cli.describe import (
    changed_fields,
    check_in_words,
    conditions,
    enforcing,
    failures_in_words,
    fallback_in_words,
    lacking,
    lists,
    outcome,
    reserve_in_words,
    shadow_in_words,
    share_of,
    shares_in_words,
    wisdom,
)
from gateway.config import Config, Loaded, Settings, display_urls, display_value, json_schema, path_text
from gateway.model import effects
from gateway.model.hooks import PLAY_HLS, BadHookError, Hook, MethodType, method_type, parse_hook
from gateway.model.verdicts import Cause, Fallback, Verdict
from gateway.policy.access import BasicCredentials
from gateway.policy.event_answers import EventAnswers
from gateway.policy.rest_client_config import Mode
from gateway.policy.retry import Retry
from gateway.policy.rules.matcher import Rule, scope
from gateway.policy.sampling import Sample, session_or_call
from gateway.policy.shadow import Shadow
from gateway.proxy.refusals import is_method_name
from gateway.proxy.routes import Match, Table
from gateway.proxy.sessions import session_key
from gateway.recording import RecordSettings

_WIDE = 2000
"""Columns where the output is no terminal: nothing is cut or wrapped."""
_KEY_DEPENDENCIES = ("starlette", "uvicorn", "uvloop", "httptools", "httpx", "msgspec", "pydantic", "prometheus-client")


AtOption = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="When it comes, for rules with a time: such as 2026-12-24T22:30+01:00; "
                 "UTC where no offset is given. Default: now."),
]  # fmt: skip


def check(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Validate the configuration; print every problem, or what each app's hooks would meet."""
    loaded = load_or_fail(config)
    for warning in loaded.warnings:
        print(f"{warning} (warning)", file=sys.stderr)
    print(f"{config}: valid")
    width = None if sys.stdout is not None and sys.stdout.isatty() else _WIDE
    Console(width=width, markup=False, emoji=False, highlight=False).print(_routes(loaded.config))
    for line in wisdom(loaded):
        print(line)


def explain(
    file: HookFile, method: MethodOption = "OnCallEvent", config: ConfigOption = DEFAULT_CONFIG, at: AtOption = None
) -> None:
    """Say which app, rule, upstream, budget and policy a hook would meet, and why."""
    when = _time(at)
    if not is_method_name(method):
        fail(f"--method {method!r}: is no name of a method; the gateway would answer 404", BAD_USAGE)
    loaded = load_or_fail(config)
    try:
        hook = parse_hook(read_hook_file(file))
    except BadHookError as exc:
        fail(f"{file}: {exc}; the gateway would answer 400", BAD_USAGE)
    kind = method_type(method, loaded.config.hook_types)
    print(f"method    {method} ({kind})")
    print(f"appKey    {hook.app_key!r}")
    match = Table(loaded.config).explain(hook.app_key, method)
    if match is None:
        print("app       none is configured for it: 403, reason unknown_app")
        return
    for line in _Explained(loaded, match, hook, method, when).lines():
        print(line)


def schema() -> None:
    """Print the configuration's JSON Schema, for editors."""
    print(json.dumps(json_schema(), indent=2))


def version() -> None:
    """Print the version, Python's, and the key dependencies'."""
    print(f"wcs-gateway {__version__}")
    print(f"Python {platform.python_version()}")
    for name in _KEY_DEPENDENCIES:
        print(f"{name} {version_of(name)}")


def _routes(config: Config) -> RichTable:
    table = RichTable("app", "method", "upstream", "budget", *Cause, box=None, pad_edge=False)
    for app, settings in config.apps.items():
        # A key of the defaults that no app sets too is told with each, for it comes before what the app says of all.
        for method in (None, *dict.fromkeys((*settings.methods, *config.defaults.methods))):
            row = _row(config.settings(app, method))
            if method is None or settings.static is None:
                table.add_row(Text(app), method or "(any)", *row)
    if config.unknown_app == "reject":
        table.add_row("(any other)", "(any)", "none: 403")
    else:
        table.add_row("(any other)", "(any)", Text(f"as {config.unknown_app}"))
    return table


def _row(settings: Settings) -> Iterable[str | Text]:
    if settings.upstream is None:
        return (f"none: always {settings.static or Verdict.REJECT}",)
    names = shares_in_words(settings.split) if settings.split else settings.upstream
    fallbacks = (Text(fallback_in_words(settings.fallback, cause)) for cause in Cause)
    return (Text(names), seconds(settings.timeout), *fallbacks)


class _Explained:
    """One hook, told line by line."""

    def __init__(self, loaded: Loaded, match: Match, hook: Hook, method: str, when: float) -> None:
        self._config = config = loaded.config
        self._shown = loaded.masked
        self._match = match
        self._hook = hook
        self._method = method
        self._when = when
        self._kind = method_type(method, config.hook_types)
        self._settings = config.settings(match.app, method)

    def lines(self) -> Iterable[str]:
        """All there is to tell once the app is known."""
        route, settings = self._match.route, self._settings
        yield f"app       {self._match.app} ({self._match.reason})"
        if route.guard is not None:
            is_basic = isinstance(route.guard, BasicCredentials)
            yield f"proof     {'HTTP Basic credentials' if is_basic else 'a WCS signature of its body'}, else 401"
        rule = None if route.rules is None else route.rules.meet(self._hook, self._method, self._when)
        if settings.rules:
            yield f"rule      {self._rule(rule)}"
        if rule is not None and rule.verdict is not None:
            yield f"verdict   {rule.verdict}: by that rule, no backend is asked"
        elif settings.upstream is None:
            yield f"verdict   always {settings.static or Verdict.REJECT}: the app is static, no backend is asked"
        else:
            yield from self._asked(settings.upstream if rule is None else rule.upstream or settings.upstream, rule)
        yield f"a 403     {self._refusal()}"
        decided = settings.static if rule is None else rule.verdict
        if self._kind is MethodType.CONNECT and decided is not Verdict.REJECT:
            yield f"sets      {_client_config_in_words(settings)}"
        if self._config.record is not None:
            yield f"record    {self._recorded(self._config.record)}"

    def _rule(self, rule: Rule | None) -> str:
        count = len(self._settings.rules)
        when = datetime.fromtimestamp(self._when, UTC).strftime("%Y-%m-%d %H:%M UTC")
        if rule is None:
            told = f"none of {count} meets it at {when}" if count > 1 else f"the only one does not meet it at {when}"
            passed = sum(scope(rule, self._kind) is None and not rule.methods for rule in self._settings.rules)
            return told + (f"; {passed} with a verdict and without methods: events pass by these" if passed else "")
        place = self._settings.rules.index(rule) + 1
        return f"{rule.name} ({conditions(rule)}): {outcome(rule)}; number {place} of {count}, met at {when}"

    def _asked(self, name: str, rule: Rule | None) -> Iterable[str]:
        route, settings = self._match.route, self._settings
        why = ""
        if rule is not None:
            why = f", by rule {rule.name}"
        elif route.split is not None:
            session = session_key(self._hook, self._method)
            name = route.split.choose(session or "")
            part = f"{share_of(settings.split, name)} of the sessions ({shares_in_words(settings.split)})"
            why = f", which has {part}; this session stays there while the weights do"
            if session is None:
                name, why = "any of them", f" ({shares_in_words(settings.split)}): the hook names no session to go by"
        if name in self._config.upstreams:
            yield f"upstream  {name} ({', '.join(self._targets(name))}){why}"
        else:
            yield f"upstream  {name}{why}"
        yield from self._bounds(name)
        for cause in Cause:
            verdict = fallback_in_words(route.fallback, cause)
            yield f"{'fallback' if cause is Cause.TIMEOUT else '':9} {cause}: {verdict}"
        yield f"{'':9} set by {self._from('fallback')}"
        if route.fallback.fields:
            yield f"changed   {self._changed(route.fallback)}"

    def _bounds(self, name: str) -> Iterable[str]:
        """What the asking of an upstream may take, and what stands beside it."""
        route, settings = self._match.route, self._settings
        if others := [other for other in settings.failover if other != name]:
            others_in_words = failures_in_words(settings.failover_on, name)
            yield f"failover  {' then '.join(others)}, {others_in_words} ({self._from('failover_on')})"
            if route.first_budget is not None:
                yield f"reserve   {reserve_in_words(settings)}: {name} has {seconds(route.first_budget)}"
        yield f"budget    {seconds(route.budget)} ({self._from('timeout')})"
        yield f"retry     {_retry_in_words(self._retry_of(name))} ({self._retry_from(name)})"
        yield f"repeats   {_repeats_in_words(route.dedupe)} ({self._from('dedupe')})"
        if settings.max_in_flight is not None:
            yield f"limit     {settings.max_in_flight} hooks of the app at once ({self._from('max_in_flight')})"
        if settings.rate_limit is not None:
            rate = f"{settings.rate_limit}, of the app; past it, the verdict for overload"
            yield f"rate      {rate} ({self._from('rate_limit')})"
        if self._kind is MethodType.EVENT and settings.event_answers is EventAnswers.ANY:
            answers = "any 2xx: it is delivered, unless PHP reports a fatal error"
            yield f"answers   {answers} ({self._from('event_answers')})"
        else:
            yield f"answers   {check_in_words(settings.response_check)} ({self._from('response_check')})"
        if settings.shadow is not None:
            yield f"shadow    {shadow_in_words(settings.shadow)}; {self._shadowed(name)}"

    def _changed(self, fallback: Fallback) -> str:
        """What the media server makes of the fields that the fallback changes."""
        if self._kind is MethodType.EVENT:
            return "nothing: the media server takes no field from the answer to an event"
        if self._kind is MethodType.CONNECT:
            return "what the media server makes of these fields: the session has no settings yet"
        fields = changed_fields(fallback)
        told = f"the media server takes {', '.join(fields)} only if the session's connect answer {lists(fields)}"
        wanted = self._settings.client_config
        if not lacking(wanted, self._method, fields):
            return f"{told}; rest_client_config: enforce sees to that"
        return f"{told}; {enforcing(wanted, self._method, fields)} adds that"

    def _from(self, key: str) -> str:
        return self._config.setting_path(self._match.app, self._method, key) or "the default"

    def _retry_from(self, name: str) -> str:
        if self._settings.retry is not None or name not in self._config.upstreams:
            return self._from("retry")
        own = "retry" in self._config.upstreams[name].model_fields_set
        return path_text(("upstreams", name, "retry")) if own else "the default"

    def _targets(self, name: str) -> Iterable[str]:
        targets = self._config.upstreams[name].targets
        urls = display_urls(self._shown, name, len(targets))
        return (url + (" (backup)" if it.backup else "") for it, url in zip(targets, urls, strict=True))

    def _retry_of(self, name: str) -> Retry:
        upstream = self._config.upstreams.get(name)
        return self._match.route.retry if upstream is None else self._settings.retry or upstream.retry

    def _shadowed(self, upstream: str) -> str:
        shadow = self._settings.shadow
        if shadow is None or not Shadow(shadow, self._kind).covers(self._method):
            return "of this method none"
        if upstream == shadow.upstream:
            return "of this one none: it decides this one itself"
        if shadow.sample >= 1 or session_key(self._hook, self._method) is not None:
            return (
                "of this one too"
                if Shadow(shadow).takes(self._hook, "", self._method)
                else "of this one none: its session is not among them"
            )
        return "of this one if it happens to be among them: it names no session"

    def _recorded(self, record: RecordSettings) -> str:
        hook = self._hook
        if record.sample >= 1:
            what = ""
        elif not session_or_call(hook, self._method):
            what = f" if it happens to be among {100 * record.sample:.3g}%: it names no session"
        elif Sample(record.sample).takes(hook, "", self._method):
            what = f": its session is among {100 * record.sample:.3g}%"
        else:
            return f"no: its session is not among {100 * record.sample:.3g}%"
        only = ", only if no backend, rule or static app decides it" if record.failures_only else ""
        return f"in {display_value(record.path, self._shown, 'record', 'path')}{what}{only}"

    def _refusal(self) -> str:
        wanted = self._settings.client_config
        counts = wanted.stops(self._method)
        told = effects.rejection_effect(self._kind, counts, self._method)
        if self._kind not in (MethodType.DIRECT, MethodType.INCOMING) or self._method == PLAY_HLS:
            return told
        if counts:
            return f"{told}; rest_client_config: enforce sees to that"
        named = wanted.methods.get(self._method, {}).get("restOnError") == "FAIL"
        means = ([] if wanted.mode is Mode.ENFORCE else ["mode enforce"]) + (
            [] if named else [f"restOnError=FAIL for {self._method} under methods"]
        )
        return f"{told}; rest_client_config with {' and '.join(means)} makes it count"


def _client_config_in_words(settings: Settings) -> str:
    wanted = settings.client_config
    fields = [f"{method}.{name}={value}" for method, it in wanted.methods.items() for name, value in it.items()]
    what = ", ".join(fields) or "nothing"
    if wanted.mode is Mode.ENFORCE:
        return f"{what}: added to the answer where it lacks it"
    if wanted.mode is Mode.WARN:
        return f"{what} is wanted: an answer that lacks it is counted and goes out as it is"
    return "what the backend answers: rest_client_config is off"


def _time(text: str | None) -> float:
    """Seconds since 1970; exit status 2 for what is no time."""
    if text is None:
        return time.time()
    try:
        moment = datetime.fromisoformat(text)
        if moment.year in (MINYEAR, MAXYEAR):  # in another time zone, or the day before, it has no date at all
            raise ValueError
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except ValueError:
        fail(f"--at {text!r}: must be a time such as 2026-12-24T22:30 or 2026-12-24T22:30+01:00", BAD_USAGE)


def _retry_in_words(retry: Retry) -> str:
    if retry.attempts == 1 or not retry.on:
        return "never"
    return f"{retry.attempts} attempts at most, after {', '.join(sorted(retry.on))}"


def _repeats_in_words(dedupe: float | None) -> str:
    if dedupe is None:
        return "each is asked again"
    return f"the same bytes within {seconds(dedupe)} get the same verdict; the backend sees one"


def seconds(value: float) -> str:
    """A duration as the configuration writes it."""
    return f"{value:g}s" if value >= 1 else f"{value * 1000:g}ms"
