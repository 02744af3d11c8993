"""What answers to connect should set."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.config import Config, ConfigError, Settings, loads
from gateway.model.hooks import CATALOGUE, MethodType
from gateway.policy.rest_client_config import ClientConfig, Mode
from tests.config.texts import of_u

THREE_UPSTREAMS = "upstreams: {u: {url: http://h}, v: {url: http://i}, w: {url: http://j}}\n"
WANTED = {"OnCallEvent": {"restOnError": "FAIL"}}


def settings(text: str, method: str | None = None, app: str = "a") -> Settings:
    return loads(THREE_UPSTREAMS + text).config.settings(app, method)


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


def wanted(methods: Mapping[str, Any], **more: Any) -> Mapping[str, Mapping[str, str]]:
    return (
        config_of({"rest_client_config": {"mode": "enforce", "methods": methods}}, **more)
        .settings("a", None)
        .client_config.methods
    )


REJECTED = [
    (of_u("rest_client_config: on"), '2:25: apps.a.rest_client_config: must be a mapping, off, warn, or enforce, not "on"'),
    (of_u("rest_client_config: "), "2:25: apps.a.rest_client_config: must be a mapping, off, warn, or enforce, not empty"),
    (of_u("rest_client_config: {mode: raise}"), '2:46: apps.a.rest_client_config.mode: must be off, warn or enforce, not "raise"'),
    (of_u("rest_client_config: {mode: }"), "2:46: apps.a.rest_client_config.mode: must be off, warn or enforce, not empty"),
    (of_u("rest_client_config: {methods: [OnCallEvent]}"), "2:46: apps.a.rest_client_config.methods: must be a mapping, not a list"),
    (of_u("rest_client_config: {methods: {OnCallEvent: FAIL}}"), '2:56: apps.a.rest_client_config.methods.OnCallEvent: must be a mapping, not "FAIL"'),
    (of_u("rest_client_config: {methods: }"), "2:46: apps.a.rest_client_config.methods: must be a mapping, not empty"),
    (of_u("rest_client_config: {methods: {OnCallEvent: {restOnError: LOG}}}"), "2:56: apps.a.rest_client_config.methods.OnCallEvent: must have a restOnError that is FAIL"),
    (of_u("rest_client_config: {methods: {OnCallEvent: {restPolicy: overwrite}}}"), "2:56: apps.a.rest_client_config.methods.OnCallEvent: must have a restPolicy that is NOTIFY or OVERWRITE"),
    (of_u("rest_client_config: {methods: {OnCallEvent: {restOnError: 5}}}"), "2:70: apps.a.rest_client_config.methods.OnCallEvent.restOnError: must be text of 1 to 1024 characters, such as FAIL, not 5"),
    (of_u("rest_client_config: {methods: {OnCallEvent: {rest-on: FAIL}}}"), "2:70: apps.a.rest_client_config.methods.OnCallEvent.rest-on: must be a field of the media server's, such as restOnError"),
    (of_u("rest_client_config: {methods: {a-b: {restOnError: FAIL}}}"), "2:56: apps.a.rest_client_config.methods.a-b: must be a method's name, such a name with * and ? for what varies, or connect, direct, event or incoming"),
    (of_u("response_check: yes"), '2:25: apps.a.response_check: must be strict, repair or off, not "yes"'),
    (of_u("response_check: "), "2:25: apps.a.response_check: must be strict, repair or off, not empty"),
    ("defaults: {response_check: lax}\n", '1:12: defaults.response_check: must be strict, repair or off, not "lax"'),
    (of_u("methods: {call: {response_check: 1}}"), "2:42: apps.a.methods.call.response_check: must be strict, repair or off, not 1"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


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


def test_types_and_globs_are_written_out_for_connect_s_answer() -> None:
    fail = {"restOnError": "FAIL"}
    incoming = [name for name, kind in CATALOGUE.items() if kind is MethodType.INCOMING]
    assert wanted({"incoming": fail}) == dict.fromkeys(incoming, fail)
    direct = {name for name, kind in CATALOGUE.items() if kind is MethodType.DIRECT}
    assert wanted({"direct": fail}).keys() == direct - {"playHLS"}
    assert wanted({"*": fail}).keys() == {*incoming, *direct} - {"playHLS"}
    assert wanted({"incoming": fail}, hook_types={"newCall": "incoming"}).keys() == {*incoming, "newCall"}
    assert wanted({"Zebra": fail}) == {"Zebra": fail}


def test_of_each_field_the_most_specific_key_s_value_is_wanted() -> None:
    found = wanted(
        {
            "incoming": {"restOnError": "FAIL", "restPolicy": "NOTIFY"},
            "On*": {"restPolicy": "OVERWRITE", "restOverwrite": "a"},
            "OnCallEvent": {"restOverwrite": "callee"},
            "event": {"restPolicy": "OVERWRITE"},
            "Zebra": {"restExclude": "sdp"},
        }
    )
    assert found["OnCallEvent"] == {"restOnError": "FAIL", "restPolicy": "OVERWRITE", "restOverwrite": "callee"}
    assert found["OnMessageEvent"] == {"restOnError": "FAIL", "restPolicy": "OVERWRITE", "restOverwrite": "a"}
    assert found["OnDataEvent"] == {"restPolicy": "OVERWRITE", "restOverwrite": "a"}
    assert found["CallStatusEvent"] == {"restPolicy": "OVERWRITE"}
    assert found["Zebra"] == {"restExclude": "sdp"}
    assert "call" not in found


def test_what_names_methods_only_stays_as_it_is_written() -> None:
    fields = {"connect": {"restOnError": "FAIL"}, "CallStatusEvent": {"restOnError": "FAIL"}}
    assert wanted({"CallStatusEvent": fields["CallStatusEvent"]}) == {"CallStatusEvent": fields["CallStatusEvent"]}
