"""The state: the Redis or Valkey server through which several gateways tell each other what concerns all of them."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated, Final, NamedTuple
from urllib.parse import unquote

from pydantic import Field, SecretStr

from gateway.config.sections.addresses import find_unfit_for_path, parse_authority
from gateway.config.sections.fields import Section
from gateway.config.sections.tls import FilePath
from gateway.config.sections.types import (
    NotNull,
    ReadAs,
    Value,
    duration,
    invalid,
    invalid_value,
    read_value,
    text,
    text_schema,
)
from gateway.config.source.display import mask_text

PORT: Final = 6379
SENTINEL_PORT: Final = 26379
_DRIVERS: Final = ("redis", "hiredis")
_MAX_HOSTS: Final = 32
EXAMPLE: Final = "redis://127.0.0.1:6379/0"
_SENTINEL: Final = "redis+sentinel://HOST:26379,HOST:26379/SERVICE"
_FORM: Final = f"must be redis://USER:${{env:REDIS_PASSWORD}}@HOST:6379/0, rediss://… for TLS, or {_SENTINEL}"
_split_url = re.compile(
    r"(?s)(?P<scheme>rediss?(?:\+sentinel)?)://(?:(?P<login>.*)@)?(?P<hosts>[^@/?#]*)(?:/(?P<path>[^@?#]*))?"
).fullmatch
_split_shown = re.compile(
    r"(?s)(?P<before>rediss?(?:\+sentinel)?://(?:\$\{[^}]*\}|[^:@/?$])*:)(?P<password>.*)(?P<after>@[^@]*)"
).fullmatch
_has_password = re.compile(r"(?s)rediss?(?:\+sentinel)?://.*@.*").fullmatch
_is_database = re.compile(r"[0-9]{1,5}").fullmatch
_is_service = re.compile(r"[A-Za-z0-9._-]{1,128}").fullmatch


class StateTarget(NamedTuple):
    """Where the server is, and how the gateway logs in to it."""

    hosts: tuple[tuple[str, int], ...]
    """Host and port: of the server, or of the Sentinels."""
    service: str = ""
    """The name by which Sentinel knows the servers; empty without Sentinel."""
    database: int = 0
    tls: bool = False
    user: str | None = None
    """None without a password, and where the password is that of the default user."""
    password: SecretStr | None = None

    def __str__(self) -> str:
        """The URL without user and password."""
        scheme = f"redis{'s' if self.tls else ''}{'+sentinel' if self.service else ''}"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"{scheme}://{hosts}/{self.service}{'/' if self.service else ''}{self.database}"


def parse_state_url(url: str) -> StateTarget:
    """What a URL of the configuration names.

    Raises ValueError; its message holds nothing of the URL, which may have a password anywhere.
    """
    if find_unfit_for_path(url):
        raise ValueError("must not contain control characters such as a line break")
    parts = _split_url(url)
    if parts is None:
        raise ValueError(_FORM)
    scheme, path = parts["scheme"], parts["path"] or ""
    by_sentinel = scheme.endswith("+sentinel")
    hosts = _hosts(parts["hosts"], SENTINEL_PORT if by_sentinel else PORT)
    if len(hosts) > 1 and not by_sentinel:
        raise ValueError(f"has several hosts, which is for Sentinel: write {_SENTINEL}")
    service = ""
    if by_sentinel:
        service, _, path = path.partition("/")
        if not _is_service(service):
            raise ValueError(f"must have the name by which Sentinel knows the servers: write {_SENTINEL}")
    if path and not _is_database(path):
        raise ValueError("must end with the number of a database, such as /0")
    user, password = _login(parts["login"])
    return StateTarget(
        hosts=hosts,
        service=service,
        database=int(path or 0),
        tls=scheme.startswith("rediss"),
        user=user,
        password=password,
    )


def _hosts(text: str, port: int) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for part in text.split(","):
        try:
            host, given = parse_authority(part)
        except ValueError as exc:
            raise ValueError("must have a host name or an IP address, and a port from 1 to 65535") from exc
        found.append((host, port if given is None else given))
    if len(found) > _MAX_HOSTS:
        raise ValueError(f"must have at most {_MAX_HOSTS} hosts")
    return tuple(found)


def _login(text: str | None) -> tuple[str | None, SecretStr | None]:
    if text is None:
        return None, None
    user, colon, password = text.partition(":")
    if not colon or not password:
        raise ValueError("has a user without a password: write USER:PASSWORD@ or, for the default user, :PASSWORD@")
    return unquote(user) or None, SecretStr(unquote(password))


def mask_state_url(text: str) -> str:
    """The URL as it is written in the file, with references, and with ``***`` for a password."""
    if not text.startswith(("redis://", "rediss://", "redis+sentinel://", "rediss+sentinel://")):
        return mask_text(text)
    if (parts := _split_shown(text)) is not None:
        return parts["before"] + mask_text(parts["password"]) + parts["after"]
    return mask_text(text) if _has_password(text) else text


def _read_url(value: object) -> StateTarget:
    if not isinstance(value, str):
        raise invalid(_FORM)
    try:
        return parse_state_url(value)
    except ValueError as exc:
        raise invalid(str(exc)) from exc


_URL: Final = Value(
    _FORM,
    read_value(_FORM, _read_url, {}).core,
    text_schema(
        r"rediss?(?:\+sentinel)?://.+",
        *(EXAMPLE, "rediss://wcs:${env:REDIS_PASSWORD}@redis.example.com:6379/0"),
        "redis+sentinel://:${env:REDIS_PASSWORD}@10.0.0.1:26379,10.0.0.2:26379,10.0.0.3:26379/wcs",
    ),
    mask_state_url,
)


def _read_switch(value: object) -> bool:
    if value not in ("on", "off"):
        raise invalid_value("must be on or off")
    return value == "on"


_SWITCH: Final = read_value(
    "must be on or off", _read_switch, {"enum": ["on", "off"]}, lambda value: "on" if value else "off"
)


class StateTls(Section):
    """TLS to the servers, and to the Sentinels. Their certificates are always verified."""

    ca: Annotated[FilePath | None, NotNull()] = Field(
        default=None,
        description="PEM file with the authorities that are trusted, in place of the system's. Default: the system's. "
        "Relative paths start at the directory of this file.",
    )
    certificate: Annotated[FilePath | None, NotNull()] = Field(
        default=None,
        description="PEM file with the certificate that the gateway shows to the server. Default none. It needs key "
        "too.",
    )
    key: Annotated[FilePath | None, NotNull()] = Field(
        default=None,
        description="PEM file with that certificate's private key, not encrypted. Default none. Keep it readable by "
        "the gateway's user only.",
    )


class StateConfig(NamedTuple):
    """The server that several gateways share, and what they may wait for it."""

    url: StateTarget
    prefix: str = "wcs:"
    """Every key and channel begins with it."""
    timeout: float = 0.002
    """Seconds that a hook may wait for the server, where ``dedupe`` is on."""
    dedupe: bool = False
    """Whether repeats of a hook are found that another replica got."""
    tls: StateTls | None = None


class State(Section):
    """The Redis or Valkey server through which several gateways work as one. No hook depends on it."""

    url: Annotated[StateTarget, _URL] = Field(
        description="redis://USER:PASSWORD@HOST:PORT/DATABASE; rediss:// with TLS; "
        "redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DATABASE, or rediss+sentinel://, to ask Sentinels "
        "which server is the master. Ports are 6379 and 26379, and the database is 0, unless they are written; in "
        "user and password, % is written %25. Required. The password is secret. Write the same on all replicas: "
        "gateways with different servers, databases or prefixes do not know each other."
    )
    prefix: Annotated[str, text(r"^[A-Za-z0-9._:-]+$", "must be 1 to 64 letters, digits and . _ : -", 64)] = Field(
        default="wcs:",
        description="Begins the name of every key and channel; for an ACL, ~wcs:* and &wcs:*. Default wcs:. Two fleets "
        "on one server need different ones, or they share limits and sessions.",
    )
    timeout: Annotated[float, duration("1ms", "100ms")] = Field(
        default="2ms",
        validate_default=True,
        description="How long a hook may wait for the server where dedupe is on. Default 2ms. A later answer is not "
        "used: the hook is taken for a new one. Too long delays every connect and OnCallEvent when the server is slow.",
    )
    dedupe: Annotated[bool, _SWITCH] = Field(
        default="off",
        validate_default=True,
        description="on finds repeats of a connect or OnCallEvent that another replica got: the backend is asked once, "
        "and both get its verdict. Default off. A balancer that sends a session's hooks to one replica makes it "
        "unnecessary. With on, each such hook waits for the server.",
    )
    tls: Annotated[StateTls | None, NotNull()] = Field(
        default=None,
        description="Certificates for rediss:// and rediss+sentinel://. Default: those that the system trusts.",
    )


STATE: Final = ReadAs(State, StateConfig)


def is_driver_installed() -> bool:
    """Whether the packages of the optional extra ``fleet`` are there; they are not loaded."""
    return all(find_spec(name) is not None for name in _DRIVERS)
