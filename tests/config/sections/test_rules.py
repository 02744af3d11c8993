"""The rules of apps and of defaults."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import pytest

from gateway.config import ConfigError, Settings, loads
from gateway.model.verdicts import Verdict
from gateway.policy.rules.matcher import Rule
from tests.config.texts import UPSTREAMS, of_u

THREE_UPSTREAMS = "upstreams: {u: {url: http://h}, v: {url: http://i}, w: {url: http://j}}\n"


def settings(text: str, method: str | None = None, app: str = "a") -> Settings:
    return loads(THREE_UPSTREAMS + text).config.settings(app, method)


RULES = """
defaults: {upstream: u, rules: [{callee: "112", verdict: allow}, {name: night, time: 22:00-06:00, upstream: v}]}
apps:
  a: {rules: [{name: spam, caller: "+49*", verdict: reject}, {methods: [call, On*], upstream: w}]}
  b: {}
  c: {static: reject, rules: [{callee: ["110", "112"], verdict: allow}]}
"""

REJECTED = [
    (of_u("rules: {caller: x}"), "2:25: apps.a.rules: must be a list, not a mapping"),
    (of_u("rules: "), "2:25: apps.a.rules: must be a list, not empty"),
    (of_u("rules: [x]"), '2:33: apps.a.rules[0]: must be a mapping, not "x"'),
    (of_u("rules: [" + "{caller: x, verdict: allow}, " * 257 + "]"), "2:25: apps.a.rules: must hold at most 256 rules"),
    (of_u("rules: [{verdict: allow, caller: [" + "'*1', " * 512 + "'1?', '1', '1*']}]"), "2:25: apps.a.rules: must hold at most 512 numbers with a ? or with a * that is not at their end"),
    (of_u("rules: [{caller: x}]"), "2:33: apps.a.rules[0]: must have a verdict or an upstream"),
    (of_u("rules: [{caller: x, verdict: allow, upstream: v}]"), "2:33: apps.a.rules[0]: must have a verdict or an upstream: one of them, not both"),
    (of_u("rules: [{verdict: reject}]"), "2:33: apps.a.rules[0]: must have a condition: caller, callee, methods or time"),
    (of_u("rules: [{name: all, upstream: v}]"), "2:33: apps.a.rules[0]: must have a condition: caller, callee, methods or time"),
    (of_u("rules: [{caller: x, verdict: error}]"), '2:45: apps.a.rules[0].verdict: must be allow or reject, not "error"'),
    (of_u("rules: [{caller: x, verdict: }]"), "2:45: apps.a.rules[0].verdict: must be allow or reject, not empty"),
    (of_u("rules: [{caller: 110, verdict: allow}]"), '2:34: apps.a.rules[0].caller: must be a number or name, with * and ? for what varies, in quotes: such as "110" or "+4930*", not 110'),
    (of_u("rules: [{caller: '', verdict: allow}]"), '2:34: apps.a.rules[0].caller: must be a number or name, with * and ? for what varies, in quotes: such as "110" or "+4930*", not ""'),
    (of_u("rules: [{caller: , verdict: allow}]"), '2:34: apps.a.rules[0].caller: must be a number or name, with * and ? for what varies, in quotes: such as "110" or "+4930*", not empty'),
    (of_u("rules: [{callee: [], verdict: allow}]"), "2:34: apps.a.rules[0].callee: must hold 1 to 1024 numbers"),
    (of_u("rules: [{callee: [110], verdict: allow}]"), '2:43: apps.a.rules[0].callee[0]: must be a number or name, with * and ? for what varies, in quotes: such as "110" or "+4930*", not 110'),
    (of_u("rules: [{callee: {a: b}, verdict: allow}]"), '2:34: apps.a.rules[0].callee: must be a number or name, with * and ? for what varies, in quotes: such as "110" or "+4930*", not a mapping'),
    (of_u('rules: [{callee: "a\\n", verdict: allow}]'), '2:34: apps.a.rules[0].callee: must be a number or name, with * and ? for what varies, in quotes: such as "110" or "+4930*", not "a\\n"'),
    (of_u("rules: [{callee: " + "9" * 257 + "x, verdict: allow}]"), '2:34: apps.a.rules[0].callee: must be a number or name, with * and ? for what varies, in quotes: such as "110" or "+4930*", not "99999999999999999999999999999999999999999999999999999999999…"'),
    (of_u("rules: [{methods: On-Call, verdict: allow}]"), '2:34: apps.a.rules[0].methods: must be a method\'s name, with * and ? for what varies, such as OnCallEvent, not "On-Call"'),
    (of_u("rules: [{methods: [], verdict: allow}]"), "2:34: apps.a.rules[0].methods: must hold 1 to 256 methods"),
    (of_u("rules: [{name: '', caller: x, verdict: allow}]"), '2:34: apps.a.rules[0].name: must be a rule\'s name: 1 to 64 characters, no control characters, no square brackets, not ""'),
    (of_u("rules: [{name: 'rules[1]', caller: x, verdict: allow}]"), '2:34: apps.a.rules[0].name: must be a rule\'s name: 1 to 64 characters, no control characters, no square brackets, not "rules[1]"'),
    (of_u("rules: [{time: 5, verdict: allow}]"), "2:34: apps.a.rules[0].time: must be text such as Mon-Fri 22:00-06:00 Europe/Berlin, not 5"),
    (of_u("rules: [{time: Mo-Fr, verdict: allow}]"), '2:34: apps.a.rules[0].time: must name days such as Mon-Fri, or a time zone that this machine knows, such as Europe/Berlin, not "Mo-Fr"'),
    (of_u("rules: [{time: '22:00', verdict: allow}]"), '2:34: apps.a.rules[0].time: must be a time window such as Mon-Fri 22:00-06:00 Europe/Berlin, not "22:00"'),
    (of_u("rules: [{time: '22:00-25:00', verdict: allow}]"), '2:34: apps.a.rules[0].time: must hold times of day from 00:00 to 24:00, such as 22:00-06:00, not "22:00-25:00"'),
    (of_u("rules: [{time: 'Mon 22:00-06:00 Europe/Nowhere', verdict: allow}]"), '2:34: apps.a.rules[0].time: must name days such as Mon-Fri, or a time zone that this machine knows, such as Europe/Berlin, not "Mon 22:00-06:00 Europe/Nowhere"'),
    (of_u("rules: [{time: '22:00-22:00', verdict: allow}]"), '2:34: apps.a.rules[0].time: must end at another time than it begins; 00:00-24:00 is a whole day, not "22:00-22:00"'),
    (of_u("rules: [{time: '2026-02-30', verdict: allow}]"), '2:34: apps.a.rules[0].time: must be a date of the calendar, such as 2026-12-24, not "2026-02-30"'),
    (of_u("rules: [{time: , verdict: allow}]"), "2:34: apps.a.rules[0].time: must be text such as Mon-Fri 22:00-06:00 Europe/Berlin, not empty"),
    (UPSTREAMS + "defaults: {rules: [{caller: x}]}\n", "2:20: defaults.rules[0]: must have a verdict or an upstream"),
    (
        "apps: {a: {static: allow, rules: [{time: ſat, verdict: allow}]}}\n",
        "1:36: apps.a.rules[0].time: must be a time window such as Mon-Fri 22:00-06:00 Europe/Berlin, not \"ſat\"",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


def test_the_app_s_rules_come_before_those_of_the_defaults_and_each_has_a_name() -> None:
    names = [rule.name for rule in settings(RULES).rules]
    assert names == ["spam", "rules[1]", "defaults.rules[0]", "night"]
    assert settings(RULES).rules[:2] == (
        Rule("spam", caller=("+49*",), verdict=Verdict.REJECT),
        Rule("rules[1]", methods=("call", "On*"), upstream="w"),
    )


def test_apps_without_rules_share_those_of_the_defaults() -> None:
    config = loads(THREE_UPSTREAMS + RULES).config
    assert config.settings("b", None).rules is config.settings("b", "OnCallEvent").rules is config.defaults.rules


def test_a_static_app_has_the_rules_that_need_no_backend() -> None:
    static = settings(RULES, app="c")
    assert [rule.name for rule in static.rules] == ["rules[0]", "defaults.rules[0]"]
    assert static.static is Verdict.REJECT
