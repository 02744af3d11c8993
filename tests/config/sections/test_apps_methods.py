"""Settings by method: which key counts for a hook."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config, loads
from gateway.model.hooks import CATALOGUE, MethodType, method_type
from gateway.model.verdicts import Cause, Fallback
from gateway.policy.event_answers import EventAnswers
from gateway.policy.method_keys import MethodKeys
from gateway.policy.repair import ResponseCheck
from gateway.policy.retry import Retry
from gateway.proxy.routes import Table


def config_of(
    app: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, hook_types: Mapping[str, str] | None = None
) -> Config:
    document = {
        "upstreams": {"u": {"url": "http://h"}, "v": {"url": "http://i"}},
        "defaults": defaults or {},
        "apps": {"a": {"upstream": "u", **app}, "plain": {"upstream": "u"}},
        "hook_types": hook_types or {},
    }
    return loads(json.dumps(document)).config


LAYERED: Final = config_of(
    {
        "timeout": "10s",
        "methods": {
            "CallStatusEvent": {"timeout": "1s"},
            "Call*": {"timeout": "2s", "response_check": "off"},
            "*StatusEvent": {"timeout": "3s", "response_check": "repair"},
            "event": {"timeout": "4s", "retry": {"attempts": 3}},
        },
    },
    {
        "timeout": "9s",
        "fallback": "allow",
        "methods": {
            "CallStatusEvent": {"timeout": "5s", "event_answers": "strict"},
            "Stream*": {"timeout": "6s"},
            "*": {"timeout": "7s", "dedupe": "2s"},
            "direct": {"timeout": "8s", "retry": {"attempts": 4}},
        },
    },
)
ALL: Final = Fallback(frozenset(Cause))
KEYS = st.sampled_from(
    [
        "OnCallEvent",
        "connect",
        "CallStatusEvent",
        "*",
        "On*",
        "*Event",
        "*StatusEvent",
        "x*",
        "event",
        "direct",
        "incoming",
        "Own",
    ]
)
LEVEL = st.dictionaries(
    KEYS,
    st.fixed_dictionaries(
        {},
        optional={
            "timeout": st.sampled_from(["1s", "2s", "4s"]),
            "dedupe": st.sampled_from(["off", "5s"]),
            "event_answers": st.sampled_from(["any", "strict"]),
        },
    ),
    max_size=5,
)


@pytest.mark.parametrize(
    ("app", "method", "timeout", "origin"),
    [
        ("a", "CallStatusEvent", 1.0, "apps.a.methods.CallStatusEvent.timeout"),
        ("plain", "CallStatusEvent", 5.0, "defaults.methods.CallStatusEvent.timeout"),
        ("a", "CallFooEvent", 2.0, 'apps.a.methods."Call*".timeout'),
        ("a", "MessageStatusEvent", 3.0, 'apps.a.methods."*StatusEvent".timeout'),
        ("a", "StreamStatusEvent", 3.0, 'apps.a.methods."*StatusEvent".timeout'),
        ("a", "StreamsStatEvent", 6.0, 'defaults.methods."Stream*".timeout'),
        ("plain", "StreamStatusEvent", 6.0, 'defaults.methods."Stream*".timeout'),
        ("a", "ErrorEvent", 7.0, 'defaults.methods."*".timeout'),
        ("a", "call", 7.0, 'defaults.methods."*".timeout'),
        ("a", None, 10.0, "apps.a.timeout"),
        ("plain", None, 9.0, "defaults.timeout"),
        ("a", "event", 7.0, 'defaults.methods."*".timeout'),
        ("plain", "direct", 7.0, 'defaults.methods."*".timeout'),
        ("a", "*StatusEvent", 3.0, 'apps.a.methods."*StatusEvent".timeout'),
    ],
)
def test_the_most_specific_place_counts_and_at_each_the_app_s_before_that_of_defaults(
    app: str, method: str | None, timeout: float, origin: str
) -> None:
    assert LAYERED.settings(app, method).timeout == timeout
    assert LAYERED.setting_path(app, method, "timeout") == origin


def test_each_setting_is_looked_for_by_itself() -> None:
    settings = LAYERED.settings("a", "CallStatusEvent")
    assert (settings.timeout, settings.response_check) == (1.0, ResponseCheck.REPAIR)  # the longer of two globs
    assert (settings.retry, settings.dedupe, settings.event_answers) == (Retry(attempts=3), 2.0, EventAnswers.STRICT)
    keys = ("response_check", "retry", "dedupe", "event_answers", "fallback", "shadow")
    assert [LAYERED.setting_path("a", "CallStatusEvent", key) for key in keys] == [
        'apps.a.methods."*StatusEvent".response_check',
        "apps.a.methods.event.retry",
        'defaults.methods."*".dedupe',
        "defaults.methods.CallStatusEvent.event_answers",
        "defaults.fallback",
        "",
    ]


def test_what_defaults_say_of_one_method_outlives_what_an_app_says_of_all() -> None:
    """The shipped exception for live streams must not end where an app has a fallback of its own."""
    every = dict.fromkeys(Cause, "allow")
    common = {"methods": {"StreamKeepAliveEvent": {"fallback": every}}}
    for app in (
        {"fallback": "reject"},
        {"methods": {"direct": {"fallback": "reject"}}},
        {"methods": {"*": {"fallback": "reject"}}},
    ):
        config = config_of(app, common)
        assert config.settings("a", "StreamKeepAliveEvent").fallback == ALL
        assert config.settings("a", "call").fallback == Fallback()
    named = config_of({"methods": {"StreamKeepAliveEvent": {"fallback": "reject"}}}, common)
    assert named.settings("a", "StreamKeepAliveEvent").fallback == Fallback()


def test_hook_types_say_which_type_counts() -> None:
    config = config_of(
        {"methods": {"event": {"timeout": "1s"}, "incoming": {"timeout": "2s"}, "connect": {"timeout": "4s"}}},
        hook_types={"CallStatusEvent": "incoming", "newMethod": "event", "reconnect": "connect"},
    )
    found = {
        name: config.settings("a", name).timeout for name in ("CallStatusEvent", "newMethod", "OnCallEvent", "call")
    }
    assert found == {"CallStatusEvent": 2.0, "newMethod": 1.0, "OnCallEvent": 2.0, "call": 3.0}
    assert [config.settings("a", name).timeout for name in ("connect", "reconnect")] == [4.0, 4.0]


def test_events_are_delivered_by_any_2xx_unless_somebody_says_strict() -> None:
    assert config_of({}).settings("a", "CallStatusEvent").event_answers is EventAnswers.ANY
    config = config_of({"methods": {"ErrorEvent": {"event_answers": "any"}}}, {"event_answers": "strict"})
    found = [
        config.settings(*of).event_answers for of in (("a", "ErrorEvent"), ("a", "XEvent"), ("plain", "ErrorEvent"))
    ]
    assert found == [EventAnswers.ANY, EventAnswers.STRICT, EventAnswers.STRICT]


@given(
    LEVEL,
    LEVEL,
    st.dictionaries(
        st.sampled_from(["Own", "xOther", "CallStatusEvent", "again"]), st.sampled_from(list(MethodType)), max_size=2
    ),
)
def test_a_hook_s_route_is_made_of_its_settings_whatever_its_method(
    own: dict[str, Any], common: dict[str, Any], hook_types: dict[str, MethodType]
) -> None:
    config = config_of({"methods": own}, {"methods": common}, {name: kind.value for name, kind in hook_types.items()})
    table = Table(config)
    for method in (*CATALOGUE, "Own", "xOther", "again", "xNewStatusEvent", "NewEvent", "OnNewEvent", "zzz", "event"):
        for app in ("a", "plain"):
            found = table.find(app, method)
            assert found is not None
            route = found[1]
            kind = method_type(method, config.hook_types)
            keys = MethodKeys(own if app == "a" else ()).ranks(method, kind), MethodKeys(common).ranks(method, kind)
            sections = [
                level[key]
                for rank in range(3)
                for level, found_keys in zip(((own if app == "a" else {}), common), keys, strict=True)
                for key in found_keys[rank]
            ]
            timeout = next((section["timeout"] for section in sections if "timeout" in section), "3s")
            assert f"{route.budget:g}s" == timeout
            assert route.connects is (kind is MethodType.CONNECT)
            assert table.find(app, method) == found
            if method not in ("event", "direct"):
                settings_ = config.settings(app, method)
                assert (route.budget, route.dedupe) == (settings_.timeout, settings_.dedupe)
                any_2xx = kind is MethodType.EVENT and settings_.event_answers is EventAnswers.ANY
                assert (route.response_check not in tuple(ResponseCheck)) is any_2xx


def test_a_flood_of_unknown_methods_is_remembered_only_so_far() -> None:
    config = config_of(
        {"methods": {f"x{digit}*": {"timeout": "1s"} for digit in range(10)} | {f"*{digit}": {} for digit in range(10)}}
    )
    table = Table(config)
    for number in range(5000):
        found = table.find("a", f"x{number}")
        assert found is not None
        assert found[1].budget == 1.0
    app = next(app for app in table.apps if app.name == "a")
    assert len(app.classes) < 1200
    assert len(app.routes) <= 256
    assert table.method_label("x1") == table.method_label("x0*") == table.method_label("event") == "_other"
