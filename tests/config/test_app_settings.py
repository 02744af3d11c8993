"""What an app's hooks meet of upstreams by weight, failover, rules, rates, shadows and checked answers."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Settings, loads
from gateway.model.verdicts import Verdict
from gateway.policy.comparison import Compare
from gateway.policy.rate_limit import Rate
from gateway.policy.repair import ResponseCheck
from gateway.policy.rest_client_config import ClientConfig, Mode
from gateway.policy.rules.matcher import Rule
from gateway.policy.shadow import DEFAULT_METHODS, ShadowSettings
from gateway.policy.split import Share
from gateway.proxy.routes import Table
from gateway.recording import RecordSettings

UPSTREAMS = "upstreams: {u: {url: http://h}, v: {url: http://i}, w: {url: http://j}}\n"
WANTED = {"OnCallEvent": {"restOnError": "FAIL"}}


def settings(text: str, method: str | None = None, app: str = "a") -> Settings:
    return loads(UPSTREAMS + text).config.settings(app, method)


def test_an_app_that_says_nothing_of_it_has_one_upstream_that_is_checked_strictly_and_warned_of() -> None:
    plain = settings("apps: {a: {upstream: u}}")
    assert (plain.upstream, plain.split, plain.failover, plain.rate_limit) == ("u", (), (), None)
    assert (plain.rules, plain.shadow, plain.response_check) == ((), None, ResponseCheck.STRICT)
    assert plain.client_config == ClientConfig(Mode.WARN, WANTED)
    assert loads(UPSTREAMS).config.record is None


# --- upstreams ---


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


# --- rates ---


@pytest.mark.parametrize(
    ("app", "rate"),
    [("", Rate(5.0, 5)), ("rate_limit: 50/s burst 100", Rate(50.0, 100)), ("rate_limit: off", None)],
)
def test_the_app_s_rate_wins_and_off_is_one(app: str, rate: Rate | None) -> None:
    text = f"defaults: {{upstream: u, rate_limit: 300/m}}\napps: {{a: {{{app}}}}}"
    assert settings(text).rate_limit == settings(text, "OnCallEvent").rate_limit == rate


# --- rules ---

RULES = """
defaults: {upstream: u, rules: [{callee: "112", verdict: allow}, {name: night, time: 22:00-06:00, upstream: v}]}
apps:
  a: {rules: [{name: spam, caller: "+49*", verdict: reject}, {methods: [call, On*], upstream: w}]}
  b: {}
  c: {static: reject, rules: [{callee: ["110", "112"], verdict: allow}]}
"""


def test_the_app_s_rules_come_before_those_of_the_defaults_and_each_has_a_name() -> None:
    names = [rule.name for rule in settings(RULES).rules]
    assert names == ["spam", "rules[1]", "defaults.rules[0]", "night"]
    assert settings(RULES).rules[:2] == (
        Rule("spam", caller=("+49*",), verdict=Verdict.REJECT),
        Rule("rules[1]", methods=("call", "On*"), upstream="w"),
    )


def test_apps_without_rules_share_those_of_the_defaults() -> None:
    config = loads(UPSTREAMS + RULES).config
    assert config.settings("b", None).rules is config.settings("b", "OnCallEvent").rules is config.defaults.rules


def test_a_static_app_has_the_rules_that_need_no_backend() -> None:
    static = settings(RULES, app="c")
    assert [rule.name for rule in static.rules] == ["rules[0]", "defaults.rules[0]"]
    assert static.static is Verdict.REJECT


# --- refusals that count, answers ---


@pytest.mark.parametrize(
    ("defaults", "app", "merged"),
    [
        ("off", "", ClientConfig(Mode.OFF, WANTED)),
        ("off", "rest_client_config: enforce", ClientConfig(Mode.ENFORCE, WANTED)),
        ("{methods: {call: {restOnError: FAIL}}}", "", ClientConfig(Mode.WARN, {"call": {"restOnError": "FAIL"}})),
        (
            "{mode: enforce, methods: {call: {restOnError: FAIL}}}",
            "rest_client_config: warn",
            ClientConfig(Mode.WARN, {"call": {"restOnError": "FAIL"}}),
        ),
        (
            "{mode: enforce, methods: {call: {restOnError: FAIL}}}",
            "rest_client_config: {methods: {}}",
            ClientConfig(Mode.ENFORCE, {}),
        ),
        ("warn", "static: allow, rest_client_config: enforce", ClientConfig(Mode.ENFORCE, WANTED)),
    ],
)
def test_mode_and_methods_are_inherited_each_for_itself(defaults: str, app: str, merged: ClientConfig) -> None:
    upstream = "" if "static" in app else "upstream: u, "
    text = f"defaults: {{rest_client_config: {defaults}}}\napps: {{a: {{{upstream}{app}}}}}"
    assert settings(text).client_config == settings(text, "connect").client_config == merged


def test_a_method_s_check_of_answers_wins_over_the_app_s_and_that_over_the_defaults() -> None:
    text = (
        "defaults: {upstream: u, response_check: off}\n"
        "apps: {a: {response_check: repair, methods: {call: {response_check: strict}}}, b: {}}"
    )
    found = [settings(text, "call"), settings(text, "hangup"), settings(text, "call", "b")]
    assert [it.response_check for it in found] == [ResponseCheck.STRICT, ResponseCheck.REPAIR, ResponseCheck.OFF]


# --- shadows ---

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


def test_a_method_s_shadow_stands_in_place_of_the_app_s_and_is_for_that_method_alone() -> None:
    of_app = ShadowSettings("v", 0.25, ("On*",), Compare.BODY, frozenset({"ts", "a.b"}))
    assert settings(SHADOWS).shadow == settings(SHADOWS, "call").shadow == of_app
    assert settings(SHADOWS, "connect").shadow == ShadowSettings("w", methods=("connect",))
    assert settings(SHADOWS, "OnCallEvent").shadow is None
    assert settings(SHADOWS, "call", "b").shadow == ShadowSettings("w", 0.5, ("call",))
    assert settings(SHADOWS, None, "b").shadow is None
    assert settings(SHADOWS, None, "d").shadow is None


def test_unless_it_names_methods_a_shadow_copies_none_with_side_effects() -> None:
    shadow = settings(SHADOWS, None, "c").shadow
    assert shadow == ShadowSettings("v")
    assert shadow.methods == DEFAULT_METHODS


# --- the record ---


def test_a_record_has_a_path_from_where_the_configuration_is(tmp_path: Path) -> None:
    (tmp_path / "hooks").mkdir()
    text = "record: {path: hooks/calls.jsonl, sample: 10%, failures_only: true, max_size: 1MiB, files: 2, mask: []}"
    record = loads(UPSTREAMS + text, str(tmp_path / "gateway.yaml")).config.record
    assert record is not None
    assert record[:6] == (str(tmp_path / "hooks/calls.jsonl"), 0.1, True, 1 << 20, 2, ())


def test_a_record_s_defaults_are_those_of_the_recorder(tmp_path: Path) -> None:
    record = loads("record: {path: f}", str(tmp_path / "gateway.yaml")).config.record
    assert record is not None
    assert record[:6] == RecordSettings(str(tmp_path / "f"))[:6]


# --- values ---


@given(st.integers(1, 100), st.integers(0, 9))
def test_a_share_in_percent_is_the_same_as_its_fraction(whole: int, tenth: int) -> None:
    if whole == 100:
        tenth = 0
    percent, fraction = f"{whole}.{tenth}%", (whole * 10 + tenth) / 1000
    read = [
        settings(f"apps: {{a: {{upstream: u, shadow: {{upstream: v, sample: {it}}}}}}}") for it in (percent, fraction)
    ]
    shadows = [it.shadow for it in read]
    assert all(it is not None and it.sample == pytest.approx(fraction) for it in shadows)


# --- the whole ---


def test_a_configuration_with_all_of_it_goes_to_the_workers_and_makes_a_table(tmp_path: Path) -> None:
    text = UPSTREAMS + "record: {path: f}\ndefaults: {upstream: u, rate_limit: 5/s, rest_client_config: enforce}\n"
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
