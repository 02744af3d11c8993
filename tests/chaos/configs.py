"""The configurations: good ones, each with a revision of its own; broken ones; and when which was in force."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from tests.chaos.facts import BAD_ANSWER, CALLER_NET, CAUSES, ERROR_STATUS, OVERLOAD, TIMEOUT, UNREACHABLE

FILLERS: Final = 12
MAX_CONNECTIONS: Final = 160
"""Clients at once: strangers alone can try to be more."""
_FALLBACKS: Final = (
    frozenset[str](),
    frozenset((TIMEOUT, UNREACHABLE)),
    frozenset((TIMEOUT, UNREACHABLE, OVERLOAD)),
    frozenset((BAD_ANSWER, ERROR_STATUS)),
    frozenset(CAUSES),
)


@dataclass(frozen=True)
class AppRules:
    """One app's part of a configuration, as far as its answers depend on it."""

    timeout: float = 1.0
    allowed: frozenset[str] = frozenset()
    """The causes whose fallback is *allow*."""
    attempts: int = 2
    """Attempts for a hook, where a reset is retried."""
    retries_resets: bool = False
    static: str | None = None
    failover: bool = False
    limited: bool = False
    """Whether it has a max_in_flight that it can reach."""


@dataclass(frozen=True)
class Rules:
    """A configuration, for the oracle."""

    revision: str
    apps: dict[str, AppRules]
    """An app that is missing is unknown."""
    recording: bool = True


@dataclass
class Span:
    """When a configuration may have been in force."""

    rules: Rules
    since: float
    until: float = float("inf")


@dataclass
class History:
    """Every configuration that was ever put there whole, with the time in which it may have been in force."""

    spans: list[Span] = field(default_factory=list)

    def may_come(self, rules: Rules, now: float) -> None:
        """It is on its way: from now on an answer may be by it."""
        self.spans.append(Span(rules, now))

    def is_in_force(self, rules: Rules, now: float) -> None:
        """It is confirmed: from now on no answer is by any other."""
        for span in self.spans:
            if span.rules.revision != rules.revision:
                span.until = min(span.until, now)

    def met(self, begun: float, ended: float) -> list[Rules]:
        """Those that may have been in force at any time between the two."""
        return [span.rules for span in self.spans if span.since <= ended and span.until >= begun]

    @property
    def newest(self) -> Rules:
        return self.spans[-1].rules


UNTOUCHED: Final = AppRules(timeout=2.0)


def first_rules() -> Rules:
    """The configuration that a run begins and ends with."""
    return Rules("r0", {"victim": AppRules(), "untouched": UNTOUCHED})


def other_rules(number: int, dice: random.Random) -> Rules:
    """One more good configuration."""
    kind = dice.randrange(10)
    victim = AppRules(
        timeout=dice.choice((0.6, 1.0, 1.4)),
        allowed=dice.choice(_FALLBACKS),
        retries_resets=dice.random() < 0.2,
        failover=dice.random() < 0.2,
        limited=dice.random() < 0.2,
        static=dice.choice(("allow", "reject")) if kind == 0 else None,
    )
    apps = {"victim": victim, "untouched": UNTOUCHED}
    if kind == 1:
        del apps["victim"]
    return Rules(f"r{number}", apps, recording=dice.random() < 0.7)


@dataclass(frozen=True)
class Place:
    """Where everything is, for the text of a configuration."""

    hooks: str
    admin: str
    backends: dict[str, int]
    record: Path | None
    tls: dict[str, str] | None


def text_of(rules: Rules, place: Place) -> str:
    """The file. The apps that answers are judged by come last: a file that is cut short lacks them."""
    server: dict[str, Any] = {
        "listen": place.hooks,
        "admin": place.admin,
        "workers": 2,
        "allow_from": [f"{CALLER_NET}0/24"],
        "max_connections": MAX_CONNECTIONS,
        "read_timeout": "3s",
        "drain_timeout": "5s",
    }
    if place.tls is not None:
        server["tls"] = place.tls
    upstreams = {
        name: {
            "url": f"http://127.0.0.1:{place.backends[name]}/rest/my_api",
            "keepalive": "2s",
            "max_answer": "64KiB",
            "headers": {"X-Config-Revision": rules.revision, "X-Api-Key": "${env:CHAOS_SECRET}"},
            "breaker": {"failures": 5, "window": "10s", "open_for": "500ms"},
        }
        for name in ("healthy", "sick", "standby")
    }
    document: dict[str, Any] = {
        "server": server,
        "defaults": {"rest_client_config": "off"},
        "upstreams": upstreams,
    }
    if rules.recording and place.record is not None:
        document["record"] = {"path": str(place.record), "max_size": "1MiB", "files": 20}
    apps: dict[str, Any] = {rules.revision: {"static": "reject"}}
    apps |= {f"filler-{number}": {"static": "reject"} for number in range(FILLERS)}
    apps |= {name: _app(name, app) for name, app in rules.apps.items()}
    document["apps"] = apps
    return yaml.safe_dump(document, sort_keys=False)


def _app(name: str, rules: AppRules) -> dict[str, Any]:
    if rules.static is not None:
        return {"static": rules.static}
    app: dict[str, Any] = {
        "upstream": "healthy" if name == "untouched" else "sick",
        "timeout": f"{rules.timeout * 1000:.0f}ms",
        "fallback": {cause: "allow" if cause in rules.allowed else "reject" for cause in CAUSES},
    }
    if rules.retries_resets:
        app["retry"] = {"attempts": rules.attempts, "on": ["connect", "reset"]}
    if rules.failover:
        app["failover"] = "standby"
    if rules.limited:
        app["max_in_flight"] = 6
    return app


def half_of(text: str) -> str:
    """The file up to the middle of its apps: whole lines, and valid."""
    return text[: text.index("  filler-4:")]


BROKEN: Final[dict[str, Any]] = {
    "not_yaml": lambda text: text + "\n  : [",
    "unknown_key": lambda text: text + "\nsevrer: {}\n",
    "mistyped_address": lambda text: text.replace("http://127.0.0.1:", "http://127.0.0.256:", 1),
    "leading_zero": lambda text: text.replace("http://127.0.0.1:", "http://127.0.0.01:", 1),
    "malformed_name": lambda text: text.replace("http://127.0.0.1:", "http://xn--a.example:", 1),
    "secret_missing": lambda text: text.replace("${env:CHAOS_SECRET}", "${env:CHAOS_NO_SUCH}"),
    "binary": lambda text: "\x00\x01\x02" * 300,
    "duration": lambda text: text.replace("read_timeout: 3s", "read_timeout: 3"),
    "twice": lambda text: text + text,
    "no_upstream": lambda text: text.replace("upstream: healthy", "upstream: nowhere"),
    "huge_number": lambda text: text.replace("max_connections: 160", "max_connections: " + "9" * 400),
}
"""Each makes a good file one that a reload must not take."""
