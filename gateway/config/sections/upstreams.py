"""The configuration of a backend: its targets, and how they are connected to, balanced, retried and watched."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Final, Literal

import httpx
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo

from gateway.config.sections.authorization import Credentials
from gateway.config.sections.fields import TARGET_URL, Headers, HealthPath, HostHeader, Section
from gateway.config.sections.tls import UpstreamTls
from gateway.config.sections.types import (
    TRUE_OR_FALSE,
    NotNull,
    ReadAs,
    duration,
    format_duration,
    invalid,
    size,
    whole_number,
)
from gateway.policy.breaker import BreakerSettings
from gateway.policy.retry import Retry, RetryOn

MAX_TARGETS: Final = 256
_RETRY: Final = Retry()
_BREAKER: Final = BreakerSettings()


class Target(Section):
    """One address of a backend."""

    url: Annotated[str, TARGET_URL] = Field(
        description="URL to which /METHOD is appended. Required. http or https, a host name or an IP address, at most "
        "2048 characters, without user name and query."
    )
    weight: Annotated[int, whole_number(1, 1000, "shares")] = Field(
        default=1,
        description="Its share of the hooks, in proportion to the other targets' weights. Default 1. A target that "
        "cannot handle its share makes hooks queue.",
    )
    backup: Annotated[bool, TRUE_OR_FALSE] = Field(
        default=False,
        description="Whether it is only used while no other target is available. Default false. A backup needs the "
        "same data as the others, because it decides real calls.",
    )


class RetrySection(Section):
    """When a failed attempt is followed by another, always inside the hook's budget."""

    attempts: Annotated[int, whole_number(1, 10, "attempts")] = Field(
        default=_RETRY.attempts,
        description=f"Most attempts for one hook, including the first. Default {_RETRY.attempts}. 1 means no retry; "
        "all of them share the hook's budget.",
    )
    on: frozenset[RetryOn] = Field(
        default=_RETRY.on,
        description="After which failures: connect (the backend cannot have seen the hook), reset, timeout, "
        "error_status, bad_answer; each once. Default connect alone. After any other failure, a backend may process "
        "the hook more than once.",
    )


class BreakerSection(Section):
    """When a target that fails gets no hooks for a while. A rejection (403) is no failure."""

    failures: Annotated[int, whole_number(1, 1000, "failures")] = Field(
        default=_BREAKER.failures,
        description="Failures after which the target is ejected: in a row, or times unreachable within the window if "
        f"that is half of its hooks. Default {_BREAKER.failures}. Too few eject a target for a brief problem; too many "
        "let hooks wait for a dead one.",
    )
    window: Annotated[float, duration("100ms", "1h")] = Field(
        default=format_duration(_BREAKER.window),
        validate_default=True,
        description=f"How long a failure counts if it is not one in a row. Default {format_duration(_BREAKER.window)}. "
        "With a longer one, old failures count against a target that has recovered.",
    )
    open_for: Annotated[float, duration("100ms", "1h")] = Field(
        default=format_duration(_BREAKER.open_for),
        validate_default=True,
        description="How long the target is then ejected before one probe hook tries it; doubled while that fails, up "
        f"to 30s. Default {format_duration(_BREAKER.open_for)}. Meanwhile hooks without another target get the "
        "verdict for unreachable.",
    )


class Health(Section):
    """Active checks: a GET to each target at regular intervals, besides what its hooks show."""

    path: HealthPath = Field(
        default="/",
        description="Path of the check on the target's host, in place of the URL's own. Default /. Choose one that "
        "costs the backend nothing.",
    )
    interval: Annotated[float, duration("100ms", "1h")] = Field(
        default="5s",
        validate_default=True,
        description="Time from one check to the next. Default 5s. A target is ejected after two failed checks, and "
        "every worker checks by itself.",
    )
    timeout: Annotated[float, duration("1ms", "1h")] = Field(
        default="1s",
        validate_default=True,
        description="How long a check may take, connecting included. Default 1s. It cannot be longer than interval.",
    )
    expect: Annotated[int, whole_number(200, 599, "HTTP status")] = Field(
        default=200,
        description="Status that means the target is healthy; any other means it is not. Default 200. If the path "
        "answers with a redirect or a login page, all targets are ejected.",
    )


def _as_target_list(value: object, info: ValidationInfo) -> object:
    """The targets, or none beside a ``url``, which is then the only one."""
    if value == ():  # the default: the file has no targets
        if "url" not in info.data:  # it is wrong, and has been reported
            return [{"url": "http://unknown"}]
        if info.data["url"] is None:
            raise invalid("must have a url, or targets")
        return [{"url": info.data["url"]}]
    if info.data.get("url", "") is not None:
        raise invalid("cannot be combined with url: an upstream has one or the other")
    if value == []:
        raise invalid("must name at least one target")
    if isinstance(value, list) and len(value) > MAX_TARGETS:
        raise invalid(f"must name at most {MAX_TARGETS} targets")
    return value


def _check_first_choice(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    if all(target.backup for target in targets):
        raise invalid("must name a target that is no backup")
    return targets


Targets = Annotated[
    tuple[Target, ...],
    AfterValidator(_check_first_choice),
    BeforeValidator(_as_target_list),
    Field(json_schema_extra={"minItems": 1, "maxItems": MAX_TARGETS}),
]


class Upstream(Section):
    """A backend that decides hooks."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["url"]}, {"required": ["targets"]}]},
    )

    url: Annotated[str | None, TARGET_URL] = Field(
        default=None,
        description="URL to which /METHOD is appended, as it was set on the media server before. Required, unless "
        "targets is set instead. http or https, a host name or an IP address, at most 2048 characters, without user "
        "name and query.",
    )
    targets: Targets = Field(
        default_factory=tuple,
        validate_default=True,
        description="The addresses of a backend that has several, in place of url: at most 256, each with its url, "
        "weight and backup. Default: url alone. All must decide alike, because any of them may get any hook.",
    )
    balance: Literal["round_robin", "least_in_flight"] = Field(
        default="round_robin",
        description="How the next target is chosen: round_robin (in turn, by weight) or least_in_flight (the fewest "
        "hooks in flight for its weight). Default round_robin. In turn, a slow target gets as many hooks as a fast "
        "one.",
    )
    connect_timeout: Annotated[float, duration("1ms", "1m")] = Field(
        default="500ms",
        validate_default=True,
        description="How long connecting may take, inside the hook's budget. Default 500ms. The longer it is, the "
        "more of each budget a dead machine uses up before another target is tried.",
    )
    keepalive: Annotated[float | None, duration("1ms", "24h", off=True)] = Field(
        default="60s",
        validate_default=True,
        description="How long an idle connection to the backend is kept; off makes a new one for every hook. Default "
        "60s. Keep it below the backend's own, or hooks are sent on connections that the backend is closing.",
    )
    max_age: Annotated[float | None, duration("1ms", "24h", off=True)] = Field(
        default="5m",
        validate_default=True,
        description="Age at which a connection is closed after its answer, up to a fifth earlier so that not all "
        "close at once. Default 5m. With off, a busy connection never moves to another machine behind the same "
        "address. Connections to an address that the name no longer has are always closed within seconds.",
    )
    max_connections: Annotated[int, whole_number(1, 65535, "connections")] = Field(
        default=64,
        description="Connections to each target at once, over all workers, and with state over the whole fleet; past "
        "it, hooks queue inside their budget. Default 64. No more than the backend has workers, or hooks wait there "
        "unseen.",
    )
    max_answer: Annotated[int, size("1B", "64MiB")] = Field(
        default="1MiB",
        validate_default=True,
        description="Largest body of an answer; a larger one is a bad_answer. Default 1MiB. Too small rejects real "
        "calls.",
    )
    retry: Annotated[Retry, ReadAs(RetrySection, Retry)] = Field(
        default={},
        validate_default=True,
        description="When a failed attempt is followed by another. Default: 2 attempts, on connect alone. Apps and "
        "methods may have their own.",
    )
    breaker: Annotated[BreakerSettings | None, ReadAs(BreakerSection, BreakerSettings, off=True)] = Field(
        default={},
        validate_default=True,
        description="When a failing target gets no hooks for a while, or off. Default: after 5 failures within 10s, "
        "for 5s. With off, every hook waits for a dead target.",
    )
    health: Annotated[Health | None, NotNull()] = Field(
        default=None,
        description="Active checks of the targets; {} uses all their defaults. Default: none. Without checks, only "
        "hooks show how a target is doing.",
    )
    host: HostHeader = Field(
        default="target",
        description="Host header sent: target (the URL's own), preserve (the media server's), or a literal name. "
        "Default target. A backend with several sites answers from the wrong one if the name does not match.",
    )
    headers: Headers = Field(
        default={},
        description="Headers added to every request, in place of the client's. Default none. The values are secret.",
    )
    credentials: Annotated[Credentials | None, NotNull()] = Field(
        default=None,
        description="HTTP Basic credentials sent in place of the media server's Authorization. Default: that header "
        "is forwarded unchanged.",
    )
    tls: Annotated[UpstreamTls | None, NotNull()] = Field(
        default=None,
        description="TLS to https targets. Default: the system's authorities, no certificate of the gateway's own, "
        "TLS 1.2 or newer.",
    )


def target_names(urls: list[str]) -> dict[str, str]:
    """A short name for each URL, unique among them: host and port, with the path where two share those."""
    netlocs = {url: httpx.URL(url).netloc.decode("ascii") for url in urls}
    count = Counter(netlocs.values())
    return {url: netloc if count[netloc] == 1 else netloc + httpx.URL(url).path for url, netloc in netlocs.items()}
