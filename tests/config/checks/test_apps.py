"""Checks of one app: its upstreams, rules, shadows and what makes rejections count."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import pytest

from gateway.config import ConfigError, loads
from tests.config.texts import UPSTREAMS, of_u, warnings_of

REJECTED = [
    (UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 1}, {name: u, weight: 2}]}}\n", "2:46: apps.a.upstream[1].name: names the same upstream as item [0] of this list"),
    (UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 0}, {name: v, weight: 0}]}}\n", "2:12: apps.a.upstream: must have a weight above 0: with these, no upstream would be asked"),
    (UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 1}, {name: w, weight: 2}]}}\n", "2:46: apps.a.upstream[1].name: no upstream has this name"),
    (UPSTREAMS + "defaults: {upstream: [{name: u, weight: 1}, {name: w, weight: 2}]}\n", "2:46: defaults.upstream[1].name: no upstream has this name"),
    ("upstreams: {'shadow:u': {url: http://h}}\n", '1:13: upstreams."shadow:u": names that begin with shadow: are reserved: choose another'),
    (of_u("failover: w"), "2:25: apps.a.failover: no upstream has this name"),
    (of_u("failover: [v, w]"), "2:39: apps.a.failover[1]: no upstream has this name"),
    (of_u("failover: [v, v]"), "2:39: apps.a.failover[1]: names the same upstream as item [0] of this list"),
    (of_u("failover: u"), "2:25: apps.a.failover: is the upstream that is asked anyway: name another one"),
    (of_u("failover: [v, u]"), "2:39: apps.a.failover[1]: is the upstream that is asked anyway: name another one"),
    (of_u("failover: u, rules: [{caller: x, upstream: u}, {caller: x, verdict: allow}]"), "2:25: apps.a.failover: is the upstream that is asked anyway: name another one"),
    (UPSTREAMS + "defaults: {upstream: u, failover: u}\napps: {a: {}}\n", "2:25: defaults.failover: is the upstream that is asked anyway: name another one"),
    (UPSTREAMS + "defaults: {upstream: u}\napps: {a: {failover: [u]}}\n", "3:23: apps.a.failover[0]: is the upstream that is asked anyway: name another one"),
    (UPSTREAMS + "defaults: {failover: w}\n", "2:12: defaults.failover: no upstream has this name"),
    (of_u("rules: [{caller: x, upstream: w}]"), "2:45: apps.a.rules[0].upstream: no upstream has this name"),
    (of_u("rules: [{name: n, caller: x, verdict: allow}, {name: n, caller: y, verdict: allow}]"), "2:72: apps.a.rules[1].name: is the name of item [0] of this list too"),
    (UPSTREAMS + "defaults: {rules: [{caller: x, upstream: w}]}\n", "2:32: defaults.rules[0].upstream: no upstream has this name"),
    (UPSTREAMS + "apps: {a: {static: allow, rules: [{caller: x, upstream: u}]}}\n", "2:47: apps.a.rules[0].upstream: cannot be asked: the app is static, it has no backend"),
    (of_u("shadow: {upstream: w}"), "2:34: apps.a.shadow.upstream: no upstream has this name"),
    (of_u("shadow: {upstream: u}"), "2:34: apps.a.shadow.upstream: is the upstream that decides: a shadow's candidate is another one"),
    (UPSTREAMS + "defaults: {upstream: u}\napps: {a: {shadow: {upstream: u}}}\n", "3:21: apps.a.shadow.upstream: is the upstream that decides: a shadow's candidate is another one"),
    (of_u("methods: {OnCallEvent: {shadow: {upstream: u}}}"), "2:58: apps.a.methods.OnCallEvent.shadow.upstream: is the upstream that decides: a shadow's candidate is another one"),
    (of_u("methods: {OnCallEvent: {shadow: {upstream: w}}}"), "2:58: apps.a.methods.OnCallEvent.shadow.upstream: no upstream has this name"),
    (
        "apps:\n  a: {static: allow, shadow: {upstream: nope}}\n",
        "2:31: apps.a.shadow.upstream: no upstream has this name",
    ),
    (
        "apps:\n  a: {static: allow, methods: {call: {shadow: {upstream: nope}}}}\n",
        "2:48: apps.a.methods.call.shadow.upstream: no upstream has this name",
    ),
    ("upstreams: {legacy: {url: http://h}}\napps: {a: {upstream: legcay}}\n", '2:12: apps.a.upstream: no upstream has this name; did you mean "legacy"?'),
    ("defaults: {upstream: nowhere}\n", "1:12: defaults.upstream: no upstream has this name"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


WARNED = [
    (of_u("rest_client_config: {methods: {connect: {restOnError: FAIL}}}"), "2:66: apps.a.rest_client_config.methods.connect.restOnError: does nothing here: a rejected connect is declined in any case"),
    (of_u("rest_client_config: {methods: {CallStatusEvent: {restOnError: FAIL}}}"), "2:74: apps.a.rest_client_config.methods.CallStatusEvent.restOnError: does nothing here: an event has happened already and cannot be rejected"),
    (of_u("rest_client_config: {methods: {OnCallEvent: {restOnEror: FAIL}}}"), '2:70: apps.a.rest_client_config.methods.OnCallEvent.restOnEror: no field of a method that the media server is known to read; did you mean "restOnError"?'),
    (UPSTREAMS + "defaults: {upstream: u, rest_client_config: {methods: {StreamStatusEvent: {restOnError: FAIL}}}}\napps: {a: {}}\n", "2:76: defaults.rest_client_config.methods.StreamStatusEvent.restOnError: does nothing here: an event has happened already and cannot be rejected"),
    (UPSTREAMS + "apps: {a: {upstream: u, rest_client_config: {methods: {X: {restOnError: FAIL}}}}}\nhook_types: {X: event}\n", "2:60: apps.a.rest_client_config.methods.X.restOnError: does nothing here: an event has happened already and cannot be rejected"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WARNED)
def test_what_looks_mistaken_is_a_warning(text: str, message: str) -> None:
    assert [str(warning) for warning in warnings_of(loads(text))] == [f"gateway.yaml:{message}"]


@pytest.mark.parametrize(
    "text",
    [
        of_u("rules: [{methods: oncallevent, verdict: allow}]"),
        of_u("rules: [{methods: 'On*', upstream: u}]"),
        of_u("shadow: {upstream: v, methods: '*'}"),
        of_u(
            "fallback: {timeout: {allow: {callee: '1'}}}, methods: {call: {fallback: {overload: {allow: {callee: '2'}}}}}"
        ),
        of_u("failover: v, failover_reserve: 10%, methods: {call: {failover_on: timeout}}"),
        of_u("failover: v, methods: {call: {failover_on: [timeout, unreachable], failover_reserve: 0.5}}"),
        UPSTREAMS + "defaults: {failover_on: timeout, failover_reserve: 5%}\napps: {a: {upstream: u}}\n",
        of_u(
            "rest_client_config: {methods: {call: {restExclude: caller}}}, rules: [{caller: y, methods: On*, verdict: reject}]"
        ),
        of_u("rest_client_config: {methods: {call: {restExclude: callee}}}, rules: [{caller: y, verdict: reject}]"),
        of_u("methods: {call: {shadow: {upstream: v}, response_check: off}}"),
        of_u("rest_client_config: {methods: {connect: {restPolicy: OVERWRITE, restOverwrite: 'a, b'}}}"),
        UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 0}, {name: v, weight: 1}], failover: [v, u]}}\n",
        UPSTREAMS + "apps: {a: {upstream: [{name: u, weight: 9}, {name: v, weight: 1}], shadow: {upstream: v}}}\n",
        UPSTREAMS + "defaults: {failover: v}\napps: {a: {upstream: u}, b: {upstream: v}, c: {static: allow}}\n",
        UPSTREAMS + "apps: {a: {static: allow, rest_client_config: enforce, rules: [{caller: x, verdict: reject}]}}\n",
        "upstreams: {shadowed: {url: http://h}}\napps: {a: {upstream: shadowed}}\n",
    ],
)
def test_what_does_no_harm_is_no_cause_for_a_warning(text: str) -> None:
    assert warnings_of(loads(text)) == []
