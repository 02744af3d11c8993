"""Which events belong together, which repeat each other, and what they are worth."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.spooling import KEY_BYTES, event_value, ordering_key, repeat_digest


def key(app: str = "app", **fields: object) -> bytes:
    return ordering_key(app, msgspec.json.encode(fields))


def test_the_call_comes_before_the_media_session_and_that_before_the_session() -> None:
    assert key(callId="a", mediaSessionId="m", sessionId="s") == key(callId="a", sessionId="other", more=1)
    assert key(mediaSessionId="m", sessionId="s") == key(mediaSessionId="m")
    assert key(sessionId="s", status="X") == key(sessionId="s")
    assert len({key(callId="x"), key(mediaSessionId="x"), key(sessionId="x")}) == 3


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_empty_id_is_none(nothing: str | None) -> None:
    assert key(callId=nothing, mediaSessionId="m") == key(mediaSessionId="m")


def test_apps_have_calls_of_their_own() -> None:
    assert key("app", callId="a") != key("other", callId="a")


def test_events_without_any_id_belong_together_only_where_they_are_the_same() -> None:
    assert key(nodeId="a") == key(nodeId="a")
    assert key(nodeId="a") != key(nodeId="b")
    assert key("app", nodeId="a") != key("other", nodeId="a")


@given(call=st.text(min_size=1) | st.integers(), rest=st.dictionaries(st.text(max_size=3), st.integers(), max_size=3))
def test_nothing_but_the_call_makes_the_key(call: str | int, rest: dict[str, int]) -> None:
    body = msgspec.json.encode({**rest, "callId": call})
    assert ordering_key("app", body) == key(callId=call)
    assert len(ordering_key("app", body)) == KEY_BYTES


@given(st.text(), st.text(), st.binary(), st.text(), st.text(), st.binary())
def test_only_what_is_the_same_throughout_is_a_repeat(
    app: str, method: str, body: bytes, app_2: str, method_2: str, body_2: bytes
) -> None:
    same = (app, method, body) == (app_2, method_2, body_2)
    assert (repeat_digest(app, method, body) == repeat_digest(app_2, method_2, body_2)) == same
    assert repeat_digest(app, method, body) == repeat_digest(app, method, body)


def test_billing_is_worth_most_and_statistics_least() -> None:
    assert event_value("CallStatusEvent") > event_value("PlaybackEvent") > event_value("StreamsStatEvent")
