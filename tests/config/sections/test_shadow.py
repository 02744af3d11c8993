"""Shadows of apps and methods."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.config import Config, ConfigError, Settings, loads
from gateway.model.hooks import CATALOGUE, MethodType, method_type
from gateway.policy.comparison import Compare
from gateway.policy.shadow import DEFAULT_METHODS, ShadowSettings
from gateway.proxy.routes import Table
from tests.config.texts import of_u

THREE_UPSTREAMS = "upstreams: {u: {url: http://h}, v: {url: http://i}, w: {url: http://j}}\n"


def settings(text: str, method: str | None = None, app: str = "a") -> Settings:
    return loads(THREE_UPSTREAMS + text).config.settings(app, method)


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
    (of_u("shadow: v"), '2:25: apps.a.shadow: must be a mapping, or off, not "v"'),
    (of_u("shadow: on"), '2:25: apps.a.shadow: must be a mapping, or off, not "on"'),
    (of_u("shadow: "), "2:25: apps.a.shadow: must be a mapping, or off, not empty"),
    (of_u("shadow: {upstream: v, sample: 0}"), "2:47: apps.a.shadow.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not 0"),
    (of_u("shadow: {upstream: v, sample: 0%}"), '2:47: apps.a.shadow.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not "0%"'),
    (of_u("shadow: {upstream: v, sample: 101%}"), '2:47: apps.a.shadow.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not "101%"'),
    (of_u("shadow: {upstream: v, sample: 1.5}"), "2:47: apps.a.shadow.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not 1.5"),
    (of_u("shadow: {upstream: v, sample: true}"), "2:47: apps.a.shadow.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not true"),
    (of_u("shadow: {upstream: v, sample: half}"), '2:47: apps.a.shadow.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not "half"'),
    (of_u("shadow: {upstream: v, sample: .nan}"), "2:47: apps.a.shadow.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not .nan"),
    (of_u("shadow: {upstream: v, methods: []}"), "2:47: apps.a.shadow.methods: must hold 1 to 256 methods"),
    (of_u("shadow: {upstream: v, methods: 'a b'}"), '2:47: apps.a.shadow.methods: must be a method\'s name, with * and ? for what varies, such as OnCallEvent, not "a b"'),
    (of_u("shadow: {upstream: v, compare: all}"), '2:47: apps.a.shadow.compare: must be verdict or body, not "all"'),
    (of_u("shadow: {upstream: v, ignore: ts}"), '2:47: apps.a.shadow.ignore: must be a list, not "ts"'),
    (of_u("shadow: {upstream: v, ignore: [5]}"), "2:56: apps.a.shadow.ignore[0]: must be a field of the answer such as ts, or a path of fields such as restClientConfig.OnCallEvent, not 5"),
    (of_u("shadow: {upstream: v, ignore: ['']}"), '2:56: apps.a.shadow.ignore[0]: must be a field of the answer such as ts, or a path of fields such as restClientConfig.OnCallEvent, not ""'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


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


def test_a_shadow_of_a_key_is_that_of_all_its_methods() -> None:
    config = config_of(
        {"methods": {"*StatusEvent": {"shadow": {"upstream": "v"}}, "incoming": {"shadow": {"upstream": "v"}}}}
    )
    table = Table(config)
    found = {
        method
        for method in [*CATALOGUE, "NewStatusEvent", "NewEvent"]
        if (hit := table.find("a", method)) is not None
        and (shadow := hit[1].shadow) is not None
        and shadow.covers(method)
    }
    wanted = {name for name, kind in CATALOGUE.items() if name.endswith("StatusEvent") or kind is MethodType.INCOMING}
    assert found == {*wanted, "NewStatusEvent"}


def test_a_shadow_may_name_types() -> None:
    table = Table(config_of({"shadow": {"upstream": "v", "methods": ["event", "call"]}}))
    for method in (*CATALOGUE, "NewEvent", "newMethod"):
        found = table.find("a", method)
        assert found is not None
        assert found[1].shadow is not None
        assert found[1].shadow.covers(method) is (method == "call" or method_type(method) is MethodType.EVENT)
