"""The fallback and what failover is tried after."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import pytest

from gateway.config import (
    ConfigError,
    loads,
)
from gateway.model.verdicts import Cause, Fallback

REJECT = Fallback()
ALLOW = Fallback(frozenset({Cause.TIMEOUT, Cause.UNREACHABLE, Cause.OVERLOAD}))

REJECTED = [
    ("defaults: {fallback: maybe}\n", '1:12: defaults.fallback: must be reject, allow, or a mapping such as {timeout: allow, unreachable: allow}, not "maybe"'),
    ("defaults: {fallback: {timout: allow}}\n", "1:23: defaults.fallback.timout: unknown cause; there are timeout, unreachable, overload, bad_answer, error_status"),
    ("defaults: {fallback: {timeout: yes}}\n", '1:23: defaults.fallback.timeout: must be allow, reject or a mapping such as {allow: {callee: "1000"}}, not "yes"'),
    ("defaults: {fallback: {timeout: {allow: {nodeId: x}}}}\n", "1:41: defaults.fallback.timeout.allow.nodeId: cannot be changed: the media server never takes nodeId from an answer"),
    ("defaults: {fallback: {timeout: {allow: {sessionid: x}}}}\n", "1:41: defaults.fallback.timeout.allow.sessionid: cannot be changed: the media server never takes sessionId from an answer"),
    ("defaults: {fallback: {timeout: {allow: {}}}}\n", "1:33: defaults.fallback.timeout.allow: must hold 1 to 32 fields; allow by itself gives the hook back as it came"),
    ("defaults: {fallback: {timeout: {allow: 5}}}\n", '1:33: defaults.fallback.timeout.allow: must be a mapping of fields to what they are to be, such as {callee: "1000"}, not 5'),
    ("defaults: {fallback: {timeout: {allow: {a: [1]}}}}\n", '1:41: defaults.fallback.timeout.allow.a: must be text such as "1000", a number, true or false, not a list'),
    ("defaults: {fallback: {timeout: {allow: {a: }}}}\n", '1:41: defaults.fallback.timeout.allow.a: must be text such as "1000", a number, true or false, not empty'),
    ("defaults: {fallback: {timeout: {allow: {a: .inf}}}}\n", '1:41: defaults.fallback.timeout.allow.a: must be text such as "1000", a number, true or false, not .inf'),
    ("defaults: {fallback: {timeout: {allow: {a: 99999999999999999}}}}\n", '1:41: defaults.fallback.timeout.allow.a: must be text such as "1000", a number, true or false, not 99999999999999999'),
    ("defaults: {fallback: {timeout: {allow: {a: \"x\\ny\"}}}}\n", "1:41: defaults.fallback.timeout.allow.a: must be one line of at most 1024 characters"),
    ("defaults: {fallback: {timeout: {allow: {a b: 1}}}}\n", "1:41: defaults.fallback.timeout.allow.\"a b\": must be the name of a hook's field, such as callee: a letter, then at most 63 letters, digits or _"),
    ("defaults: {fallback: {timeout: {reject: {a: 1}}}}\n", '1:23: defaults.fallback.timeout: must be allow, reject or a mapping such as {allow: {callee: "1000"}}'),
    ("defaults: {failover_on: overload}\n", '1:12: defaults.failover_on: must be unreachable, timeout, error_status or bad_answer, not "overload"'),
    ("defaults: {failover_on: []}\n", "1:12: defaults.failover_on: must hold 1 to 4 causes"),
    ("defaults: {failover_reserve: 95%}\n", '1:12: defaults.failover_reserve: must be a share such as 40% or 0.4, from 0 to 90%, not "95%"'),
    ("defaults: {failover_reserve: -1}\n", "1:12: defaults.failover_reserve: must be a share such as 40% or 0.4, from 0 to 90%, not -1"),
    ("defaults: {failover_reserve: true}\n", "1:12: defaults.failover_reserve: must be a share such as 40% or 0.4, from 0 to 90%, not true"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("reject", REJECT),
        ("allow", ALLOW),
        ("{}", REJECT),
        ("{timeout: reject, bad_answer: allow}", Fallback(frozenset({Cause.BAD_ANSWER}))),
    ],
)
def test_fallback_has_three_forms(written: str, meant: Fallback) -> None:
    assert loads(f"defaults: {{fallback: {written}}}\n").config.defaults.fallback == meant
