"""Checks of what is set for answers without effect."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import pytest

from gateway.config import ConfigError, loads
from tests.config.texts import of_u, warnings_of

REJECTED = [
    ("defaults: {fallback: {timeout: {allow: {callee: 1000}}}}\n", "1:41: defaults.fallback.timeout.allow.callee: must be text, in quotes: a number loses its + and its leading zeros"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


WARNED = [
    (of_u("methods: {CallStatusEvent: {fallback: {timeout: {allow: {a: b}}}}}"), "2:74: apps.a.methods.CallStatusEvent.fallback.timeout.allow: changes nothing: the media server takes no field from the answer to an event"),
    (of_u("failover_on: timeout"), "2:25: apps.a.failover_on: has no effect: no failover names an upstream"),
    (of_u("failover: [], failover_reserve: 10%"), "2:39: apps.a.failover_reserve: has no effect: no failover names an upstream"),
    (of_u("failover: v, failover_reserve: 10%"), "2:38: apps.a.failover_reserve: has no effect: failover_on has no timeout"),
    (of_u("failover: v, failover_on: timeout, methods: {call: {failover_on: [unreachable], failover_reserve: 0}}"), "2:105: apps.a.methods.call.failover_reserve: has no effect: failover_on has no timeout"),
    (of_u("rest_client_config: {methods: {OnCallEvent: {restExclude: 'x, caller'}}}, rules: [{caller: y, verdict: reject}]"), "2:70: apps.a.rest_client_config.methods.OnCallEvent.restExclude: rules read caller: with this, they never match hooks of this method"),
    (of_u("rest_client_config: {methods: {OnCallEvent: {restExclude: sessionId}}}"), "2:70: apps.a.rest_client_config.methods.OnCallEvent.restExclude: the gateway needs sessionId: without it, it cannot tell which session the hook belongs to"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WARNED)
def test_what_looks_mistaken_is_a_warning(text: str, message: str) -> None:
    assert [str(warning) for warning in warnings_of(loads(text))] == [f"gateway.yaml:{message}"]
