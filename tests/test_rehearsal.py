"""A backend is replaced with everything real: the short form of ``make rehearsal``, and what its judge sees."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.rehearsal.__main__ import rehearse, table
from tests.rehearsal.day import CLIENT_CONFIG, Hook, day
from tests.rehearsal.sending import Sent
from tests.rehearsal.stage import Expected, fault

HOOKS = 300
RATE = 600.0


@pytest.mark.real
@pytest.mark.slow
def test_every_step_of_the_rehearsal_finds_what_was_planted_and_loses_no_hook() -> None:
    rows, failures = rehearse(HOOKS, RATE)
    assert failures == [], table(rows)
    assert len(rows) == 15
    assert sum(row.lost for row in rows) == 0


# --- the day ---


def test_a_day_has_as_many_hooks_as_are_asked_for() -> None:
    assert sum(map(len, day(HOOKS, 1))) == HOOKS


def test_the_same_people_call_in_every_sending_and_no_hook_is_the_same() -> None:
    first, second = ([hook for session in day(HOOKS, sending) for hook in session] for sending in (1, 2))
    assert [hook.refused for hook in first] == [hook.refused for hook in second]
    assert not {hook.body for hook in first} & {hook.body for hook in second}


def test_even_a_short_day_has_something_of_everything() -> None:
    hooks = [hook for session in day(HOOKS, 1) for hook in session]
    assert Counter(hook.method for hook in hooks).keys() == {"connect", "OnCallEvent", "CallStatusEvent"}
    assert sum(hook.refused for hook in hooks) > sum(hook.disputed for hook in hooks) > 0


# --- the judge ---


def connect() -> Hook:
    return day(1, 1)[0][0]


def answered(hook: Hook, status: int, /, **changes: object) -> Sent:
    answer = {**hook.fields, "restClientConfig": CLIENT_CONFIG, "answeredBy": "php", **changes}
    return Sent(hook, status, json.dumps(answer).encode() if status == 200 else b"", "", 0.0, 0.0)


def test_the_backends_own_answer_is_right() -> None:
    assert fault(answered(connect(), 200), Expected()) == ""


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [("sessionId", "another", "another body"), ("restClientConfig", {}, "restClientConfig is {}")],
)
def test_a_wrong_body_is_seen(field: str, value: object, complaint: str) -> None:
    assert complaint in str(fault(answered(connect(), 200, **{field: value}), Expected()))


def test_a_status_that_is_no_verdict_is_seen() -> None:
    assert fault(answered(connect(), 500), Expected()) == "status 500"


def test_a_verdict_that_the_rules_do_not_have_is_told_apart_from_a_wrong_body() -> None:
    assert fault(answered(connect(), 403), Expected()) is None


def test_a_refusal_has_no_body() -> None:
    sent = answered(connect(), 403)._replace(body=b"no")
    assert fault(sent, Expected(refused=lambda _: True)) == "a refusal with a body"
