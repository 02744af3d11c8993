"""The journal's part in what no general proxy knows: annotations on rulings, and what shadows came to."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.rpc import FindDecisions, decode_reply, encode_reply
from gateway.model.decision import Decision
from gateway.model.hooks import parse_hook
from gateway.model.verdicts import Ruling, backend_allow, backend_reject
from gateway.policy.comparison import Difference, Finding
from gateway.policy.shadow import ShadowResult
from gateway.telemetry.decision_view import DecisionFilter, DecisionFormatter, DecisionView
from gateway.telemetry.journal import Journal
from gateway.telemetry.shadow_results import MAX_RESULTS

NOW: Final = 1_700_000_000.0
FORMATTER: Final = DecisionFormatter(77)
ALLOWED: Final = backend_allow(b'{"a":1}')
DIFFERENCE: Final = Difference("verdict", "allow", "reject")


def decision(ruling: Ruling = ALLOWED, request_id: str = "id", **changes: Any) -> Decision:
    body = changes.pop("body", b'{"appKey":"a","callId":"c"}')
    made = Decision(
        ruling, NOW, request_id, "a", "OnCallEvent", 1.5, 0.02, "u", "t:80", 1, 0.01, parse_hook(body), 0.0001, (),
        len(body) + len(ruling.body), body=body,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def result(outcome: str = "match", *differences: Difference, **changes: Any) -> ShadowResult:
    made = ShadowResult("new", outcome, status=200, error="", duration_ms=12.5, differences=differences)
    return msgspec.structs.replace(made, **changes)


def found(journal: Journal, **query: Any) -> list[DecisionView]:
    return asyncio.run(journal.search(DecisionFilter(**query), FORMATTER)).decisions


def ids(calls: list[DecisionView]) -> list[str]:
    return [call.request_id for call in calls]


# --- annotations ---


def test_a_call_shows_its_annotations() -> None:
    ruling = ALLOWED.annotate(rule="night", repaired="bom", cut="\ufeff", client_config="ok", failed_over_from="old")
    call = FORMATTER.format(decision(ruling))
    assert (call.rule, call.repaired, call.cut, call.client_config) == ("night", "bom", "\ufeff", "ok")
    assert (call.failed_over_from, call.ineffective, call.shadow) == ("old", False, None)


def test_a_refusal_known_to_stop_nothing_says_so() -> None:
    call = FORMATTER.format(decision(backend_reject().annotate(ineffective=True)))
    assert call.ineffective
    assert "this rejection stopped nothing" in call.means


def test_what_an_operator_has_to_look_at_outlasts_any_number_of_successes() -> None:
    journal = Journal(recent=5)
    journal.record(decision(backend_reject().annotate(ineffective=True), "ignored"))
    journal.record(decision(ALLOWED.annotate(repaired="before", cut="Notice: x"), "repaired"))
    journal.record(decision(backend_reject().annotate(rule="spam"), "by rule"))
    for number in range(20):
        journal.record(decision(request_id=str(number), time=NOW + 1 + number))
    assert ids(found(journal, failures=True)) == ["repaired", "ignored"]  # equal times: by request id
    assert ids(found(journal, ineffective=True)) == ["ignored"]
    assert ids(found(journal, repaired=True)) == ["repaired"]
    assert found(journal, rule="spam") == []


def test_what_was_cut_away_counts_among_the_bytes_kept_and_goes_with_its_call() -> None:
    cut = "\U0001f600" * 2000  # four bytes a character
    journal = Journal(recent=1, failures=2)
    for number in range(10):
        journal.record(decision(ALLOWED.annotate(repaired="before", cut=cut), str(number)))
    assert len(journal) == 2
    assert 2 * sys.getsizeof(cut) < journal.bytes < 2 * sys.getsizeof(cut) + 4096


def test_a_large_body_is_let_go_with_the_decision_s_own_reference_and_the_cut_stays() -> None:
    body = json.dumps({"appKey": "a", "sdp": "x" * 10**6}).encode()
    references = sys.getrefcount(body)
    journal = Journal()
    journal.record(decision(backend_allow(body).annotate(repaired="after", cut="trailing"), body=body))
    assert sys.getrefcount(body) == references
    assert found(journal)[0].cut == "trailing"


# --- shadows ---


def test_a_call_shows_what_its_copy_came_to() -> None:
    journal = Journal()
    journal.record(decision())
    assert found(journal)[0].shadow is None
    journal.record_shadow("id", result("body_differs", DIFFERENCE))
    assert found(journal)[0].shadow == result("body_differs", DIFFERENCE)


def test_a_result_may_come_before_its_decision() -> None:
    journal = Journal()
    journal.record_shadow("id", result("verdict_differs", DIFFERENCE))
    journal.record(decision())
    assert [call.shadow is not None for call in found(journal)] == [True]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("differs", {"verdict_differs", "body_differs"}),
        *((finding.value, {finding.value}) for finding in Finding),
    ],
)
def test_calls_are_found_by_what_their_copies_came_to(wanted: str, expected: set[str]) -> None:
    journal = Journal()
    journal.record(decision(request_id="none"))
    for finding in Finding:
        journal.record(decision(request_id=finding.value))
        journal.record_shadow(finding.value, result(finding.value))
    assert set(ids(found(journal, shadow=wanted))) == expected


@pytest.mark.parametrize("at_hand", [True, False])
def test_a_call_that_a_candidate_saw_otherwise_outlasts_those_that_it_saw_alike(at_hand: bool) -> None:
    journal = Journal(recent=5)
    odd = decision(request_id="odd")
    journal.record(odd)
    journal.record_shadow("odd", result("verdict_differs", DIFFERENCE), odd if at_hand else None)
    for number in range(2 * MAX_RESULTS):
        journal.record(decision(request_id=str(number), time=NOW + 1 + number))
        journal.record_shadow(str(number), result())
    assert ids(found(journal, shadow="differs")) == ["odd"]
    assert found(journal, shadow="differs")[0].call_id == "c"


def test_a_call_that_is_kept_twice_is_told_once() -> None:
    journal = Journal()
    journal.record(decision())
    journal.record_shadow("id", result("verdict_differs", DIFFERENCE))
    answer = asyncio.run(journal.search(DecisionFilter(), FORMATTER))
    assert (len(answer.decisions), answer.matched, answer.held) == (1, 1, 1)


def test_a_result_for_a_hook_that_nobody_remembers_is_no_matter() -> None:
    journal = Journal()
    journal.record_shadow("gone", result("verdict_differs", DIFFERENCE))
    assert found(journal) == []


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(list(Finding)), st.integers(0, 60_000)), max_size=60))
def test_with_shadows_too_the_journal_keeps_no_more_than_its_bytes(hooks: list[tuple[int, Finding, int]]) -> None:
    journal = Journal(20, 20, 60_000, differing=5)
    for number, finding, size in hooks:
        one = decision(request_id=str(number), body=json.dumps({"appKey": "a", "sdp": "v" * size}).encode())
        journal.record(one)
        before = journal.bytes
        journal.record_shadow(str(number), result(finding.value, DIFFERENCE), one)
        assert journal.bytes <= 60_000 + 50 * 2048
        assert before <= 60_000 + 50 * 2048
    assert len(found(journal, shadow="differs")) <= 25


def test_what_is_told_travels_between_processes_whole() -> None:
    journal = Journal()
    journal.record(decision(ALLOWED.annotate(rule="r", repaired="bom", cut="<script>")))
    journal.record_shadow("id", result("body_differs", DIFFERENCE, Difference("$", None, '"x"')))
    told = asyncio.run(journal.search(DecisionFilter(), FORMATTER))
    assert decode_reply(FindDecisions(DecisionFilter()), encode_reply(told)) == told
