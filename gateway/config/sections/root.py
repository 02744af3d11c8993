"""The typed configuration: which keys there are, what they mean, and what an app's hooks meet in the end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.sections.addresses import AdminAddress, ListenAddresses, Networks
from gateway.config.sections.apps import App, Defaults, Settings, merge_settings, plain_settings, setting_levels
from gateway.config.sections.fields import IN_FLIGHT, UNKNOWN_APP, AppName, MethodName, Section, Token, UpstreamName
from gateway.config.sections.recording import RECORD
from gateway.config.sections.tls import ServerTls
from gateway.config.sections.tracing import Tracing
from gateway.config.sections.types import NotNull, duration, processes, size, whole_number
from gateway.config.sections.upstreams import Upstream
from gateway.config.sections.watch import WATCH, WatchSettings
from gateway.config.source.problems import path_text
from gateway.model.hooks import MethodType
from gateway.recording import RecordSettings


class Server(Section):
    """Where the gateway listens, and what it grants a client."""

    listen: ListenAddresses = Field(
        default="0.0.0.0:8080",
        validate_default=True,
        description="Address of the hook port, or a list of them: ADDRESS:PORT, :PORT for all interfaces, or "
        "unix:/path for a unix socket. Default 0.0.0.0:8080. Whoever can connect can send hooks, unless allow_from, "
        "tls.client_ca or an app's credentials or signature keep them out.",
    )
    admin: AdminAddress = Field(
        default="127.0.0.1:9180",
        validate_default=True,
        description="Address of metrics, health and console. Default 127.0.0.1:9180. Never the hook port; before it "
        "leaves loopback, set admin.token.",
    )
    allow_from: Networks = Field(
        default=(),
        description="Networks and single addresses, IPv4 and IPv6, from which hooks may come, such as "
        "192.168.1.0/24 or 2001:db8::10: the media servers'. Anyone else gets 403, and holds at most 64 connections, "
        "16 an address, beside max_connections. Default: an empty list, anyone who can connect. Behind a proxy that is "
        "the proxy's address; unix sockets are guarded by their directory alone.",
    )
    tls: Annotated[ServerTls | None, NotNull()] = Field(
        default=None,
        description="TLS on every address of listen. Default: none, hooks and their phone numbers travel in the clear.",
    )
    max_body: Annotated[int, size("1B", "64MiB")] = Field(
        default="256KiB",
        validate_default=True,
        description="Largest hook accepted; a larger one is answered with 413. Default 256KiB; a hook with an SDP "
        "takes about 4KiB. Too small refuses real calls; too large is memory that each hook inside may take.",
    )
    workers: Annotated[int, processes(256)] = Field(
        default=1,
        description="Processes that serve the hook port together: a number up to 256, or auto for one per CPU that the "
        "gateway may use (a container's CPU quota is not looked at: write the number there). Default 1; more than CPUs "
        "gain nothing. Limits, breakers and duplicates are common to all workers.",
    )
    max_in_flight: Annotated[int, IN_FLIGHT] = Field(
        default=2000,
        description="Hooks that backends are asked for at once, at all workers together; past it they are answered at "
        "once with the verdict for overload. Repeats that wait for a hook in flight do not count: 128 of one hook and "
        "as many in all may wait. Default 2000; each may hold up to max_body of memory. Too small rejects, in a peak, "
        "calls that the backends could have decided.",
    )
    max_connections: Annotated[int, whole_number(1, 1_000_000, "connections")] = Field(
        default=10_000,
        description="Client connections at once, shared out among the workers; one more is answered with 403 and "
        "closed. As many TLS handshakes may be under way, at least 64 and at most 4096, a quarter of them per address "
        "that allow_from does not list. Default 10000, or fewer if the limit of open files has no room for them; a "
        "media server holds a few dozen. Too small keeps media servers out.",
    )
    read_timeout: Annotated[float, duration("1ms", "10m")] = Field(
        default="5s",
        validate_default=True,
        description="How long a client may take to deliver a hook's head and body; past it, 408. Default 5s; longer, "
        "and clients that send nothing hold their connections for longer.",
    )
    keepalive_timeout: Annotated[float, duration("1ms", "24h")] = Field(
        default="75s",
        validate_default=True,
        description="How long an idle client connection stays open. Default 75s; the media server drops its own after "
        "5 s, and if the gateway is the first to close, a hook can be sent twice.",
    )
    underscore_headers: Literal["drop", "keep"] = Field(
        default="drop",
        description="What happens to a client's headers whose names have an underscore, or another character that is "
        "no letter, digit or hyphen: drop or keep. Default drop; with keep, a client can set X_Api_Key, which PHP "
        "cannot tell from your X-Api-Key. Names like those of the gateway's own headers are dropped in any case.",
    )
    drain_timeout: Annotated[float, duration("0s", "1h")] = Field(
        default="20s",
        validate_default=True,
        description="How long a stopping gateway waits for the hooks that it has begun. Default 20s; longer than the "
        "longest timeout of an app, shorter than the service manager's own patience, or hooks in flight are cut off.",
    )
    watch: Annotated[WatchSettings | None, WATCH] = Field(
        default={},
        validate_default=True,
        description="When a changed configuration file is reloaded by itself, or off. Default: after 2s without a "
        "change; off, only POST /-/reload and SIGHUP reload it.",
    )


class Admin(Section):
    """Who may use the admin port."""

    token: Annotated[Token | None, NotNull()] = Field(
        default=None,
        description="Bearer token asked of whoever is not on loopback, and for every POST; printable ASCII. No "
        "default; while there is none, every user of the gateway's host can reload and drain, and nobody elsewhere can "
        "look.",
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
        description="Phone numbers that are masked in the log and in what the admin port tells of calls. Default: both "
        "of them; an empty list writes them out.",
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

    request_timeout: Annotated[float, duration("1ms", "10m")] = Field(
        default="15s",
        validate_default=True,
        description="The media server's rest_request_timeout. Default 15s, as there; write here what is set there, "
        "since a later answer counts as an error.",
    )
    margin: Annotated[float, duration("0s", "10m")] = Field(
        default="500ms",
        validate_default=True,
        description="How much earlier the gateway must have answered. Default 500ms; no timeout may reach "
        "request_timeout less this margin. "
        "Too small, and an answer that is a little late on the way comes too late.",
    )


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
    record: Annotated[RecordSettings | None, RECORD] = Field(
        default=None,
        description="Hooks with their decisions, written to files to be replayed. Default: none; they hold what the "
        "hooks hold, masked fields apart.",
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
        description="Types of methods that the catalogue lacks, or has otherwise: connect, direct, event or incoming. "
        "Default none; a name in neither is an event if it ends in Event and does not begin with On, else direct. The "
        "type says which keys under methods and which rules a hook meets, whether any 2xx is a delivery, and what a "
        "refusal means.",
    )

    def inherited_settings(self, method: str | None = None) -> Settings:
        """What applies to an app that sets nothing of its own; *method* as for ``settings``."""
        return merge_settings(App(), method, self.defaults, self.hook_types)

    def settings(self, app: str, method: str | None) -> Settings:
        """What applies to a hook of the app at key *app*, of all levels that say something of its method.

        *method* may be any name, configured or not; or a glob or a type, for what such a key comes to; None stands for
        what is said of all methods. Raises KeyError where ``apps`` has no such key.
        """
        return merge_settings(self.apps[app], method, self.defaults, self.hook_types)

    def plain_settings(self, app: str, method: str | None, every: Settings) -> Settings:
        """The same where no key under ``methods`` stands for the method, out of what holds for *every* one: quicker."""
        return plain_settings(every, self.apps[app], method, self.defaults)

    def setting_path(self, app: str, method: str | None, key: str) -> str:
        """Which part of the file sets *key* for these hooks, as a path; empty where none does.

        Raises KeyError where ``apps`` has no such key.
        """
        for path, section in setting_levels(self.apps[app], method, self.defaults, self.hook_types):
            if key in section.model_fields_set:
                return path_text((*path, key) if path[:1] == ("defaults",) else ("apps", app, *path, key))
        return ""
