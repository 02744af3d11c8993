"""The typed configuration: which keys there are, what they mean, and what an app's hooks meet in the end."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from gateway.hooks import MethodType
from gateway.verdicts import Cause, Fallback, Verdict

from .values import (
    SAYS,
    Address,
    Addresses,
    Checked,
    DurationIn,
    NotNull,
    OneOf,
    Secret,
    SecretRule,
    SizeIn,
    Text,
    WholeNumber,
    says,
    wanting,
    wants,
)

# --- the rules of single values ---

_NO_CONTROLS: Final = r"^[^\x00-\x1f\x7f-\x9f]+$"
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]").search
_HEADER_NAME: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
_OWN_HEADERS: Final = frozenset(
    {
        # hop by hop (RFC 9110, section 7.6.1) and message framing
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("proxy-authenticate", "proxy-authorization", "expect", "content-length"),
        # what the gateway itself sets on every request
        *("host", "via", "x-forwarded-for", "x-forwarded-proto", "x-request-id", "x-request-timeout-ms"),
        "traceparent",
    }
)
_is_literal_host = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]{1,5})?").fullmatch
_is_url_text = re.compile(r"[!-~]+").fullmatch


def _url(text: str) -> str:
    """An upstream's URL without a trailing slash. The messages never hold it: it may carry a password."""
    if not _is_url_text(text) or "\\" in text:
        raise ValueError("must be a URL in plain ASCII, without spaces, such as http://192.168.1.101/rest/my_api")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise ValueError("must be a URL with a valid host and a port from 1 to 65535") from exc
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL that begins with http:// or https:// and names a host")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or password: write them under credentials")
    if "?" in text or "#" in text:
        raise ValueError("must end with its path: a query (?) or fragment (#) is not allowed")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("must be a URL with a valid host and a port from 1 to 65535")
    return text.rstrip("/")


def _host(text: str) -> str:
    if text not in {"target", "preserve"} and not _is_literal_host(text):
        raise ValueError("must be target, preserve, or a host name such as legacy.example.com")
    return text


def _header_name(text: str) -> str:
    if not re.fullmatch(_HEADER_NAME, text) or len(text) > 256:
        raise ValueError("must be a header name: letters, digits and hyphens")
    if text.lower() in _OWN_HEADERS:
        raise ValueError("must not be set here: the gateway sets or removes this header itself")
    return text


def _header_value(text: str) -> None:
    if not all(" " <= char <= "~" or char == "\t" for char in text):
        raise ValueError("must be one line of printable ASCII characters")
    if text != text.strip() or len(text) > 8192:
        raise ValueError("must not begin or end with white space, and be at most 8192 characters long")


def _not_empty(text: str) -> None:
    if not text:
        raise ValueError("must not be empty")


def _no_controls(text: str) -> None:
    if _CONTROLS(text):
        raise ValueError("must not hold control characters such as a line break")


def _username(text: str) -> str:
    _not_empty(text)
    _no_controls(text)
    if ":" in text:  # RFC 7617, section 2
        raise ValueError("must not hold a colon: HTTP Basic ends the user name there")
    return text


class _FallbackRule:
    """``reject``, ``allow``, or a mapping of causes, read into a Fallback."""

    _ALLOW: Final = dict.fromkeys((Cause.TIMEOUT, Cause.UNREACHABLE, Cause.OVERLOAD), "allow")
    _CAUSES: Final = [cause.value for cause in Cause]
    _VERDICTS: Final = ["allow", "reject"]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        cause = core_schema.custom_error_schema(
            core_schema.literal_schema(self._CAUSES),
            custom_error_type=SAYS,
            custom_error_message="{text}",
            custom_error_context={"text": f"unknown cause; there are {', '.join(self._CAUSES)}"},
        )
        verdict = wanting(core_schema.literal_schema(self._VERDICTS), "must be allow or reject")
        mapping = core_schema.no_info_before_validator_function(
            self._as_mapping, core_schema.dict_schema(cause, verdict)
        )
        return core_schema.no_info_after_validator_function(
            self._fallback,
            mapping,
            serialization=core_schema.plain_serializer_function_ser_schema(self._written),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        verdict = {"enum": self._VERDICTS}
        causes = dict.fromkeys(self._CAUSES, verdict)
        return {"anyOf": [verdict, {"type": "object", "properties": causes, "additionalProperties": False}]}

    def _as_mapping(self, value: object) -> object:
        if value == "reject":
            return {}
        if value == "allow":
            return self._ALLOW
        if not isinstance(value, dict):
            raise wants("must be reject, allow, or a mapping such as {timeout: allow, unreachable: allow}")
        return value

    @staticmethod
    def _fallback(verdicts: dict[str, str]) -> Fallback:
        return Fallback(frozenset(Cause(cause) for cause, verdict in verdicts.items() if verdict == "allow"))

    @staticmethod
    def _written(fallback: Fallback | None) -> dict[str, str] | None:
        return None if fallback is None else {cause.value: fallback.verdict(cause).value for cause in Cause}


class _HeadersRule:
    """Header names differ in more than their case."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._distinct, handler(source))

    @staticmethod
    def _distinct(headers: dict[str, Secret]) -> dict[str, Secret]:
        if len({name.lower() for name in headers}) < len(headers):
            raise says("must name each header once: upper and lower case do not differ")
        return headers


AppName = Annotated[str, Text(_NO_CONTROLS, "must be an appKey: 1 to 256 characters, no control characters", 256)]
UpstreamName = Annotated[
    str, Text(_NO_CONTROLS, "must be an upstream's name: 1 to 256 characters, no control characters", 256)
]
MethodName = Annotated[
    str,
    Text(
        r"^[A-Za-z][A-Za-z0-9_]{0,63}$",
        "must be a method's name: a letter, then at most 63 letters, digits or _", 64,
    ),
]  # fmt: skip
HeaderName = Annotated[str, Checked(_header_name, _HEADER_NAME[1:-1], "X-Api-Key")]
HeaderValue = Annotated[Secret, SecretRule(_header_value)]

_Budget = DurationIn("1ms", "10m")
_UpstreamReference = Text(_NO_CONTROLS, "must be the name of an upstream", 256)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


# --- the sections ---


class Server(_Model):
    """Where the gateway listens, and what it grants a client."""

    listen: Addresses = Field(
        default="0.0.0.0:8080",
        validate_default=True,
        description="Address of the hook port, or a list of them: ADDRESS:PORT, :PORT for all interfaces. Default "
        "0.0.0.0:8080. Whoever can connect can send hooks.",
    )
    admin: Address = Field(
        default="127.0.0.1:9180",
        validate_default=True,
        description="Address of metrics, health and console. Default 127.0.0.1:9180. Never the hook port; before it "
        "leaves loopback, set admin.token.",
    )
    max_body: Annotated[int, SizeIn("1B", "64MiB")] = Field(
        default="256KiB",
        validate_default=True,
        description="Largest hook accepted; a larger one is answered with 413. Default 256KiB; a hook with an SDP "
        "takes about 4KiB.",
    )
    read_timeout: Annotated[float, DurationIn("1ms", "10m")] = Field(
        default="5s",
        validate_default=True,
        description="How long a client may take to deliver a hook's head and body; past it, 408. Default 5s.",
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
        "longest timeout of an app, shorter than the service manager's own patience.",
    )


class Admin(_Model):
    """Who may use the admin port."""

    token: Annotated[Annotated[Secret, SecretRule(_not_empty)] | None, NotNull()] = Field(
        default=None,
        description="Bearer token asked of whoever is not on loopback, and for every POST. No default; write it as "
        "${env:NAME} or ${file:/path}.",
    )


class Log(_Model):
    """What the gateway writes to standard output."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe messages that are logged. Default info."
    )
    format: Literal["json", "console"] = Field(
        default="json",
        description="json, one object a line, for machines; console for people. Default json.",
    )
    access: Literal["all", "failures", "off"] = Field(
        default="all",
        description="Which hooks get an access line: all, failures (whatever the backend did not decide), or off. "
        "Default all.",
    )
    mask: tuple[Literal["caller", "callee"], ...] = Field(
        default=("caller", "callee"),
        max_length=2,
        description="Phone numbers that are masked in the log. Default both; an empty list writes them out.",
    )


class MediaServer(_Model):
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
        "request_timeout less this margin.",
    )


class Defaults(_Model):
    """Settings of every app that does not set its own."""

    upstream: Annotated[str | None, _UpstreamReference] = Field(
        default=None, description="Upstream of the apps that name none. No default."
    )
    timeout: Annotated[float, _Budget] = Field(
        default="3s",
        validate_default=True,
        description="Whole budget of one hook: queueing, connecting, every attempt, the answer's body. Default 3s.",
    )
    fallback: Annotated[Fallback, _FallbackRule()] = Field(
        default="reject",
        validate_default=True,
        description="Verdict when the backend gives none: reject, allow (timeout, unreachable and overload only), or a "
        "mapping of causes. Default reject; allow lets calls through unchecked while the backend is down.",
    )


class Credentials(_Model):
    """HTTP Basic credentials for a backend."""

    username: Annotated[str, Checked(_username, r"[^:]+", "wcs")] = Field(description="User name; no colon. Required.")
    password: Annotated[Secret, SecretRule(_no_controls)] = Field(
        description="Password, best written as ${env:NAME} or ${file:/path}. Required."
    )


class Upstream(_Model):
    """A backend that decides hooks."""

    url: Annotated[str, Checked(_url, r"https?://[^\s?#@\\]+", "http://192.168.1.101/rest/my_api")] = Field(
        description="URL to which /METHOD is appended, as it was set on the media server before. Required; http or "
        "https, without user name and query."
    )
    connect_timeout: Annotated[float, DurationIn("1ms", "1m")] = Field(
        default="500ms",
        validate_default=True,
        description="How long a connection may take to be made, inside the hook's budget. Default 500ms.",
    )
    keepalive: Annotated[float | None, DurationIn("1ms", "24h", off=True)] = Field(
        default="60s",
        validate_default=True,
        description="How long an idle connection to the backend is kept; off makes a new one for every hook. Default "
        "60s; keep it below the backend's own.",
    )
    max_connections: Annotated[int, WholeNumber(1, 65535)] = Field(
        default=64,
        description="Connections to the backend at once; past it hooks queue inside their budget. Default 64; no more "
        "than the backend has workers.",
    )
    max_answer: Annotated[int, SizeIn("1B", "64MiB")] = Field(
        default="1MiB",
        validate_default=True,
        description="Largest body of an answer; a larger one is cause bad_answer. Default 1MiB.",
    )
    host: Annotated[str, Checked(_host, r"target|preserve|[A-Za-z0-9._~:\[\]-]+", "target")] = Field(
        default="target",
        description="Host header sent: target (the URL's own), preserve (the media server's), or a literal name. "
        "Default target.",
    )
    headers: Annotated[dict[HeaderName, HeaderValue], _HeadersRule()] = Field(
        default={},
        description="Headers added to every request, in place of the client's. Default none; the values are secret.",
    )
    credentials: Annotated[Credentials | None, NotNull()] = Field(
        default=None,
        description="HTTP Basic credentials sent in place of the media server's Authorization. Default: that header "
        "goes on as it came.",
    )


class Method(_Model):
    """Settings of one method of an app; what is left out is the app's."""

    timeout: Annotated[float | None, _Budget] = Field(
        default=None, description="Whole budget of one hook. Default: the next wider level's."
    )
    fallback: Annotated[Fallback | None, _FallbackRule()] = Field(
        default=None,
        description="Verdict when the backend gives none, per cause. Default: the next wider level's; replaces it "
        "as a whole.",
    )


class App(Method):
    """Settings of one appKey, or of all that match a glob; what is left out is the defaults'."""

    upstream: Annotated[str | None, _UpstreamReference] = Field(
        default=None, description="Upstream that decides this app's hooks. Default: defaults.upstream."
    )
    static: Annotated[Verdict | None, OneOf((Verdict.ALLOW, Verdict.REJECT))] = Field(
        default=None,
        description="The verdict for every hook of this app: allow or reject. No default; no backend is asked.",
    )
    methods: dict[MethodName, Method] = Field(
        default={}, description="Settings of single methods, such as OnCallEvent."
    )


class Settings(NamedTuple):
    """What applies to one app's hooks of one method, every level merged."""

    upstream: str | None
    """None exactly where ``static`` decides."""
    static: Verdict | None
    timeout: float
    """Seconds."""
    fallback: Fallback


class Config(_Model):
    """Configuration of wcs-gateway."""

    server: Server = Field(default_factory=Server, description="Listeners and limits for clients.")
    admin: Admin = Field(default_factory=Admin, description="Access to the admin port.")
    log: Log = Field(default_factory=Log, description="Logging.")
    media_server: MediaServer = Field(default_factory=MediaServer, description="Limits of the media server itself.")
    defaults: Defaults = Field(default_factory=Defaults, description="Settings of every app that sets none.")
    upstreams: dict[UpstreamName, Upstream] = Field(default={}, description="Backends by name.")
    apps: dict[AppName, App] = Field(
        default={},
        description="Apps by appKey, or by a glob with * and ?: the exact name first, then the longest matching glob.",
    )
    unknown_app: Annotated[str, Text(_NO_CONTROLS, "must be reject or the name of an app", 256)] = Field(
        default="reject",
        description="What meets an appKey that matches no app: reject, or the name of an app whose settings serve it. "
        "Default reject; an app's name lets any appKey through to a backend.",
    )
    hook_types: dict[MethodName, MethodType] = Field(
        default={},
        description="Types of methods that the catalogue lacks: connect, direct, event or incoming.",
    )

    def settings(self, app: str, method: str | None) -> Settings:
        """What applies to a hook of the app at key *app*: its method's settings over its own over the defaults.

        Raises KeyError where ``apps`` has no such key.
        """
        own = self.apps[app]
        levels: tuple[_Model, ...] = (own, self.defaults)
        if method is not None and (for_method := own.methods.get(method)) is not None:
            levels = (for_method, own, self.defaults)
        return Settings(
            upstream=None if own.static else _nearest(levels, "upstream"),
            static=own.static,
            timeout=_nearest(levels, "timeout"),
            fallback=_nearest(levels, "fallback"),
        )


def _nearest(levels: tuple[_Model, ...], name: str) -> Any:
    """The first level's value that is set; a level may lack the setting altogether."""
    for level in levels:
        value = getattr(level, name, None)
        if value is not None:
            return value
    return None
