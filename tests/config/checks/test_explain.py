"""Validation errors in plain words, at their place."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import pytest

from gateway.config import ConfigError, loads
from tests.config.texts import BACKEND, UPSTREAMS, of_u, problems_of

REJECTED = [
    (UPSTREAMS + "apps: {a: {upstream: [{name: u}, {name: v, weight: 1}]}}\n", "2:23: apps.a.upstream[0].weight: is required"),
    (UPSTREAMS + "apps: {a: {upstream: [{weight: 1}, {name: v, weight: 1}]}}\n", "2:23: apps.a.upstream[0].name: is required"),
    (of_u("methods: {call: {failover: v}}"), '2:42: apps.a.methods.call.failover: unknown key; did you mean "failover_on"?'),
    (of_u("rest_client_config: {mod: warn}"), '2:46: apps.a.rest_client_config.mod: unknown key; did you mean "mode"?'),
    (of_u("methods: {connect: {rest_client_config: enforce}}"), "2:45: apps.a.methods.connect.rest_client_config: unknown key"),
    (of_u("methods: {call: {rate_limit: 5/s}}"), "2:42: apps.a.methods.call.rate_limit: unknown key"),
    (of_u("rules: [{caler: x, verdict: allow}]"), '2:34: apps.a.rules[0].caler: unknown key; did you mean "caller"?'),
    (of_u("methods: {call: {rules: []}}"), "2:42: apps.a.methods.call.rules: unknown key"),
    (of_u("shadow: {}"), "2:25: apps.a.shadow.upstream: is required"),
    (of_u("methods: {OnCallEvent: {shadow: {upstream: v, methods: call}}}"), "2:71: apps.a.methods.OnCallEvent.shadow.methods: unknown key"),
    ("defaults: {shadow: off}\n", "1:12: defaults.shadow: unknown key"),
    ("record: {}\n", "1:1: record.path: is required"),
    ("sever: {}\n", '1:1: sever: unknown key; did you mean "server"?'),
    ("telemetry: {}\n", "1:1: telemetry: unknown key"),
    (BACKEND + "apps:\n  a:\n    upstream: u\n    tiemout: 3s\n", '5:5: apps.a.tiemout: unknown key; did you mean "timeout"?'),
    (BACKEND + 'apps: {"a.b": {upstream: u, x: 1}}\n', '2:29: apps."a.b".x: unknown key'),
    ("tracing: {}\n", "1:1: tracing.endpoint: is required"),
    ("upstreams: {u: {url: http://h, credentials: {username: x}}}\n", "1:32: upstreams.u.credentials.password: is required"),
    ("upstreams: {u: {targets: [{weight: 2}]}}\n", "1:27: upstreams.u.targets[0].url: is required"),
    ("upstreams: {u: {targets: [{url: http://h, weigth: 2}]}}\n", '1:43: upstreams.u.targets[0].weigth: unknown key; did you mean "weight"?'),
    ("upstreams: {u: {url: http://h, retry: {atempts: 1}}}\n", '1:40: upstreams.u.retry.atempts: unknown key; did you mean "attempts"?'),
    (BACKEND + "apps: {a: {upstream: u, methods: {call: {retry: {attemps: 2}}}}}\n", '2:50: apps.a.methods.call.retry.attemps: unknown key; did you mean "attempts"?'),
    ("upstreams: {u: {url: http://h, breaker: {open: 5s}}}\n", "1:42: upstreams.u.breaker.open: unknown key"),
    (BACKEND + "apps: {a: {upstream: u, methods: {call: {max_in_flight: 5}}}}\n", "2:42: apps.a.methods.call.max_in_flight: unknown key"),
    (BACKEND + "apps: {a: {upstream: u, credentials: {username: w}}}\n", "2:25: apps.a.credentials.password: is required"),
    (BACKEND + "apps: {a: {upstream: u, methods: {call: {credentials: {username: w, password: p}}}}}\n", "2:42: apps.a.methods.call.credentials: unknown key"),
    ("defaults: {credentials: {username: w, password: p}}\n", "1:12: defaults.credentials: unknown key"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {allow_from: ['${env:S}']}", 'must have no bits beyond its prefix, not "${env:S}"'),
        ("server: {listen: ['${env:A}', '${env:A}']}", '"${env:A}" is taken by another address of this list'),
        (
            "defaults: {timeout: '${env:T}'}",
            'timeout "${env:T}" must be below 14.5s (media_server.',
        ),
        ("media_server: {margin: '${env:T}'}", '"${env:T}" leaves no time for a hook'),
        ("media_server: {request_timeout: '${env:T}'}\ndefaults: {timeout: 599s}", 'request_timeout "${env:T}" minus'),
        ("upstreams: {u: {url: http://h, health: {timeout: '${env:T}'}}}", '"${env:T}" is longer than interval'),
    ],
)
def test_a_message_has_a_reference_and_not_what_it_stands_for(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("S", "10.73.31.9/8"), ("A", "127.73.31.1:7331"), ("T", "73.31s")):
        monkeypatch.setenv(name, value)
    problems = "\n".join(problems_of(text + "\n"))
    assert message in problems
    assert "73.31" not in problems


def test_a_long_value_is_cut_and_its_control_characters_are_escaped() -> None:
    with pytest.raises(ConfigError) as caught:
        loads('log: {level: "\\e[31m' + "x" * 100_000 + '"}\n')
    message = caught.value.problems[0].message
    assert "\\u001b[31m" in message
    assert message.isprintable()
    assert len(message) < 200
