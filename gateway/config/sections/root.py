"""The typed configuration: its keys, what they mean, and what applies to an app's hooks."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, PrivateAttr

from gateway.config.sections.addresses import AdminListener, HookListeners, Networks
from gateway.config.sections.apps import App, Defaults, Settings, merge_settings, plain_settings, setting_levels
from gateway.config.sections.fields import IN_FLIGHT, UNKNOWN_APP, AppName, MethodName, Section, Token, UpstreamName
from gateway.config.sections.history import HISTORY
from gateway.config.sections.recording import RECORD
from gateway.config.sections.state import STATE, StateConfig
from gateway.config.sections.store import STORE, StoreSettings
from gateway.config.sections.tls import ServerTls
from gateway.config.sections.tracing import Tracing
from gateway.config.sections.types import NotNull, duration, processes, size, whole_number
from gateway.config.sections.upstreams import Upstream
from gateway.config.sections.watch import WATCH, WatchSettings
from gateway.config.source.problems import path_text
from gateway.model.hooks import MethodType
from gateway.policy.history import HistorySettings
from gateway.recording import RecordSettings


class Server(Section):
    """Where the gateway listens, and what clients may use."""

    listen: HookListeners = Field(
        default="0.0.0.0:8080",
        validate_default=True,
        description="Address of the hook port, or a list of addresses: ADDRESS:PORT, :PORT for all interfaces, "
        "unix:/path for a unix socket, or systemd:NAME for the sockets that systemd hands over under this name "
        "(FileDescriptorName=), so that connections wait during a restart instead of being refused. Default "
        "0.0.0.0:8080. Any client that can connect can send hooks, unless allow_from, tls.client_ca or an app's "
        "credentials or signature prevent it.",
    )
    admin: AdminListener = Field(
        default="127.0.0.1:9180",
        validate_default=True,
        description="Address of metrics, health and console, or systemd:NAME, as for listen. Default 127.0.0.1:9180. "
        "It cannot share the hook port; set admin.token before you open it beyond loopback.",
    )
    allow_from: Networks = Field(
        default=(),
        description="Networks and single addresses, IPv4 and IPv6, from which hooks may come, such as 192.168.1.0/24 "
        "or 2001:db8::10: those of the media servers. Other clients get 403, and have at most 64 connections, 16 an "
        "address, beside max_connections. Default: an empty list, any client that can connect. Behind a proxy, the "
        "client's address is the proxy's, unless proxy_protocol or trusted_proxies names the proxy; unix sockets are "
        "protected by their directory only.",
    )
    trusted_proxies: Networks = Field(
        default=(),
        description="Networks and single addresses of the proxies whose X-Forwarded-For is believed. They may always "
        "connect; each hook's client is then the rightmost address of that header that is not one of them, or the "
        "proxy itself where the header is missing. allow_from, log and backends see that client. Not for the admin "
        "port, nor for unix sockets. Default: an empty list, X-Forwarded-For is ignored. Any address listed here can "
        "pretend to be any client; a header that is malformed up to that address gets 403.",
    )
    proxy_protocol: Networks = Field(
        default=(),
        description="Networks and single addresses of the balancers whose connections begin with a PROXY header, "
        "version 1 or 2, before TLS. allow_from, limits, log and backends see the client that it names; in a health "
        "check (LOCAL, UNKNOWN), the balancer itself. Not for the admin port, nor for unix sockets. Default: an empty "
        "list, no PROXY header is accepted. Connections from these addresses without a valid header are closed "
        "without an answer: switch it on here and on the balancer together.",
    )
    tls: Annotated[ServerTls | None, NotNull()] = Field(
        default=None,
        description="TLS on every address of listen. Default: none. Without it, hooks and their phone numbers are "
        "sent unencrypted.",
    )
    max_body: Annotated[int, size("1B", "64MiB")] = Field(
        default="256KiB",
        validate_default=True,
        description="Largest hook accepted; a larger one is answered with 413. Default 256KiB. A hook with an SDP "
        "takes about 4KiB: too small rejects real calls; too large is memory that each hook in flight may take.",
    )
    workers: Annotated[int, processes(256)] = Field(
        default=1,
        description="Processes that serve the hook port together: a number up to 256, or auto for one per CPU that "
        "the gateway may use (it does not see a container's CPU quota: write the number there). Default 1. More "
        "workers than CPUs gain nothing. Limits, breakers and duplicates are common to all workers.",
    )
    max_in_flight: Annotated[int, IN_FLIGHT] = Field(
        default=2000,
        description="Hooks waiting for backends at once, over all workers; past it, they are answered at once with "
        "the verdict for overload. Repeats that wait for a hook in flight do not count: up to 128 may wait for one "
        "hook, and 128 in all. Default 2000. Each may take up to max_body of memory; too small rejects calls in a "
        "peak that the backends could have decided.",
    )
    max_connections: Annotated[int, whole_number(1, 1_000_000, "connections")] = Field(
        default=10_000,
        description="Client connections at once, divided among the workers; one more is answered with 403 and closed. "
        "Equally many TLS handshakes may be in progress, at least 64 and at most 4096, a quarter of them per address "
        "that allow_from does not list. Default 10000, or fewer if the limit of open files is too low for them. A "
        "media server keeps a few dozen; too small keeps media servers out.",
    )
    read_timeout: Annotated[float, duration("1ms", "10m")] = Field(
        default="5s",
        validate_default=True,
        description="How long a client may take to send a hook's head and body; past it, 408. Default 5s. The longer "
        "it is, the longer clients that send nothing keep their connections.",
    )
    keepalive_timeout: Annotated[float, duration("1ms", "24h")] = Field(
        default="75s",
        validate_default=True,
        description="How long an idle client connection stays open. Default 75s. The media server closes its own "
        "after 5 s; if the gateway closes first, a hook can be sent twice.",
    )
    underscore_headers: Literal["drop", "keep"] = Field(
        default="drop",
        description="What happens to client headers whose names contain an underscore, or another character that is "
        "not a letter, digit or hyphen: drop or keep. Default drop. With keep, a client can set X_Api_Key, which PHP "
        "cannot tell from your X-Api-Key. Names that resemble those of the gateway's own headers are always dropped.",
    )
    drain_timeout: Annotated[float, duration("0s", "1h")] = Field(
        default="20s",
        validate_default=True,
        description="How long a stopping gateway waits for the hooks in flight. Default 20s. Make it longer than the "
        "longest timeout of an app and shorter than the service manager's own limit, or hooks in flight are cut off.",
    )
    watch: Annotated[WatchSettings | None, WATCH] = Field(
        default={},
        validate_default=True,
        description="When a changed configuration file is reloaded automatically, or off. Default: after 2s without a "
        "change. With off, only POST /-/reload and SIGHUP reload it.",
    )


class Admin(Section):
    """Who may use the admin port."""

    token: Annotated[Token | None, NotNull()] = Field(
        default=None,
        description="Bearer token required of clients that are not on loopback, and for every POST; printable ASCII. "
        "No default. Without a token, every user of the gateway's host can reload and drain, and clients elsewhere "
        "can only use /-/healthy and /-/ready.",
    )


class Log(Section):
    """What the gateway writes to standard output."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="Least severe messages that are logged. Default info. warning hides starts and reloads.",
    )
    format: Literal["json", "console"] = Field(
        default="json",
        description="json, one object a line, for programs; console for people. Default json. The form of console may "
        "change: no program should parse it.",
    )
    access: Literal["all", "failures", "off"] = Field(
        default="all",
        description="Which hooks get an access line: all, failures (those that the backend did not decide), or off. "
        "Default all. With less, the log does not show whether a hook arrived at all.",
    )
    mask: tuple[Literal["caller", "callee"], ...] = Field(
        default=("caller", "callee"),
        max_length=2,
        description="Phone numbers that are masked in the log and on the admin port. Default: both of them. An empty "
        "list logs numbers unmasked.",
    )


class MetricLabels(Section):
    """The labels of metrics."""

    app_label: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Whether histograms have a series per app: always, never, or auto, which means up to 500 "
        "configured apps. Default auto. Counters always have it; always with many apps makes a scrape large and slow.",
    )


class MediaServer(Section):
    """The limits of the media server that sends the hooks."""

    request_timeout: Annotated[float, duration("1ms", "10m")] = Field(
        default="15s",
        validate_default=True,
        description="The media server's rest_request_timeout. Default 15s, as on the media server. Write the same "
        "value here: the media server counts a later answer as an error.",
    )
    margin: Annotated[float, duration("0s", "10m")] = Field(
        default="500ms",
        validate_default=True,
        description="How much earlier the gateway must have answered. Default 500ms. Every timeout must be below "
        "request_timeout minus this margin; too small, and an answer that is slightly delayed in transit arrives too "
        "late.",
    )


REVISION: Final = 12
"""Digits of a configuration's revision."""


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
        description="Hooks with their decisions, written to files for replay. Default: none. The files contain what "
        "the hooks contain, except masked fields.",
    )
    store: Annotated[StoreSettings | None, STORE] = Field(
        default=None,
        description="Where the gateway keeps events that are delivered later (spool) and decisions (history). "
        "Default: none, so that both are off. A store that cannot be used is reported, and no hook waits for it: "
        "hooks are then answered as they would be without it.",
    )
    history: Annotated[HistorySettings | None, HISTORY] = Field(
        default=None,
        description="Decisions kept in the store, for gateway decisions and the console; {} for the defaults of its "
        "keys. Default: none, so that decisions are found for about a minute only. Needs store. It shows who called "
        "whom and when, with numbers masked as log.mask says.",
    )
    state: Annotated[StateConfig | None, STATE] = Field(
        default=None,
        description="The Redis or Valkey server through which several gateways share limits, sessions and operators' "
        "actions. Default: none, each gateway is alone; needs the extra fleet, pip install 'wcs-gateway[fleet]'. A "
        "server that cannot be used is reported, and hooks are answered as they would be without it.",
    )
    media_server: MediaServer = Field(default_factory=MediaServer, description="Limits of the media server itself.")
    defaults: Defaults = Field(default_factory=Defaults, description="Settings of every app that sets none.")
    upstreams: dict[UpstreamName, Upstream] = Field(
        default={},
        description="Backends by name. Default none. The name is a label of the metrics: a renamed upstream starts "
        "new series.",
    )
    apps: dict[AppName, App] = Field(
        default={},
        description="Apps by appKey, or by a glob with * and ?: the exact name first, then the longest matching glob. "
        "Default none. Hooks of other appKeys are rejected with 403.",
    )
    unknown_app: Annotated[str, UNKNOWN_APP] = Field(
        default="reject",
        description="What happens to an appKey that matches no app: reject, or the name of an app whose settings "
        "apply to it. Default reject. An app's name lets any appKey reach a backend.",
    )
    hook_types: dict[MethodName, MethodType] = Field(
        default={},
        description="Types of methods that the catalogue lacks or has otherwise: connect, direct, event or incoming. "
        "Default none. A name in neither is an event if it ends in Event and does not begin with On, else direct. The "
        "type decides which keys under methods and which rules apply, whether any 2xx counts as delivered, and what a "
        "rejection means.",
    )

    _revision: str = PrivateAttr(default="")

    @property
    def revision(self) -> str:
        """Says which text of the file it was made of: the first digits of its SHA-256; empty where it was not read."""
        return self._revision

    def set_revision(self, digest: str) -> None:
        """For what has read the file."""
        self._revision = digest[:REVISION]

    def inherited_settings(self, method: str | None = None) -> Settings:
        """What applies to an app that sets nothing of its own; *method* as for ``settings``."""
        return merge_settings(App(), method, self.defaults, self.hook_types)

    def settings(self, app: str, method: str | None) -> Settings:
        """What applies to a hook of the app at key *app*, of all levels that say something of its method.

        *method* may be any name, configured or not; or a glob or a type, for what such a key results in; None means
        what is said for all methods. Raises KeyError where ``apps`` has no such key.
        """
        return merge_settings(self.apps[app], method, self.defaults, self.hook_types)

    def plain_settings(self, app: str, method: str | None, every: Settings) -> Settings:
        """The same if no key under ``methods`` matches the method, from what applies to *every* method: quicker."""
        return plain_settings(every, self.apps[app], method, self.defaults, self.hook_types)

    def setting_path(self, app: str, method: str | None, key: str) -> str:
        """Which part of the file sets *key* for these hooks, as a path; empty where none does.

        Raises KeyError where ``apps`` has no such key.
        """
        for path, section in setting_levels(self.apps[app], method, self.defaults, self.hook_types):
            if key in section.model_fields_set:
                return path_text((*path, key) if path[:1] == ("defaults",) else ("apps", app, *path, key))
        return ""
