"""What the media server does with an answer is said as far as it is known."""

from __future__ import annotations

import pytest

from gateway.model.effects import answer_effect, changes_effect, rejection_effect
from gateway.model.hooks import KEEP_ALIVE, PLAY_HLS, MethodType


@pytest.mark.parametrize("kind", [MethodType.DIRECT, MethodType.INCOMING])
def test_a_rejection_s_effect_says_what_is_known_of_the_session(kind: MethodType) -> None:
    assert rejection_effect(kind, True).startswith("stopped: ")
    assert rejection_effect(kind, False).startswith("only logged by the media server")
    assert rejection_effect(kind, None) == rejection_effect(kind)
    assert "stops it" in answer_effect(403, kind, True)
    assert "unless" not in answer_effect(403, kind, True)
    assert "stopped nothing" in answer_effect(403, kind, False)
    assert answer_effect(403, kind, None) == answer_effect(403, kind)
    assert answer_effect(499, kind, False).endswith(answer_effect(403, kind, False))
    assert answer_effect(200, kind, False) == answer_effect(200, kind)


@pytest.mark.parametrize("kind", [MethodType.CONNECT, MethodType.EVENT])
def test_no_session_changes_what_a_rejected_connect_or_event_does(kind: MethodType) -> None:
    for stops in (True, False):
        assert rejection_effect(kind, stops) == rejection_effect(kind)
        assert answer_effect(403, kind, stops) == answer_effect(403, kind)


@pytest.mark.parametrize(
    ("stops", "words"), [(None, "unless"), (True, "stops the stream"), (False, "stream continues")]
)
def test_a_rejected_keep_alive_stops_its_stream_as_the_session_says(stops: bool | None, words: str) -> None:
    assert words in answer_effect(403, MethodType.DIRECT, stops, KEEP_ALIVE)
    assert "stream" in rejection_effect(MethodType.DIRECT, stops, KEEP_ALIVE)
    assert answer_effect(200, MethodType.DIRECT, stops, KEEP_ALIVE) == "The media server lets the stream continue."


@pytest.mark.parametrize("stops", [None, True, False])
def test_a_rejected_viewer_gets_no_stream_whatever_the_session_says(stops: bool | None) -> None:
    assert "rejects the viewer" in answer_effect(403, MethodType.DIRECT, stops, PLAY_HLS)
    assert rejection_effect(MethodType.DIRECT, stops, PLAY_HLS).startswith("the viewer gets no stream")


def test_a_method_that_nobody_lists_has_an_effect_too() -> None:
    assert "only if it is no event" in answer_effect(403, None)
    assert answer_effect(200, None) == "The media server goes on."


def test_changed_fields_are_taken_only_where_the_session_lets_them() -> None:
    assert changes_effect(None, None) == ""
    assert changes_effect("callee", None).startswith(" It takes callee from the answer, if")
    assert changes_effect("callee,caller", "caller").startswith(" It does not take caller from the answer")
