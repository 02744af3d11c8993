"""Upstreams: targets, breaker, health and retries."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import pytest

from gateway.config import (
    ConfigError,
    Health,
    Target,
    loads,
)
from gateway.policy.breaker import BreakerSettings
from gateway.policy.retry import Retry

REJECTED = [
    ("upstreams: {u: {url: http://h, connect_timeout: 0s}}\n", '1:32: upstreams.u.connect_timeout: must be between 1ms and 1m, not "0s"'),
    ("upstreams: {u: {url: http://h, keepalive: no}}\n", '1:32: upstreams.u.keepalive: must be a duration such as 3s or 250ms, or off, not "no"'),
    ("upstreams: {u: {url: http://h, max_connections: 0}}\n", "1:32: upstreams.u.max_connections: must be a whole number from 1 to 65535, not 0"),
    ("upstreams: {u: {url: http://h, max_connections: 1.0}}\n", "1:32: upstreams.u.max_connections: must be a whole number from 1 to 65535, not 1.0"),
    ("upstreams: {u: {url: http://h, targets: [{url: http://i}]}}\n", "1:32: upstreams.u.targets: cannot be combined with url: an upstream has one or the other"),
    ("upstreams: {u: {targets: }}\n", "1:17: upstreams.u.targets: must be a list, not empty"),
    ("upstreams: {u: {targets: http://h}}\n", '1:17: upstreams.u.targets: must be a list, not "http://h"'),
    ("upstreams: {u: {targets: []}}\n", "1:17: upstreams.u.targets: must name at least one target"),
    ("upstreams: {u: {targets: [" + "{url: http://h}, " * 257 + "]}}\n", "1:17: upstreams.u.targets: must name at most 256 targets"),
    ("upstreams: {u: {targets: [http://h]}}\n", '1:27: upstreams.u.targets[0]: must be a mapping, not "http://h"'),
    ("upstreams: {u: {targets: [{url: http://h, weight: 0}]}}\n", "1:43: upstreams.u.targets[0].weight: must be a whole number from 1 to 1000, not 0"),
    ("upstreams: {u: {targets: [{url: http://h, weight: 1001}]}}\n", "1:43: upstreams.u.targets[0].weight: must be a whole number from 1 to 1000, not 1001"),
    ("upstreams: {u: {targets: [{url: http://h, backup: yes}]}}\n", '1:43: upstreams.u.targets[0].backup: must be true or false, not "yes"'),
    ("upstreams: {u: {targets: [{url: http://h, backup: 1}]}}\n", "1:43: upstreams.u.targets[0].backup: must be true or false, not 1"),
    ("upstreams: {u: {targets: [{url: http://h, backup: true}]}}\n", "1:17: upstreams.u.targets: must name a target that is no backup"),
    ("upstreams: {u: {url: http://h, balance: random}}\n", '1:32: upstreams.u.balance: must be round_robin or least_in_flight, not "random"'),
    ("upstreams: {u: {url: http://h, retry: 3}}\n", "1:32: upstreams.u.retry: must be a mapping, not 3"),
    ("upstreams: {u: {url: http://h, retry: off}}\n", '1:32: upstreams.u.retry: must be a mapping, not "off"'),
    ("upstreams: {u: {url: http://h, retry: {attempts: 0}}}\n", "1:40: upstreams.u.retry.attempts: must be a whole number from 1 to 10, not 0"),
    ("upstreams: {u: {url: http://h, retry: {attempts: 11}}}\n", "1:40: upstreams.u.retry.attempts: must be a whole number from 1 to 10, not 11"),
    ("upstreams: {u: {url: http://h, retry: {on: connect}}}\n", '1:40: upstreams.u.retry.on: must be a list, not "connect"'),
    ("upstreams: {u: {url: http://h, retry: {on: [connect, resets]}}}\n", '1:54: upstreams.u.retry.on[1]: must be connect, reset, timeout, error_status or bad_answer, not "resets"'),
    ("upstreams: {u: {url: http://h, breaker: on}}\n", '1:32: upstreams.u.breaker: must be a mapping, or off, not "on"'),
    ("upstreams: {u: {url: http://h, breaker: }}\n", "1:32: upstreams.u.breaker: must be a mapping, or off, not empty"),
    ("upstreams: {u: {url: http://h, breaker: {failures: 0}}}\n", "1:42: upstreams.u.breaker.failures: must be a whole number from 1 to 1000, not 0"),
    ("upstreams: {u: {url: http://h, breaker: {failures: 1001}}}\n", "1:42: upstreams.u.breaker.failures: must be a whole number from 1 to 1000, not 1001"),
    ("upstreams: {u: {url: http://h, breaker: {window: 10}}}\n", "1:42: upstreams.u.breaker.window: must be a duration such as 3s or 250ms, not 10"),
    ("upstreams: {u: {url: http://h, breaker: {open_for: 99ms}}}\n", '1:42: upstreams.u.breaker.open_for: must be between 100ms and 1h, not "99ms"'),
    ("upstreams: {u: {url: http://h, health: off}}\n", '1:32: upstreams.u.health: must be a mapping, not "off"'),
    ("upstreams: {u: {url: http://h, health: }}\n", "1:32: upstreams.u.health: must be a mapping, not empty"),
    ("upstreams: {u: {url: http://h, health: {expect: 600}}}\n", "1:41: upstreams.u.health.expect: must be a whole number from 200 to 599, not 600"),
    ("upstreams: {u: {url: http://h, health: {expect: 99}}}\n", "1:41: upstreams.u.health.expect: must be a whole number from 200 to 599, not 99"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


def test_targets_in_full() -> None:
    config = loads(
        "upstreams: {u: {targets: ["
        "{url: 'http://h/a/'}, {url: http://h/b, weight: 1000}, {url: http://i, backup: true}]}}\n"
    ).config
    assert config.upstreams["u"].targets == (
        Target(url="http://h/a", weight=1, backup=False),
        Target(url="http://h/b", weight=1000, backup=False),
        Target(url="http://i", weight=1, backup=True),
    )


def test_as_many_targets_as_the_limit_are_fine() -> None:
    urls = ", ".join(f"{{url: http://h{number}}}" for number in range(256))
    assert len(loads(f"upstreams: {{u: {{targets: [{urls}]}}}}\n").config.upstreams["u"].targets) == 256


def test_a_breaker_may_be_off_and_takes_its_own_figures_one_by_one() -> None:
    config = loads(
        "upstreams: {u: {url: http://h, breaker: off}, v: {url: http://h, breaker: {failures: 3, open_for: 100ms}}}\n"
    ).config
    assert config.upstreams["u"].breaker is None
    assert config.upstreams["v"].breaker == BreakerSettings(failures=3, window=10.0, open_for=0.1)


def test_health_checks_have_defaults_of_their_own() -> None:
    config = loads(
        "upstreams: {u: {url: http://h, health: {}}, v: {url: http://h, health: {path: '/up?deep=1', interval: 1s, "
        "expect: 204}}}\n"
    ).config
    health = config.upstreams["u"].health
    assert health is not None
    assert (health.path, health.interval, health.timeout, health.expect) == ("/", 5.0, 1.0, 200)
    assert config.upstreams["v"].health == Health(path="/up?deep=1", interval="1s", expect=204)  # type: ignore[arg-type]


def test_an_empty_retry_list_means_that_nothing_is_tried_again() -> None:
    retry = loads("upstreams: {u: {url: http://h, retry: {on: []}}}\n").config.upstreams["u"].retry
    assert retry == Retry(attempts=2, on=frozenset())


def test_an_upstream_in_full() -> None:
    upstream = loads(
        "upstreams: {u: {url: 'https://[::1]:8443/a/b//', connect_timeout: 1s, keepalive: off, max_connections: 65535, "
        "max_answer: 512B, host: 'legacy_1:8080', headers: {X-Key: k}, credentials: {username: w, password: ''}}}\n"
    ).config.upstreams["u"]
    assert upstream.targets == (Target(url="https://[::1]:8443/a/b"),)
    assert (upstream.keepalive, upstream.max_connections, upstream.max_answer) == (None, 65535, 512)
    assert upstream.host == "legacy_1:8080"
