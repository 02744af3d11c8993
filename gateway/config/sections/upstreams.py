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
        description="URL to which /METHOD is appended. Required; http or https, a host name or an IP address, at most "
        "2048 characters, without user name and query."
    )
    weight: Annotated[int, whole_number(1, 1000, "shares")] = Field(
        default=1,
        description="Its share of the hooks, in proportion to the other targets' weights. Default 1; a "
        "target that cannot bear its share makes hooks queue.",
    )
    backup: Annotated[bool, TRUE_OR_FALSE] = Field(
        default=False,
        description="Whether it is asked only while no other target can be. Default false; a backup must know what the "
        "others know, since it decides real calls.",
    )


class RetrySection(Section):
    """When another attempt follows a failed one, always inside the hook's budget."""

    attempts: Annotated[int, whole_number(1, 10, "attempts")] = Field(
        default=_RETRY.attempts,
        description=f"Attempts for one hook at most, the first one counted. Default {_RETRY.attempts}; 1: no retry. "
        "All of them share the hook's one budget.",
    )
    on: frozenset[RetryOn] = Field(
        default=_RETRY.on,
        description="After which failures: connect (the backend cannot have seen the hook), reset, timeout, "
        "error_status, bad_answer; each once. Default connect alone; after any other a backend may act on the hook "
        "more than once.",
    )


class BreakerSection(Section):
    """When a target that fails gets no hooks for a while. A refusal (403) is no failure."""

    failures: Annotated[int, whole_number(1, 1000, "failures")] = Field(
        default=_BREAKER.failures,
        description="Failures after which the target is left alone: so many in a row, or so many times unreachable "
        f"within the window if that is half of its hooks. Default {_BREAKER.failures}; too few eject a "
        "target for a moment's trouble, too many let hooks wait for a dead one.",
    )
    window: Annotated[float, duration("100ms", "1h")] = Field(
        default=format_duration(_BREAKER.window),
        validate_default=True,
        description=f"How long a failure counts besides those in a row. Default {format_duration(_BREAKER.window)}; "
        "longer holds old trouble against a target that is well again.",
    )
    open_for: Annotated[float, duration("100ms", "1h")] = Field(
        default=format_duration(_BREAKER.open_for),
        validate_default=True,
        description="How long the target is then left alone before one hook tries it again; doubled while that fails, "
        f"to 30s at most. Default {format_duration(_BREAKER.open_for)}; meanwhile hooks without another target get the "
        "verdict for unreachable.",
    )


class Health(Section):
    """Active checks: a GET to each target from time to time, besides what its hooks show."""

    path: HealthPath = Field(
        default="/",
        description="Path of the check on the target's host, in place of the URL's own. Default /; choose one that "
        "costs the backend nothing.",
    )
    interval: Annotated[float, duration("100ms", "1h")] = Field(
        default="5s",
        validate_default=True,
        description="Time from one check to the next. Default 5s; a dead target is known after two, and every worker "
        "checks for itself.",
    )
    timeout: Annotated[float, duration("1ms", "1h")] = Field(
        default="1s",
        validate_default=True,
        description="How long a check may take, connecting included. Default 1s; not longer than interval.",
    )
    expect: Annotated[int, whole_number(200, 599, "HTTP status")] = Field(
        default=200,
        description="Status that says the target is well; any other says it is not. Default 200; where the "
        "path answers with a redirect or a login, all targets are ejected.",
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
        "targets stands in its place; http or https, a host name or an IP address, at most 2048 characters, without "
        "user name and query.",
    )
    targets: Targets = Field(
        default_factory=tuple,
        validate_default=True,
        description="The addresses of a backend that has several, in place of url: at most 256, each with its url, "
        "weight and backup. Default: url alone; all must decide alike, for any of them may get any hook.",
    )
    balance: Literal["round_robin", "least_in_flight"] = Field(
        default="round_robin",
        description="Which target is next: round_robin (in turn, by weight) or least_in_flight (the one that has the "
        "fewest hooks for its weight). Default round_robin; in turn, a slow target gets as many hooks as a fast one.",
    )
    connect_timeout: Annotated[float, duration("1ms", "1m")] = Field(
        default="500ms",
        validate_default=True,
        description="How long a connection may take to be made, inside the hook's budget. Default 500ms; longer, and a "
        "machine that is gone takes more of each budget before another is asked.",
    )
    keepalive: Annotated[float | None, duration("1ms", "24h", off=True)] = Field(
        default="60s",
        validate_default=True,
        description="How long an idle connection to the backend is kept; off makes a new one for every hook. Default "
        "60s; keep it below the backend's own, or hooks meet connections that it is just closing.",
    )
    max_age: Annotated[float | None, duration("1ms", "24h", off=True)] = Field(
        default="5m",
        validate_default=True,
        description="How old a connection may get before it is closed after its answer, up to a fifth earlier so that "
        "not all end at once. Default 5m; off: a busy connection never moves to another machine behind the same "
        "address. Connections to an address that the name has lost always end within seconds.",
    )
    max_connections: Annotated[int, whole_number(1, 65535, "connections")] = Field(
        default=64,
        description="Connections to each target at once, at all workers together; past it hooks queue inside "
        "their budget. Default 64; no more than the backend has workers, or hooks wait there unseen.",
    )
    max_answer: Annotated[int, size("1B", "64MiB")] = Field(
        default="1MiB",
        validate_default=True,
        description="Largest body of an answer; a larger one is cause bad_answer. Default 1MiB; too small refuses real "
        "calls.",
    )
    retry: Annotated[Retry, ReadAs(RetrySection, Retry)] = Field(
        default={},
        validate_default=True,
        description="When another attempt follows a failed one. Default: 2 attempts, on connect alone; apps and "
        "methods may have their own.",
    )
    breaker: Annotated[BreakerSettings | None, ReadAs(BreakerSection, BreakerSettings, off=True)] = Field(
        default={},
        validate_default=True,
        description="When a failing target gets no hooks for a while, or off. Default: after 5 failures within 10s, "
        "for 5s; off: every hook waits for a dead target anew.",
    )
    health: Annotated[Health | None, NotNull()] = Field(
        default=None,
        description="Active checks of the targets; {} takes all their defaults. Default: none, hooks alone show how a "
        "target does.",
    )
    host: HostHeader = Field(
        default="target",
        description="Host header sent: target (the URL's own), preserve (the media server's), or a literal name. "
        "Default target; a backend with several sites answers from the wrong one where the name is not its own.",
    )
    headers: Headers = Field(
        default={},
        description="Headers added to every request, in place of the client's. Default none; the values are secret.",
    )
    credentials: Annotated[Credentials | None, NotNull()] = Field(
        default=None,
        description="HTTP Basic credentials sent in place of the media server's Authorization. Default: that header "
        "goes on as it came.",
    )
    tls: Annotated[UpstreamTls | None, NotNull()] = Field(
        default=None,
        description="TLS to https targets. Default: the system's authorities, no certificate of our own, TLS 1.2 or "
        "newer.",
    )


def target_names(urls: list[str]) -> dict[str, str]:
    """A short name for each URL, unique among them: host and port, with the path where two share those."""
    netlocs = {url: httpx.URL(url).netloc.decode("ascii") for url in urls}
    count = Counter(netlocs.values())
    return {url: netloc if count[netloc] == 1 else netloc + httpx.URL(url).path for url, netloc in netlocs.items()}
