"""A decision is built of what the hook's context knows by the time its answer has gone out."""

from __future__ import annotations

import time
from typing import NamedTuple

from gateway.model.decision import OTHER_METHOD, UNKNOWN_APP, AppCache, AttemptRecord, Decision, DecisionBuilder
from gateway.model.hooks import HookReader
from gateway.model.verdicts import backend_allow, backend_reject

BODY = b'{"appKey": "a"}'


class Outcome(NamedTuple):
    target: str | None
    attempts: int
    began: float
    duration: float
    story: tuple[AttemptRecord, ...]


def builder() -> DecisionBuilder:
    made = DecisionBuilder("id")
    made.app, made.app_cache = "app", AppCache()
    made.method = made.method_name = "OnCallEvent"
    made.body = BODY
    made.budget, made.upstream, made.split = 2.0, "u", True
    return made


def test_what_is_known_when_a_hook_comes_is_enough_for_a_decision() -> None:
    decision = DecisionBuilder("id").build(backend_reject())
    expected = Decision(backend_reject(), decision.time, "id", UNKNOWN_APP, OTHER_METHOD, None, decision.duration)
    assert decision == expected


def test_it_says_what_became_of_the_hook_at_its_upstream() -> None:
    made = builder()
    story = (AttemptRecord("u", "t", 0.0, 0.5, 0.0, "ok", ""),)
    made.outcome = Outcome("t", 2, made.began + 0.25, 0.5, story)
    decision = made.build(backend_allow(b"{}"))
    assert (decision.upstream, decision.target, decision.attempts) == ("u", "t", 2)
    assert (decision.upstream_duration, decision.story) == (0.5, story)
    assert round(decision.asked_after, 6) == 0.25
    assert (decision.app, decision.app_cache, decision.method_name) == ("app", made.app_cache, "OnCallEvent")
    assert (decision.budget, decision.split, decision.body) == (2.0, True, BODY)


def test_every_field_of_a_decision_has_its_own_value() -> None:
    """The builder passes them by position."""
    made = builder()
    made.app, made.method, made.method_name = "app", "_other", "OnOwnEvent"
    made.client = ("192.0.2.1", 50000)
    made.hook = HookReader().read(BODY)
    story = (AttemptRecord("u", "t", 0.0, 0.5, 0.0, "ok", ""),)
    made.outcome = Outcome("t", 3, made.began + 0.25, 0.5, story)
    ruling = backend_allow(b"{}")
    decision = made.build(ruling)
    assert {name: getattr(decision, name) for name in decision.__struct_fields__} == {
        "ruling": ruling,
        "time": decision.time,
        "request_id": "id",
        "app": "app",
        "method": "_other",
        "budget": 2.0,
        "duration": decision.duration,
        "upstream": "u",
        "target": "t",
        "attempts": 3,
        "upstream_duration": 0.5,
        "hook": made.hook,
        "asked_after": made.outcome.began - made.began,
        "story": story,
        "size": len(BODY) + 2,
        "trace": None,
        "body": BODY,
        "method_name": "OnOwnEvent",
        "split": True,
        "app_cache": made.app_cache,
        "client": ("192.0.2.1", 50000),
    }
    assert decision.duration < 60.0 < decision.time


def test_a_body_that_is_echoed_counts_once() -> None:
    made = builder()
    assert made.build(backend_allow(BODY)).size == len(BODY)
    assert made.build(backend_allow(b"{}")).size == len(BODY) + 2


def test_a_hook_for_which_no_backend_was_to_be_asked_has_no_budget() -> None:
    made = builder()
    made.upstream = None
    assert made.build(backend_reject()).budget is None


def test_time_is_when_the_hook_came() -> None:
    made = builder()
    made.began -= 5.0
    decision = made.build(backend_reject())
    assert 5.0 <= decision.duration < 6.0
    assert abs(decision.time - (time.time() - 5.0)) < 1.0
