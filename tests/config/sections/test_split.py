"""Upstreams by weight, and failover."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import pytest

from gateway.config import ConfigError, Settings, loads
from gateway.policy.split import Share
from tests.config.texts import BACKEND, UPSTREAMS, of_u

THREE_UPSTREAMS = "upstreams: {u: {url: http://h}, v: {url: http://i}, w: {url: http://j}}\n"


def settings(text: str, method: str | None = None, app: str = "a") -> Settings:
    return loads(THREE_UPSTREAMS + text).config.settings(app, method)


REJECTED = [
    (UPSTREAMS + "apps: {a: {upstream: 5}}\n", "2:12: apps.a.upstream: must be the name of an upstream, or a list such as [{name: php, weight: 95}, {name: new, weight: 5}], not 5"),
    (UPSTREAMS + "apps: {a: {upstream: ''}}\n", '2:12: apps.a.upstream: must be the name of an upstream, not ""'),
    (UPSTREAMS + "apps: {a: {upstream: {name: u}}}\n", "2:12: apps.a.upstream: must be the name of an upstream, or a list such as [{name: php, weight: 95}, {name: new, weight: 5}], not a mapping"),
    (UPSTREAMS + "apps: {a: {upstream: []}}\n", "2:12: apps.a.upstream: must hold 2 to 16 upstreams with their weights"),
    (UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 1}]}}\n", "2:12: apps.a.upstream: must hold 2 to 16 upstreams with their weights"),
    (UPSTREAMS + "apps: {a: {upstream: [" + "{name: u, weight: 1}, " * 17 + "]}}\n", "2:12: apps.a.upstream: must hold 2 to 16 upstreams with their weights"),
    (UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: -1}, {name: v, weight: 1}]}}\n", "2:33: apps.a.upstream[0].weight: must be a whole number from 0 to 1000, not -1"),
    (UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 1001}, {name: v, weight: 1}]}}\n", "2:33: apps.a.upstream[0].weight: must be a whole number from 0 to 1000, not 1001"),
    (UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 95%}, {name: v, weight: 5}]}}\n", '2:33: apps.a.upstream[0].weight: must be a whole number from 0 to 1000, not "95%"'),
    (of_u("failover: "), "2:25: apps.a.failover: must be the name of an upstream, not empty"),
    (of_u("failover: 5"), "2:25: apps.a.failover: must be the name of an upstream, not 5"),
    (of_u("failover: {u: v}"), "2:25: apps.a.failover: must be the name of an upstream, not a mapping"),
    (of_u("failover: [" + "v, " * 9 + "]"), "2:25: apps.a.failover: must hold at most 8 upstreams"),
    (BACKEND + "apps: {a: {upstream: }}\n", "2:12: apps.a.upstream: must be the name of an upstream, or a list such as [{name: php, weight: 95}, {name: new, weight: 5}], not empty"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


def test_of_several_upstreams_the_first_stands_for_all() -> None:
    split = settings("apps: {a: {upstream: [{name: v, weight: 0}, {name: u, weight: 5}]}}")
    assert (split.upstream, split.split) == ("v", (Share("v", 0), Share("u", 5)))


def test_an_app_s_upstream_stands_in_place_of_several_of_the_defaults() -> None:
    text = "defaults: {upstream: [{name: u, weight: 1}, {name: v, weight: 5}]}\napps: {a: {}, b: {upstream: w}}"
    assert settings(text).split == (Share("u", 1), Share("v", 5))
    assert (settings(text, app="b").upstream, settings(text, app="b").split) == ("w", ())


@pytest.mark.parametrize(
    ("app", "failover"),
    [
        ("upstream: u", ("v", "w")),
        ("upstream: v", ("w",)),
        ("upstream: u, failover: w", ("w",)),
        ("upstream: u, failover: []", ()),
        ("upstream: [{name: u, weight: 1}, {name: v, weight: 1}]", ("v", "w")),
        ("upstream: u, failover: [u, w], rules: [{caller: x, upstream: v}]", ("u", "w")),
        ("upstream: v, rules: [{caller: x, upstream: u}]", ("v", "w")),
        ("upstream: v, rules: [{caller: x, verdict: allow}]", ("w",)),
        ("static: allow", ()),
    ],
)
def test_an_app_fails_over_to_what_the_nearest_level_names_but_for_its_own_upstream(
    app: str, failover: tuple[str, ...]
) -> None:
    assert settings(f"defaults: {{failover: [v, w]}}\napps: {{a: {{{app}}}}}").failover == failover
