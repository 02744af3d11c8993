"""What applies to an app's hooks: levels, limits and repeats."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from gateway.config import (
    ConfigError,
    Settings,
    loads,
)
from gateway.model.verdicts import Cause, Fallback, Verdict
from gateway.policy.repair import ResponseCheck
from gateway.policy.rest_client_config import ClientConfig, Mode
from gateway.policy.retry import Retry, RetryOn
from gateway.proxy.routes import Table
from tests.config.texts import BACKEND, UPSTREAMS

THREE_UPSTREAMS = "upstreams: {u: {url: http://h}, v: {url: http://i}, w: {url: http://j}}\n"
WANTED = {"OnCallEvent": {"restOnError": "FAIL"}}


def settings(text: str, method: str | None = None, app: str = "a") -> Settings:
    return loads(THREE_UPSTREAMS + text).config.settings(app, method)


RULES = """
defaults: {upstream: u, rules: [{callee: "112", verdict: allow}, {name: night, time: 22:00-06:00, upstream: v}]}
apps:
  a: {rules: [{name: spam, caller: "+49*", verdict: reject}, {methods: [call, On*], upstream: w}]}
  b: {}
  c: {static: reject, rules: [{callee: ["110", "112"], verdict: allow}]}
"""
SHADOWS = """
apps:
  a:
    upstream: u
    shadow: {upstream: v, sample: 25%, methods: "On*", compare: body, ignore: [ts, a.b]}
    methods:
      connect: {shadow: {upstream: w}}
      OnCallEvent: {shadow: off}
      call: {}
  b: {upstream: u, methods: {call: {shadow: {upstream: w, sample: 0.5}}}}
  c: {upstream: u, shadow: {upstream: v}}
  d: {upstream: u, shadow: off}
"""
REJECT = Fallback()

REJECTED = [
    ("apps: [a]\n", "1:1: apps: must be a mapping, not a list"),
    ("apps: {a: yes}\n", '1:8: apps.a: must be a mapping, not "yes"'),
    ("defaults: {retry: {on: [5]}}\n", "1:25: defaults.retry.on[0]: must be connect, reset, timeout, error_status or bad_answer, not 5"),
    ("defaults: {retry: }\n", "1:12: defaults.retry: must be a mapping, not empty"),
    (BACKEND + "apps: {a: {upstream: u, methods: {call: {retry: {on: {}}}}}}\n", "2:50: apps.a.methods.call.retry.on: must be a list, not a mapping"),
    ("defaults: {max_in_flight: 0}\n", "1:12: defaults.max_in_flight: must be a whole number from 1 to 1000000, not 0"),
    (BACKEND + "apps: {a: {upstream: u, max_in_flight: off}}\n", '2:25: apps.a.max_in_flight: must be a whole number from 1 to 1000000, not "off"'),
    ("defaults: {dedupe: 0s}\n", '1:12: defaults.dedupe: must be between 1ms and 10m, not "0s"'),
    ("defaults: {dedupe: 11m}\n", '1:12: defaults.dedupe: must be between 1ms and 10m, not "11m"'),
    ("defaults: {dedupe: }\n", "1:12: defaults.dedupe: must be a duration such as 3s or 250ms, or off, not empty"),
    (BACKEND + "apps: {a: {upstream: u, methods: {call: {dedupe: on}}}}\n", '2:42: apps.a.methods.call.dedupe: must be a duration such as 3s or 250ms, or off, not "on"'),
    (BACKEND + "apps: {'': {upstream: u}}\n", '2:8: apps."": must be an appKey: 1 to 256 characters, no control characters'),
    (BACKEND + 'apps: {"a\\nb": {upstream: u}}\n', '2:8: apps."a\\nb": must be an appKey: 1 to 256 characters, no control characters'),
    (BACKEND + "apps: {a: {static: maybe}}\n", '2:12: apps.a.static: must be allow or reject, not "maybe"'),
    (BACKEND + "apps: {a: {static: error}}\n", '2:12: apps.a.static: must be allow or reject, not "error"'),
    (BACKEND + "apps: {a: {upstream: u, timeout: }}\n", "2:25: apps.a.timeout: must be a duration such as 3s or 250ms, not empty"),
    (BACKEND + "apps: {a: {upstream: u, methods: {a-b: {}}}}\n", "2:35: apps.a.methods.a-b: must be a method's name, such a name with * and ? for what varies, or connect, direct, event or incoming"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


def test_an_app_that_says_nothing_of_it_has_one_upstream_that_is_checked_strictly_and_warned_of() -> None:
    plain = settings("apps: {a: {upstream: u}}")
    assert (plain.upstream, plain.split, plain.failover, plain.rate_limit) == ("u", (), (), None)
    assert (plain.rules, plain.shadow, plain.response_check) == ((), None, ResponseCheck.STRICT)
    assert plain.client_config == ClientConfig(Mode.WARN, WANTED)
    assert loads(THREE_UPSTREAMS).config.record is None


def test_a_method_s_check_of_answers_wins_over_the_app_s_and_that_over_the_defaults() -> None:
    text = (
        "defaults: {upstream: u, response_check: off}\n"
        "apps: {a: {response_check: repair, methods: {call: {response_check: strict}}}, b: {}}"
    )
    found = [settings(text, "call"), settings(text, "hangup"), settings(text, "call", "b")]
    assert [it.response_check for it in found] == [ResponseCheck.STRICT, ResponseCheck.REPAIR, ResponseCheck.OFF]


def test_a_configuration_with_all_of_it_goes_to_the_workers_and_makes_a_table(tmp_path: Path) -> None:
    text = (
        THREE_UPSTREAMS + "record: {path: f}\ndefaults: {upstream: u, rate_limit: 5/s, rest_client_config: enforce}\n"
    )
    text += (
        RULES[RULES.index("apps") :].rstrip()
        + "\n"
        + SHADOWS[SHADOWS.index("  a:") :]
        .replace("  a:", "  e:")
        .replace("  b:", "  f:")
        .replace("  c:", "  g:")
        .replace("  d:", "  h:")
    )
    config = loads(text, str(tmp_path / "gateway.yaml")).config
    again = pickle.loads(pickle.dumps(config))
    for app in config.apps:
        for method in (None, "connect", "OnCallEvent"):
            assert again.settings(app, method)._replace(credentials=None) == config.settings(app, method)
    assert Table(again).find("e", "OnCallEvent") is not None


def test_the_nearer_level_wins_and_replaces_the_whole_value() -> None:
    config = loads(
        UPSTREAMS + "defaults: {upstream: u, timeout: 4s, fallback: {error_status: allow}}\n"
        "apps:\n"
        "  plain: {}\n"
        "  own: {upstream: v, fallback: {timeout: allow}, methods: {connect: {timeout: 1s}, call: {fallback: reject}}}"
    ).config
    assert config.settings("plain", "call") == Settings("u", None, 4.0, Fallback(frozenset({Cause.ERROR_STATUS})))
    app_fallback = Fallback(frozenset({Cause.TIMEOUT}))
    assert config.settings("own", None) == Settings("v", None, 4.0, app_fallback)
    assert config.settings("own", "connect") == Settings("v", None, 1.0, app_fallback, dedupe=10.0)
    assert config.settings("own", "call") == Settings("v", None, 4.0, REJECT)
    with pytest.raises(KeyError):
        config.settings("other", None)


def test_the_nearest_retry_wins_as_a_whole() -> None:
    config = loads(
        UPSTREAMS + "defaults: {upstream: u, retry: {attempts: 4}}\n"
        "apps: {plain: {}, own: {retry: {on: [reset]}, methods: {call: {retry: {attempts: 1}}, connect: {}}}}\n"
    ).config
    assert config.settings("plain", "call").retry == Retry(attempts=4)
    assert config.settings("own", "connect").retry == Retry(on=frozenset({RetryOn.RESET}))
    assert config.settings("own", "call").retry == Retry(attempts=1)
    assert loads(UPSTREAMS + "apps: {a: {upstream: u}}\n").config.settings("a", "call").retry is None


def test_the_nearest_limit_of_hooks_in_flight_wins_and_there_is_none_by_itself() -> None:
    config = loads(
        UPSTREAMS + "defaults: {upstream: u, max_in_flight: 9}\napps: {plain: {}, own: {max_in_flight: 5}}\n"
    ).config
    assert config.settings("plain", "call").max_in_flight == 9
    assert config.settings("own", None).max_in_flight == 5
    assert loads(UPSTREAMS + "apps: {a: {upstream: u}}\n").config.settings("a", None).max_in_flight is None


@pytest.mark.parametrize("method", ["connect", "OnCallEvent"])
def test_repeats_of_connect_and_on_call_event_are_recognised_unless_a_level_says_otherwise(method: str) -> None:
    apps = f"apps: {{plain: {{}}, off: {{dedupe: off}}, own: {{dedupe: off, methods: {{{method}: {{dedupe: 2s}}}}}}}}\n"
    config = loads(UPSTREAMS + "defaults: {upstream: u}\n" + apps).config
    assert config.settings("plain", method).dedupe == 10.0
    assert config.settings("off", method).dedupe is None
    assert config.settings("own", method).dedupe == 2.0
    config = loads(UPSTREAMS + "defaults: {upstream: u, dedupe: off}\n" + apps).config
    assert config.settings("plain", method).dedupe is None
    assert config.settings("own", method).dedupe == 2.0


@pytest.mark.parametrize("method", ["call", "OnMessageEvent", "NeverHeardOf", None])
def test_repeats_of_other_methods_are_recognised_only_where_a_level_says_so(method: str | None) -> None:
    apps = "apps: {plain: {}, off: {dedupe: off}, own: {dedupe: 2s}}\n"
    assert loads(UPSTREAMS + "defaults: {upstream: u}\n" + apps).config.settings("plain", method).dedupe is None
    config = loads(UPSTREAMS + "defaults: {upstream: u, dedupe: 5s}\n" + apps).config
    assert config.settings("plain", method).dedupe == 5.0
    assert config.settings("off", method).dedupe is None
    assert config.settings("own", method).dedupe == 2.0


def test_a_static_app_neither_retries_nor_remembers() -> None:
    config = loads("defaults: {retry: {attempts: 3}, dedupe: 5s}\napps: {a: {static: allow}}\n").config
    assert config.settings("a", "connect") == Settings(None, Verdict.ALLOW, 3.0, REJECT)


def test_a_static_app_has_no_upstream_even_where_the_defaults_name_one() -> None:
    config = loads(UPSTREAMS + "defaults: {upstream: u}\napps: {a: {static: allow}}\n").config
    assert config.settings("a", "call") == Settings(None, Verdict.ALLOW, 3.0, REJECT)
