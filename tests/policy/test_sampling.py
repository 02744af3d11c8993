"""A sample of sessions: whole sessions, so many of them as were asked for, and the same ones everywhere."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.hooks import Hook, parse_hook
from gateway.policy.sampling import Sample


def hook_of(**fields: Any) -> Hook:
    return parse_hook(json.dumps({"appKey": "a", "nodeId": "n", **fields}).encode())


@functools.cache
def hooks_of(form: str) -> list[Hook]:
    """Of ten thousand sessions whose ids have this form."""
    return [hook_of(sessionId=form % number) for number in range(10_000, 20_000)]


@given(st.text(min_size=1, max_size=20), st.floats(0.001, 1.0), st.lists(st.text(max_size=5), max_size=5))
def test_of_a_session_all_hooks_are_in_it_or_none(session: str, part: float, calls: list[str]) -> None:
    sample = Sample(part)
    hooks = [hook_of(sessionId=session, callId=call, caller=call) for call in calls]
    assert len({sample.takes(hook, f"r{number}") for number, hook in enumerate(hooks)}) <= 1


@pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("form", ["%d", "/192.0.2.1:%d/127.0.0.1:8080", "%08x-0000-4000-8000-000000000000"])
def test_it_has_the_share_that_was_asked_for_however_sessions_are_numbered(form: str, part: float) -> None:
    sample = Sample(part)
    taken = sum(sample.takes(hook, "r") for hook in hooks_of(form))
    assert abs(taken / 10_000 - part) < 0.02


@pytest.mark.parametrize("nothing", [{}, {"sessionId": None}, {"sessionId": ""}])
def test_without_a_session_the_call_decides(nothing: dict[str, Any]) -> None:
    sample = Sample(0.5)
    call = hook_of(**nothing, callId="c")
    assert len({sample.takes(call, f"r{number}") for number in range(100)}) == 1
    assert {sample.takes(hook_of(**nothing, callId=f"c{number}"), "r") for number in range(100)} == {True, False}


@pytest.mark.parametrize("nothing", [{}, {"sessionId": None, "callId": None}, {"sessionId": "", "callId": ""}])
def test_without_a_call_either_each_hook_goes_by_itself(nothing: dict[str, Any]) -> None:
    sample, nameless = Sample(0.5), hook_of(**nothing)
    assert {sample.takes(nameless, f"r{number}") for number in range(100)} == {True, False}


@given(st.integers(0, 10_000), st.floats(0.01, 0.5), st.floats(0.5, 1.0))
def test_a_larger_one_has_all_sessions_of_the_smaller(number: int, less: float, more: float) -> None:
    hook = hook_of(sessionId=str(number))
    smaller, larger = (Sample(part).takes(hook, "r") for part in (less, more))
    assert larger >= smaller


def test_viewers_of_hls_share_a_session_and_are_in_it_one_by_one() -> None:
    sample = Sample(0.5)
    shared, own = hook_of(sessionId="test-HLS"), hook_of(sessionId="/192.0.2.1:1/192.0.2.2:2")
    asked = ((shared, "playHLS"), (shared, "StreamStatusEvent"), (own, "playHLS"), (own, "playStream"))
    taken = [{sample.takes(hook, f"r{number}", method) for number in range(100)} for hook, method in asked]
    assert taken[:3] == [{True, False}] * 3
    assert len(taken[3]) == 1
