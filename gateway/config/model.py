"""The typed configuration: which keys there are, what they mean, and what an app's hooks meet in the end."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import ConfigDict, Field

from gateway.hooks import MethodType
from gateway.retry import Retry
from gateway.verdicts import Fallback, Verdict

from .addresses import Address, ListenAddresses, Networks
from .authorization import Credentials, Signature
from .backends import RetrySection, Upstream
from .rules import (
    BUDGET,
    IN_FLIGHT,
    REPEATS,
    UNKNOWN_APP,
    UPSTREAM_REFERENCE,
    VERDICTS_BY_CAUSE,
    AppName,
    MethodName,
    Section,
    Token,
    UpstreamName,
)
from .tls import ServerTls
from .tracing import Tracing
from .values import DurationIn, NotNull, OneOf, Processes, ReadAs, SizeIn, WholeNumber

DEDUPED: Final = frozenset({"connect", "OnCallEvent"})
"""The methods whose repeats are recognised unless the configuration says otherwise."""
DEDUPE_DEFAULT: Final = 10.0
"""Seconds, for these methods."""


class Server(Section):
    """Where the gateway listens, and what it grants a client."""

    listen: ListenAddresses = Field(
        default="0.0.0.0:8080",
        validate_default=True,
        description="Address of the hook port, or a list of them: ADDRESS:PORT, :PORT for all interfaces, or "
        "unix:/path for a unix socket. Default 0.0.0.0:8080. Whoever can connect can send hooks, unless allow_from, "
        "tls.client_ca or an app's credentials or signature keep them out.",
    )
    admin: Address = Field(
        default="127.0.0.1:9180",
        validate_default=True,
        description="Address of metrics, health and console. Default 127.0.0.1:9180. Never the hook port; before it "
        "leaves loopback, set admin.token.",
    )
    allow_from: Networks = Field(
        default=(),
        description="Networks and single addresses, IPv4 and IPv6, from which hooks may come, such as "
        "192.168.1.0/24 or 2001:db8::10: the media servers'. Anyone else gets 403. Default: an empty list, anyone who "
        "can connect. Behind a proxy that is the proxy's address; unix sockets are guarded by their directory alone.",
    )
    tls: Annotated[ServerTls | None, NotNull()] = Field(
        default=None,
        description="TLS on every address of listen. Default: none, hooks and their phone numbers travel in the clear.",
    )
    max_body: Annotated[int, SizeIn("1B", "64MiB")] = Field(
        default="256KiB",
        validate_default=True,
        description="Largest hook accepted; a larger one is answered with 413. Default 256KiB; a hook with an SDP "
        "takes about 4KiB. Too small refuses real calls; too large is memory that each hook inside may take.",
    )
    workers: Annotated[int, Processes(256)] = Field(
        default=1,
        description="Processes that serve the hook port together: a number up to 256, or auto for one per CPU that the "
        "gateway may use (a container's CPU quota is not looked at: write the number there). Default 1; every worker "
        "counts its limits, breakers and duplicates for itself.",
    )
    max_in_flight: Annotated[int, IN_FLIGHT] = Field(
        default=2000,
        description="Hooks inside the gateway at once, shared out among the workers; past it they are answered at "
        "once with the verdict for overload. Default 2000; each may hold up to max_body of memory. Too "
        "small refuses, in a peak, calls that the backends could have decided.",
    )
    max_connections: Annotated[int, WholeNumber(1, 1_000_000, "connections")] = Field(
        default=10_000,
        description="Client connections at once, shared out among the workers; one more is answered with 403 and "
        "closed. Default 10000, or fewer if the limit of open files has no room for them; a media server holds a few "
        "dozen. Too small keeps media servers out.",
    )
    read_timeout: Annotated[float, DurationIn("1ms", "10m")] = Field(
        default="5s",
        validate_default=True,
        description="How long a client may take to deliver a hook's head and body; past it, 408. Default 5s; longer, "
        "and clients that send nothing hold their connections for longer.",
    )
    keepalive_timeout: Annotated[float, DurationIn("1ms", "24h")] = Field(
        default="75s",
        validate_default=True,
        description="How long an idle client connection stays open. Default 75s; the media server drops its own after "
        "5 s, and if the gateway is the first to close, a hook can be sent twice.",
    )
    drain_timeout: Annotated[float, DurationIn("0s", "1h")] = Field(
        default="20s",
        validate_default=True,
        description="How long a stopping gateway waits for the hooks that it has begun. Default 20s; longer than the "
        "longest timeout of an app, shorter than the service manager's own patience, or hooks in flight are cut off.",
    )


class Admin(Section):
    """Who may use the admin port."""

    token: Annotated[Token | None, NotNull()] = Field(
        default=None,
        description="Bearer token asked of whoever is not on loopback, and for every POST. No default; while there is "
        "none, every user of the gateway's host can reload and drain, and nobody elsewhere can look.",
    )


class Log(Section):
    """What the gateway writes to standard output."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="Least severe messages that are logged. Default info; warning hides starts and reloads.",
    )
    format: Literal["json", "console"] = Field(
        default="json",
        description="json, one object a line, for machines; console for people. Default json; no program can rely on "
        "console's form.",
    )
    access: Literal["all", "failures", "off"] = Field(
        default="all",
        description="Which hooks get an access line: all, failures (whatever the backend did not decide), or off. "
        "Default all; with less, the log cannot tell whether a hook came at all.",
    )
    mask: tuple[Literal["caller", "callee"], ...] = Field(
        default=("caller", "callee"),
        max_length=2,
        description="Phone numbers that are masked in the log and in what the admin port tells of calls. Default both; "
        "an empty list writes them out.",
    )


class MetricLabels(Section):
    """What the metrics tell apart."""

    app_label: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Whether histograms have a series per app: always, never, or auto, up to 500 configured apps. "
        "Default auto; counters have it in any case. Always with many apps makes a scrape large and slow.",
    )


class MediaServer(Section):
    """The limits of the media server that sends the hooks."""

    request_timeout: Annotated[float, DurationIn("1ms", "10m")] = Field(
        default="15s",
        validate_default=True,
        description="The media server's rest_request_timeout. Default 15s, as there; write here what is set there, "
        "since a later answer counts as an error.",
    )
    margin: Annotated[float, DurationIn("0s", "10m")] = Field(
        default="500ms",
        validate_default=True,
        description="How much earlier the gateway must have answered. Default 500ms; no timeout may reach "
        "request_timeout less this margin. "
        "Too small, and an answer that is a little late on the way comes too late.",
    )


class Defaults(Section):
    """Settings of every app that does not set its own."""

    upstream: Annotated[str | None, UPSTREAM_REFERENCE] = Field(
        default=None,
        description="Upstream of the apps that name none. No default; where there is one, an app that lacks its "
        "upstream is no mistake any more: its hooks go there.",
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
        "mapping of causes. Default reject; allow lets calls through unchecked while the backend is down.",
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
        "set here, it holds for every method. A hook that is repeated on purpose within that time is not asked again.",
    )
    max_in_flight: Annotated[int | None, IN_FLIGHT] = Field(
        default=None,
        description="Hooks of each app inside the gateway at once, shared out among the workers; past it they are "
        "answered at once with the verdict for overload. Default: no limit but server.max_in_flight; "
        "without one, an app whose backend hangs can take all of that.",
    )


class Method(Section):
    """Settings of one method of an app; what is left out is the app's."""

    timeout: Annotated[float | None, BUDGET] = Field(
        default=None,
        description="Whole budget of one hook: queueing, connecting, every attempt, the answer's body. Default: the "
        "next wider level's; a backend that needs longer is answered for by fallback.",
    )
    fallback: Annotated[Fallback | None, VERDICTS_BY_CAUSE] = Field(
        default=None,
        description="Verdict when the backend gives none, per cause. Default: the next wider level's; a mapping here "
        "replaces that as a whole. allow lets calls through unchecked while the backend is down.",
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


class App(Method):
    """Settings of one appKey, or of all that match a glob; what is left out is the defaults'."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["credentials", "signature"]}})

    upstream: Annotated[str | None, UPSTREAM_REFERENCE] = Field(
        default=None,
        description="Upstream that decides this app's hooks. Default: defaults.upstream; a wrong one decides them by "
        "somebody else's rules.",
    )
    static: Annotated[Verdict | None, OneOf((Verdict.ALLOW, Verdict.REJECT))] = Field(
        default=None,
        description="The verdict for every hook of this app: allow or reject. No default; no backend is asked, so "
        "allow lets every call through.",
    )
    max_in_flight: Annotated[int | None, IN_FLIGHT] = Field(
        default=None,
        description="Hooks of this app inside at once, shared out among the workers, so that it cannot crowd out "
        "others; all appKeys of a glob share it; past it, the verdict for overload. Default: "
        "defaults.max_in_flight; too small refuses calls in a peak.",
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
    methods: dict[MethodName, Method] = Field(
        default={},
        description="Settings of single methods, such as OnCallEvent. Default: none, the app's hold for all; check "
        "warns of a name that it does not know, which may be mistyped.",
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


class Config(Section):
    """Configuration of wcs-gateway."""

    server: Server = Field(default_factory=Server, description="Listeners and limits for clients.")
    admin: Admin = Field(default_factory=Admin, description="Access to the admin port.")
    log: Log = Field(default_factory=Log, description="Logging.")
    metrics: MetricLabels = Field(default_factory=MetricLabels, description="Metrics.")
    tracing: Annotated[Tracing | None, NotNull()] = Field(
        default=None,
        description="OpenTelemetry traces. Default: none; needs the extra otel, pip install 'wcs-gateway[otel]'.",
    )
    media_server: MediaServer = Field(default_factory=MediaServer, description="Limits of the media server itself.")
    defaults: Defaults = Field(default_factory=Defaults, description="Settings of every app that sets none.")
    upstreams: dict[UpstreamName, Upstream] = Field(
        default={},
        description="Backends by name. Default none; the name is a label of the metrics: under another one, an "
        "upstream begins anew.",
    )
    apps: dict[AppName, App] = Field(
        default={},
        description="Apps by appKey, or by a glob with * and ?: the exact name first, then the longest matching glob. "
        "Default none; whoever is not here is refused with 403.",
    )
    unknown_app: Annotated[str, UNKNOWN_APP] = Field(
        default="reject",
        description="What meets an appKey that matches no app: reject, or the name of an app whose settings serve it. "
        "Default reject; an app's name lets any appKey through to a backend.",
    )
    hook_types: dict[MethodName, MethodType] = Field(
        default={},
        description="Types of methods that the catalogue lacks: connect, direct, event or incoming. Default none; the "
        "type changes what a refusal is said to mean, not the verdict.",
    )

    def settings(self, app: str, method: str | None) -> Settings:
        """What applies to a hook of the app at key *app*: its method's settings over its own over the defaults.

        *method* may be any name, configured or not; None stands for whichever method has no name here.
        Raises KeyError where ``apps`` has no such key.
        """
        own = self.apps[app]
        levels: tuple[Section, ...] = (own, self.defaults)
        if method is not None and (for_method := own.methods.get(method)) is not None:
            levels = (for_method, own, self.defaults)
        is_static = own.static is not None
        return Settings(
            upstream=None if is_static else _nearest(levels, "upstream"),
            static=own.static,
            timeout=_nearest(levels, "timeout"),
            fallback=_nearest(levels, "fallback"),
            retry=None if is_static else _nearest(levels, "retry"),
            max_in_flight=_nearest(levels, "max_in_flight"),
            dedupe=None if is_static else _dedupe(levels, method),
            credentials=own.credentials,
            signature=own.signature,
        )


def _nearest(levels: tuple[Section, ...], name: str) -> Any:
    """The first level's value that is set; a level may lack the setting altogether."""
    for level in levels:
        value = getattr(level, name, None)
        if value is not None:
            return value
    return None


def _dedupe(levels: tuple[Section, ...], method: str | None) -> float | None:
    for level in levels:
        if "dedupe" in level.model_fields_set:  # None is a value here: off
            seconds: float | None = getattr(level, "dedupe")  # noqa: B009 - typed by the levels above
            return seconds
    return DEDUPE_DEFAULT if method in DEDUPED else None
