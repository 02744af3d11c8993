"""A backend is replaced with everything real: the short form of ``make rehearsal``, and what its judge sees."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.rehearsal import outage
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


# --- an outage ---


@pytest.mark.real
@pytest.mark.slow
def test_every_call_is_billed_though_php_is_down_for_a_third_of_the_time() -> None:
    outcome = outage.play(calls=40, seconds=15.0)
    assert outage.faults(outcome.events, outcome.billed) == [], outage.table(outcome)
    assert len(outcome.events) == 40 * len(outage.STATUSES)
    assert outcome.parts[1].sources["spool"] > 0
    assert outcome.emptied_after is not None


def sent_events(count: int) -> list[outage.Event]:
    return [outage.Event("one", number, 200) for number in range(count)]


def bill(number: int, *, repeat: bool = False) -> outage.Billed:
    return outage.Billed(0.0, "CallStatusEvent", "one", f"{number} RING", "key", None, None, repeat)


def test_a_bill_with_every_event_in_order_is_right() -> None:
    assert outage.faults(sent_events(3), [bill(0), bill(1), bill(1, repeat=True), bill(2)]) == []


@pytest.mark.parametrize(
    ("billed", "fault"),
    [
        ((0, 2), "event 1 of one is missing"),
        ((0, 2, 1), "event 1 of one was billed after event 2"),
        ((0, 1, 1, 2), "event 1 of one was billed 2 times"),
        ((0, 1, 2, 3), "event 3 of one was never sent"),
    ],
)
def test_a_wrong_bill_is_seen(billed: tuple[int, ...], fault: str) -> None:
    assert outage.faults(sent_events(3), [bill(number) for number in billed]) == [fault]


def test_an_event_that_was_not_answered_is_seen() -> None:
    events = [outage.Event("one", 0, 403)]
    assert outage.faults(events, [bill(0)]) == ["event 0 of one got 403"]
