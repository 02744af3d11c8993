"""``gateway explain``: how one hook would be routed and decided."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from typing import Annotated

import typer

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
    describe_conditions,
    describe_failover_on,
    describe_fallback,
    describe_history,
    describe_reserve,
    describe_response_check,
    describe_result,
    describe_shadow,
    describe_split,
    describe_spool,
    enforce_setting,
    leaves_to_backend,
    overwrite_settings,
    seconds,
    share_percent,
)
from gateway.config import Loaded, Settings, display_urls, display_value, path_text
from gateway.model import effects
from gateway.model.hooks import PLAY_HLS, BadHookError, Hook, MethodType, method_type, parse_hook
from gateway.model.verdicts import Cause, Fallback, Verdict
from gateway.policy.access import BasicCredentials
from gateway.policy.event_answers import EventAnswers
from gateway.policy.rest_client_config import Mode
from gateway.policy.retry import Retry
from gateway.policy.rules.matcher import Rule, method_globs
from gateway.policy.sampling import Sample, session_or_call
from gateway.policy.shadow import Shadow
from gateway.policy.spooling import RESERVE
from gateway.proxy.refusals import is_method_name
from gateway.proxy.routes import Match, Table
from gateway.proxy.sessions import session_key
from gateway.recording import RecordSettings

AtOption = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME",
        help="Time of the hook, such as 2026-12-24T22:30+01:00; UTC if there is no offset.  [default: now]",
    ),
]


def explain(
    file: HookFile, method: MethodOption = "OnCallEvent", config: ConfigOption = DEFAULT_CONFIG, at: AtOption = None
) -> None:
    """Show how a hook would be routed and decided."""
    when = _time(at)
    if not is_method_name(method):
        fail(f"--method {method!r}: not a method name; the gateway would answer 404", BAD_USAGE)
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
        print("app       no app is configured for this appKey: 403, reason unknown_app")
        return
    for line in _Explained(loaded, match, hook, method, when).lines():
        print(line)


class _Explained:
    """Explains one hook, line by line."""

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
        """All lines after the app is known."""
        route, settings = self._match.route, self._settings
        yield f"app       {self._match.app} ({self._match.reason})"
        if route.guard is not None:
            is_basic = isinstance(route.guard, BasicCredentials)
            yield f"proof     {'HTTP Basic credentials' if is_basic else 'a WCS signature of its body'}, else 401"
        rule = None if route.rules is None else route.rules.match_hook(self._hook, self._method, self._when)
        if settings.rules:
            yield f"rule      {self._rule(rule)}"
        if rule is not None and rule.verdict is not None:
            yield f"verdict   {rule.verdict}: decided by this rule, no backend is contacted"
        elif settings.upstream is None:
            yield f"verdict   always {settings.static or Verdict.REJECT}: the app is static, no backend is contacted"
        else:
            yield from self._routing(settings.upstream if rule is None else rule.upstream or settings.upstream, rule)
        yield f"on 403    {self._rejection()}"
        decided = settings.static if rule is None else rule.verdict
        if self._kind is MethodType.CONNECT and decided is not Verdict.REJECT:
            yield f"sets      {_describe_client_config(settings)}"
        if self._config.record is not None:
            yield f"record    {self._recorded(self._config.record)}"
        if self._config.history is not None:
            yield f"history   the decision is {describe_history(self._config.history)}"

    def _rule(self, rule: Rule | None) -> str:
        count = len(self._settings.rules)
        when = datetime.fromtimestamp(self._when, UTC).strftime("%Y-%m-%d %H:%M UTC")
        if rule is None:
            answer = f"none of {count} matches at {when}" if count > 1 else f"the only rule does not match at {when}"
            skipped = sum(method_globs(rule, self._kind) is None and not rule.methods for rule in self._settings.rules)
            return answer + (f"; {skipped} with a verdict and without methods: not for events" if skipped else "")
        place = self._settings.rules.index(rule) + 1
        match = f"{rule.name} ({describe_conditions(rule)}): {describe_result(rule)}"
        return f"{match}; number {place} of {count}, matches at {when}"

    def _routing(self, name: str, rule: Rule | None) -> Iterable[str]:
        route, settings = self._match.route, self._settings
        why = ""
        if rule is not None:
            why = f", by rule {rule.name}"
        elif route.split is not None:
            session = session_key(self._hook, self._method)
            name = route.split.choose(session or "")
            part = f"it gets {share_percent(settings.split, name)} of the sessions ({describe_split(settings.split)})"
            why = f": {part}; this session stays there as long as the weights stay the same"
            if session is None:
                name, why = "any of them", f" ({describe_split(settings.split)}): the hook names no session"
        if name in self._config.upstreams:
            yield f"upstream  {name} ({', '.join(self._targets(name))}){why}"
        else:
            yield f"upstream  {name}{why}"
        yield from self._bounds(name)
        for cause in Cause:
            verdict = describe_fallback(route.fallback, cause)
            yield f"{'fallback' if cause is Cause.TIMEOUT else '':9} {cause}: {verdict}"
        unkept = "" if settings.spool is None else "; only for an event that cannot be kept"
        yield f"{'':9} set by {self._from('fallback')}{unkept}"
        if route.fallback.fields:
            yield f"changed   {self._changed(route.fallback)}"

    def _bounds(self, name: str) -> Iterable[str]:
        """The limits of an attempt, and what applies beside it."""
        route, settings = self._match.route, self._settings
        if others := [other for other in settings.failover if other != name]:
            others_in_words = describe_failover_on(settings.failover_on, name)
            yield f"failover  {' then '.join(others)}, {others_in_words} ({self._from('failover_on')})"
            if route.first_budget is not None:
                yield f"reserve   {describe_reserve(settings)}: {name} has {seconds(route.first_budget)}"
        yield f"budget    {seconds(route.budget)} ({self._from('timeout')})"
        yield f"retry     {_describe_retry(self._retry(name))} ({self._retry_from(name)})"
        yield f"dedupe    {_describe_dedupe(route.dedupe)} ({self._from('dedupe')})"
        fleet = "" if self._config.state is None else " in the whole fleet: each replica has a share"
        if settings.max_in_flight is not None:
            yield f"limit     {settings.max_in_flight} hooks of this app at once{fleet} ({self._from('max_in_flight')})"
        if settings.rate_limit is not None:
            rate = f"{settings.rate_limit}, for this app{fleet}; above it, the fallback for overload"
            yield f"rate      {rate} ({self._from('rate_limit')})"
        if self._kind is MethodType.EVENT and settings.event_answers is EventAnswers.ANY:
            answers = "any 2xx means delivered, unless it contains a PHP fatal error"
            yield f"answers   {answers} ({self._from('event_answers')})"
        else:
            yield f"answers   {describe_response_check(settings.response_check)} ({self._from('response_check')})"
        if self._kind is MethodType.EVENT and self._config.store is not None:
            yield f"spool     {describe_spool(settings.spool)} ({self._from('spool')})"
            if settings.spool is not None:
                yield f"{'':9} {seconds(RESERVE)} of the budget are reserved for keeping it"
        if settings.shadow is not None:
            yield f"shadow    {describe_shadow(settings.shadow)}; {self._shadowed(name)}"

    def _changed(self, fallback: Fallback) -> str:
        """Whether the media server accepts the fields that the fallback changes."""
        if self._kind is MethodType.EVENT:
            return "nothing: the media server accepts no fields from the answer to an event"
        if self._kind is MethodType.CONNECT:
            return "up to the media server: the session has no settings yet"
        fields = changed_fields(fallback)
        condition = f"the media server accepts {', '.join(fields)} only if the session's connect answer "
        condition += overwrite_settings(fields)
        wanted = self._settings.client_config
        if not leaves_to_backend(wanted, self._method, fields):
            return f"{condition}; rest_client_config: enforce adds this"
        return f"{condition}; {enforce_setting(wanted, self._method, fields)} adds this"

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

    def _retry(self, name: str) -> Retry:
        upstream = self._config.upstreams.get(name)
        return self._match.route.retry if upstream is None else self._settings.retry or upstream.retry

    def _shadowed(self, upstream: str) -> str:
        shadow = self._settings.shadow
        if shadow is None or not Shadow(shadow, self._kind).covers(self._method):
            return "this method is not copied"
        if upstream == shadow.upstream:
            return "this hook is not copied: the shadow upstream decides it"
        if shadow.sample >= 1 or session_key(self._hook, self._method) is not None:
            return (
                "this hook is copied"
                if Shadow(shadow).takes(self._hook, "", self._method)
                else "this hook is not copied: its session is not in the sample"
            )
        return "this hook may be copied (at random): it names no session"

    def _recorded(self, record: RecordSettings) -> str:
        hook = self._hook
        if record.sample >= 1:
            what = ""
        elif not session_or_call(hook, self._method):
            what = f" with a chance of {100 * record.sample:.3g}%: it names no session"
        elif Sample(record.sample).takes(hook, "", self._method):
            what = f": its session is in the sample of {100 * record.sample:.3g}%"
        else:
            return f"no: its session is not in the sample of {100 * record.sample:.3g}%"
        only = ", only if no backend, rule or static app decides it" if record.failures_only else ""
        return f"in {display_value(record.path, self._shown, 'record', 'path')}{what}{only}"

    def _rejection(self) -> str:
        wanted = self._settings.client_config
        counts = wanted.stops(self._method)
        effect = effects.rejection_effect(self._kind, counts, self._method)
        if self._kind not in (MethodType.DIRECT, MethodType.INCOMING) or self._method == PLAY_HLS:
            return effect
        if counts:
            return f"{effect}; rest_client_config: enforce adds this"
        named = wanted.methods.get(self._method, {}).get("restOnError") == "FAIL"
        means = ([] if wanted.mode is Mode.ENFORCE else ["mode enforce"]) + (
            [] if named else [f"restOnError=FAIL for {self._method} under methods"]
        )
        return f"{effect}; rest_client_config with {' and '.join(means)} makes rejections stop calls"


def _describe_client_config(settings: Settings) -> str:
    wanted = settings.client_config
    fields = [f"{method}.{name}={value}" for method, it in wanted.methods.items() for name, value in it.items()]
    what = ", ".join(fields) or "nothing"
    if wanted.mode is Mode.ENFORCE:
        return f"{what}: added to the answer if missing"
    if wanted.mode is Mode.WARN:
        return f"{what} is expected: answers without it are counted and sent unchanged"
    return "nothing (rest_client_config is off)"


def _time(text: str | None) -> float:
    """Seconds since 1970; an invalid time ends the program with exit status 2."""
    if text is None:
        return time.time()
    try:
        moment = datetime.fromisoformat(text)
        if moment.year in (MINYEAR, MAXYEAR):  # a day earlier or later, it has no date
            raise ValueError
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except ValueError:
        fail(f"--at {text!r}: must be a time such as 2026-12-24T22:30 or 2026-12-24T22:30+01:00", BAD_USAGE)


def _describe_retry(retry: Retry) -> str:
    if retry.attempts == 1 or not retry.on:
        return "never"
    return f"at most {retry.attempts} attempts, on {', '.join(sorted(retry.on))}"


def _describe_dedupe(dedupe: float | None) -> str:
    if dedupe is None:
        return "off: every hook is sent to the backend"
    return f"the same bytes within {seconds(dedupe)} get the same verdict; the backend gets only the first"
