"""Which hooks a shadow copies."""

from __future__ import annotations

import pytest

from gateway.model.hooks import MethodType, parse_hook
from gateway.policy.shadow import Shadow, ShadowSettings, candidate_name, find_shadow

HOOK = parse_hook(b'{"appKey":"a","sessionId":"s"}')


@pytest.mark.parametrize(
    ("methods", "method", "expected"),
    [
        (("OnCallEvent",), "OnCallEvent", True),
        (("oncallevent",), "OnCallEvent", True),
        (("On*Event",), "OnMessageEvent", True),
        (("*",), "anything", True),
        (("OnCallEvent",), "call", False),
        (("call?",), "call", False),
    ],
)
def test_methods_are_names_or_globs_in_any_case(methods: tuple[str, ...], method: str, expected: bool) -> None:
    assert Shadow(ShadowSettings("next", methods=methods)).covers(method) is expected


def test_a_type_stands_for_all_of_its_methods() -> None:
    settings = ShadowSettings("next", methods=("incoming",))
    assert Shadow(settings, MethodType.INCOMING).covers("AnyName")
    assert not Shadow(settings, MethodType.DIRECT).covers("call")


def test_routes_that_are_alike_share_one_shadow_and_the_rest_have_none() -> None:
    settings = ShadowSettings("next", methods=("OnCallEvent",))
    assert find_shadow(None) is None
    assert find_shadow(settings, "call") is None
    alike = ShadowSettings("next", methods=("OnCallEvent",))
    assert find_shadow(settings, "OnCallEvent") is find_shadow(alike, "OnCallEvent")


def test_a_candidate_is_an_upstream_by_a_name_that_no_configuration_has() -> None:
    assert Shadow(ShadowSettings("next")).candidate == candidate_name("next") == "shadow:next"


def test_the_whole_sample_takes_every_hook() -> None:
    assert Shadow(ShadowSettings("next", sample=1.0)).takes(HOOK, "r")
