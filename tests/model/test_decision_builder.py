"""A decision is built of what the hook's context knows by the time its answer has gone out."""

from __future__ import annotations

import time
from typing import NamedTuple

import msgspec

from gateway.model.decision import OTHER_METHOD, UNKNOWN_APP, AppCache, AttemptRecord, Decision, DecisionBuilder
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


def test_every_field_of_a_decision_is_filled_in() -> None:
    made = builder()
    made.outcome = Outcome("t", 1, made.began + 1.0, 1.0, (AttemptRecord("u", "t", 0.0, 1.0, 0.0, "ok", ""),))
    decision = made.build(backend_allow(b"{}"))
    unset = {name for name, value in msgspec.structs.asdict(decision).items() if value in (None, 0, 0.0, b"", "", ())}
    assert unset == {"hook", "trace"}


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
