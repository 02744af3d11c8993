"""The journal: what it keeps, what it lets go, what a query finds, and what is shown of a decision."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.decision import AttemptRecord, Decision, is_failure
from gateway.model.effects import answer_effect, rejection_effect
from gateway.model.hooks import MethodType, parse_hook
from gateway.model.text import timestamp
from gateway.model.verdicts import (
    Cause,
    Failure,
    Fallback,
    ProxyError,
    Reason,
    Ruling,
    Source,
    Verdict,
    backend_allow,
    backend_reject,
    fallback_ruling,
    static_ruling,
)
from gateway.telemetry.decision_view import DecisionFilter, DecisionFormatter, DecisionView
from gateway.telemetry.journal import Journal

CONTRACT_FIELDS: Final = (
    "request_id time app method node_id session_id call_id caller callee verdict source reason status error upstream "
    "target budget_ms duration_ms upstream_ms attempts worker means "
    "rule repaired cut ineffective client_config failed_over_from failover_cause changed_fields ignored_fields "
    "excluded shadow substituted"
).split()
NOW: Final = 1_700_000_000.0
FORMATTER: Final = DecisionFormatter(77)
TIMED_OUT: Final = Failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "no answer within 1.5 s")
REFUSED: Final = Failure(Cause.UNREACHABLE, ProxyError.CONNECTION_REFUSED, "h:1: connection refused")
ALLOWED: Final = backend_allow(b'{"a":1}')
RULINGS: Final = [
    ALLOWED,
    backend_reject(),
    fallback_ruling(TIMED_OUT, Fallback(), b""),
    fallback_ruling(REFUSED, Fallback(frozenset({Cause.UNREACHABLE})), b"{}"),
    static_ruling(Verdict.REJECT, b""),
    Ruling(Verdict.ERROR, Source.GATEWAY, Reason.BAD_REQUEST, 400, error="the body is empty"),
    backend_reject().annotate(ineffective=True),
    ALLOWED.annotate(repaired="bom", cut="\ufeff" * 100),
    ALLOWED.annotate(rule="night"),
]


def decision(ruling: Ruling = ALLOWED, fields: dict[str, Any] | None = None, **changes: Any) -> Decision:
    body = json.dumps({"appKey": "a", **(fields or {})}).encode()
    made = Decision(
        ruling, NOW, "id-1", "a", "OnCallEvent", 1.5, 0.02, "u", "t:80", 1, 0.01, parse_hook(body), 0.0001, (),
        len(body) + len(ruling.body),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def found(journal: Journal, formatter: DecisionFormatter = FORMATTER, /, **query: Any) -> list[DecisionView]:
    return asyncio.run(journal.search(DecisionFilter(**query), formatter)).decisions


def filled(decisions: Iterable[Decision], **limits: int) -> Journal:
    journal = Journal(**limits)
    for each in decisions:
        journal.record(each)
    return journal


def ids(calls: Iterable[DecisionView]) -> list[str]:
    return [call.request_id for call in calls]


# --- what it keeps ---


def test_the_last_are_kept_and_the_newest_come_first() -> None:
    journal = filled((decision(request_id=str(n), time=NOW + n) for n in range(10)), recent=3)
    assert ids(found(journal)) == ["9", "8", "7"]
    assert len(journal) == 3


def test_failures_outlast_any_number_of_successes() -> None:
    failure = decision(fallback_ruling(TIMED_OUT, Fallback(), b""), request_id="failed")
    journal = filled([failure, *(decision(request_id=str(n), time=NOW + 1 + n) for n in range(50))], recent=5)
    assert "failed" in ids(found(journal))
    assert ids(found(journal, failures=True)) == ["failed"]


def test_what_began_later_is_newer_though_it_ended_first() -> None:
    journal = filled([decision(request_id="quick", time=NOW + 1), decision(request_id="slow", time=NOW)])
    assert ids(found(journal)) == ["quick", "slow"]


def test_an_empty_journal_has_no_oldest_call() -> None:
    nothing = asyncio.run(Journal().search(DecisionFilter(), FORMATTER))
    assert (nothing.decisions, nothing.matched, nothing.held, nothing.oldest) == ([], 0, 0, None)


@given(
    st.lists(st.tuples(st.sampled_from(RULINGS), st.integers(0, 60_000)), max_size=40),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(2_000, 100_000),
)
def test_it_never_keeps_more_than_its_number_and_its_bytes(
    recorded: list[tuple[Ruling, int]], recent: int, failures: int, max_bytes: int
) -> None:
    journal = Journal(recent, failures, max_bytes)
    for ruling, size in recorded:
        journal.record(decision(ruling, {"sdp": "v" * size}, size=size + 100))
        held = journal.newest()
        failed = sum(map(is_failure, held))
        assert failed <= failures
        assert len(held) - failed <= recent
        assert journal.bytes == sum(each.size + 1024 for each in held) <= max_bytes


def test_successes_make_room_for_failures() -> None:
    failed = [decision(RULINGS[2], request_id=f"f{n}", size=5000, time=NOW + n) for n in range(8)]
    journal = filled([*(decision(size=5000) for _ in range(8)), *failed], max_bytes=60_000)
    assert sorted(ids(found(journal, failures=True))) == [f"f{n}" for n in range(8)]
    assert len(journal) == 9


def test_a_large_body_is_let_go_and_what_is_shown_of_its_hook_stays() -> None:
    body = json.dumps({"appKey": "a" * 9000, "callId": "c" * 90_000, "caller": "1234567", "sdp": "x" * 10**6}).encode()
    references = sys.getrefcount(body)
    answer = backend_allow(body)
    kept = decision(answer, hook=parse_hook(body), size=2 * len(body))
    before = FORMATTER.format(kept)
    journal = filled([kept])
    del kept, answer
    assert sys.getrefcount(body) == references
    assert journal.bytes < 4096
    (shown,) = found(journal)
    assert shown == before
    assert len(shown.call_id or "") == 256


# --- what a query finds ---

APPS: Final = ["a", "b"]
TEXTS: Final = ["c-1", "C-1x", "49171", "0301234567"]
QUERY: Final[dict[str, list[str]]] = {
    "app": APPS,
    "method": ["OnCallEvent", "connect"],
    "verdict": list(Verdict),
    "source": list(Source),
    "reason": list(Reason),
    "call_id": TEXTS,
    "session_id": TEXTS,
    "request_id": ["r1", "r2"],
    "upstream": ["u", "v"],
    "target": ["t:80", "t:81"],
    "rule": ["night"],
    "q": ["c-1", "x", "R1", "refused", "0301234567", "67", "zzz"],
}


@st.composite
def decisions(draw: st.DrawFn) -> list[Decision]:
    made = []
    for _ in range(draw(st.integers(0, 12))):
        fields = {key: draw(st.sampled_from(TEXTS)) for key in ("callId", "sessionId", "caller", "callee")}
        made.append(
            decision(
                draw(st.sampled_from(RULINGS)),
                fields if draw(st.booleans()) else {},
                time=NOW + draw(st.integers(0, 5)),
                app=draw(st.sampled_from(APPS)),
                method=draw(st.sampled_from(QUERY["method"])),
                request_id=draw(st.sampled_from(QUERY["request_id"])),
                upstream=draw(st.sampled_from([*QUERY["upstream"], None])),
                target=draw(st.sampled_from([*QUERY["target"], None])),
            )
        )
    return made


@st.composite
def queries(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.sets(st.sampled_from(sorted(QUERY)), max_size=3))
    query: dict[str, Any] = {name: str(draw(st.sampled_from(QUERY[name]))) for name in names}
    for name in draw(st.sets(st.sampled_from(["since", "until"]))):
        query[name] = NOW + draw(st.integers(0, 5))
    for name in draw(st.sets(st.sampled_from(["ineffective", "repaired"]), max_size=1)):
        query[name] = True
    return query | {"failures": draw(st.booleans()), "limit": draw(st.integers(1, 6))}


def is_wanted(call: DecisionView, each: Decision, query: dict[str, Any]) -> bool:
    """The filters, said once more over what is shown."""
    if query["failures"] and not is_failure(each):
        return False
    if each.time < query.get("since", 0.0) or each.time >= query.get("until", 1e18):
        return False
    if ("ineffective" in query and not call.ineffective) or ("repaired" in query and call.repaired is None):
        return False
    shown = msgspec.structs.asdict(call)
    if any(shown[name] != query[name] for name in query.keys() & QUERY.keys() - {"q"}):
        return False
    texts = [call.call_id, call.session_id, call.request_id, call.caller, call.callee, call.error]
    return any(query.get("q", "").lower() in (text or "").lower() for text in texts)


@given(decisions(), queries())
def test_a_query_finds_what_a_look_at_each_call_finds(made: list[Decision], query: dict[str, Any]) -> None:
    result = asyncio.run(filled(made).search(DecisionFilter(**query), FORMATTER))
    naive = [FORMATTER.format(each) for each in made if is_wanted(FORMATTER.format(each), each, query)]
    assert result.matched == len(naive)
    assert result.held == len(made)
    assert [call.time for call in result.decisions] == sorted((call.time for call in naive), reverse=True)[
        : query["limit"]
    ]
    assert all(call in naive for call in result.decisions)
    assert result.oldest == (timestamp(min(each.time for each in made)) if made else None)


def test_a_masked_number_is_found_as_a_whole_and_by_what_is_shown_of_it_and_by_no_other_part() -> None:
    journal = filled([decision(fields={"caller": "0301234567", "callee": "12345"})])
    formatter = DecisionFormatter(1, ("caller", "callee"))
    (shown,) = found(journal, formatter)
    assert (shown.caller, shown.callee) == ("********67", "***45")
    assert found(journal, formatter, q="0301234567")
    assert found(journal, formatter, q="*67")
    for part in ("030123456", "301234567", "0301", "12345", "123"):
        assert not found(journal, formatter, q=part)
    assert found(journal, FORMATTER, q="30123"), "what is not masked is searched in part"


def test_a_search_lets_other_tasks_run() -> None:
    journal = filled(decision(request_id=str(n)) for n in range(500))
    turns = 0

    async def search() -> None:
        nonlocal turns
        task = asyncio.create_task(journal.search(DecisionFilter(), FORMATTER))
        while not task.done():
            await asyncio.sleep(0)
            turns += 1

    asyncio.run(search())
    assert turns > 5


# --- following ---
@given(
    st.lists(st.lists(st.sampled_from(RULINGS), max_size=8), max_size=6),
    st.integers(1, 5),
    st.integers(1, 10),
)
def test_a_follower_is_told_each_call_once_or_that_it_was_skipped(
    batches: list[list[Ruling]], most: int, kept: int
) -> None:
    journal = filled([decision(request_id="before")], recent=kept, failures=kept)
    cursor = journal.cursor_at(NOW + 1)
    told: list[str] = []
    skipped = number = 0
    for batch in batches:
        for ruling in batch:
            number += 1
            journal.record(decision(ruling, request_id=str(number), time=NOW + number))
        news = journal.updates(cursor, most, FORMATTER)
        assert len(news.decisions) <= most
        failed = [ruling for ruling in batch if is_failure(decision(ruling))]
        told_failed = [call for call in news.decisions if call.error or call.ineffective or call.repaired]
        assert len(told_failed) == min(len(failed), most, kept)
        told += ids(news.decisions)
        skipped += news.skipped
        cursor = news.cursor
    assert "before" not in told
    assert told == sorted(set(told), key=int)
    assert len(told) + skipped == number


def test_who_begins_to_follow_at_a_time_is_told_what_began_since() -> None:
    journal = filled(
        decision(RULINGS[2 * (n % 2)], request_id=str(n), time=NOW + n) for n in range(6)
    )  # successes and failures in turn
    assert ids(journal.updates(journal.cursor_at(NOW + 3), 10, FORMATTER).decisions) == ["3", "4", "5"]
    assert journal.updates(journal.cursor_at(NOW + 6), 10, FORMATTER).decisions == []
    assert len(journal.updates(journal.cursor_at(0.0), 10, FORMATTER).decisions) == 6


# --- what is shown ---


def test_a_call_has_the_fields_of_the_contract() -> None:
    assert list(msgspec.structs.asdict(FORMATTER.format(decision()))) == CONTRACT_FIELDS


def test_a_call_says_what_its_log_line_says() -> None:
    call = FORMATTER.format(decision(fields={"nodeId": "n", "sessionId": "s", "callId": "c", "caller": 5}))
    assert (call.node_id, call.session_id, call.call_id, call.caller, call.callee) == ("n", "s", "c", "5", None)
    assert (call.time, call.budget_ms, call.duration_ms) == ("2023-11-14T22:13:20.000Z", 1500.0, 20.0)
    assert (call.verdict, call.source, call.reason, call.status, call.worker) == ("allow", "backend", "ok", 200, 77)


def test_the_one_attempt_that_brought_the_verdict_is_told_though_it_was_not_recorded() -> None:
    (attempt,) = FORMATTER.format(decision(backend_reject(), upstream_duration=0.01)).attempts
    assert msgspec.structs.asdict(attempt) == {
        "upstream": "u", "target": "t:80", "began_ms": 0.1, "duration_ms": 10.0, "queued_ms": 0.0, "outcome": "denied",
        "error": "",
    }  # fmt: skip


def test_recorded_attempts_are_told_with_their_times_counted_from_the_hook_s_head() -> None:
    story = (
        AttemptRecord("gone", "t:80", 0.0, 0.5, 0.2, "timeout", "no answer"),
        AttemptRecord("u", "t:81", 0.5, 0.1, 0.0, "ok", ""),
    )
    attempts = FORMATTER.format(decision(story=story, asked_after=0.001, attempts=2)).attempts
    assert [(each.target, each.began_ms, each.duration_ms, each.queued_ms) for each in attempts] == [
        ("t:80", 1.0, 500.0, 200.0),
        ("t:81", 501.0, 100.0, 0.0),
    ]
    assert [(each.upstream, each.outcome, each.error) for each in attempts] == [
        ("gone", "timeout", "no answer"),
        ("u", "ok", ""),
    ]


@pytest.mark.parametrize("ruling", [RULINGS[4], RULINGS[5], msgspec.structs.replace(ALLOWED, source=Source.DUPLICATE)])
def test_who_was_not_decided_by_a_backend_made_no_attempt(ruling: Ruling) -> None:
    assert FORMATTER.format(decision(ruling, target=None, attempts=0)).attempts == ()


@given(st.text(max_size=600), st.sampled_from(RULINGS))
def test_whatever_a_caller_wrote_is_shown_bounded_and_as_json(text: str, ruling: Ruling) -> None:
    fields = dict.fromkeys(("nodeId", "sessionId", "callId", "caller", "callee"), text)
    body = json.dumps({"appKey": "a", **fields, "sdp": "sdp-of-the-body"}).encode()
    (call,) = found(filled([decision(ruling, hook=parse_hook(body), size=len(body))]))
    encoded = msgspec.json.encode(call)
    assert msgspec.json.decode(encoded, type=DecisionView) == call
    assert b"sdp-of-the-body" not in encoded
    assert len(call.call_id or "") <= 256
    assert len(call.caller or "") <= 64


# --- what it means ---


def test_every_answer_has_a_meaning_for_every_type_of_method() -> None:
    for kind in (*MethodType, None):
        for status in (200, 400, 401, 403, 405, 408, 413, 431, 499):
            words = answer_effect(status, kind)
            assert words.endswith(".")
            assert "edia server" in words
        assert answer_effect(400, kind) == answer_effect(403, kind), "anything but exactly 200 is an interaction error"


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (200, MethodType.INCOMING, "lets the call go on"),
        (200, MethodType.EVENT, "takes note"),
        (403, MethodType.CONNECT, "declines the client's session"),
        (403, MethodType.INCOMING, "unless the session's connect answer set restOnError=FAIL"),
        (403, MethodType.DIRECT, "unless the session's connect answer set restOnError=FAIL"),
        (403, MethodType.EVENT, "cannot be rejected"),
        (403, None, "restOnError=FAIL"),
        (499, MethodType.CONNECT, "The client left before the answer"),
    ],
)
def test_an_answer_means_what_the_media_server_s_documentation_says(
    status: int, kind: MethodType | None, words: str
) -> None:
    assert words in answer_effect(status, kind)


def test_only_what_connect_refuses_is_stopped_whatever_the_session_set() -> None:
    assert [kind for kind in MethodType if "restOnError" not in rejection_effect(kind)] == [
        MethodType.CONNECT, MethodType.EVENT,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("connect", "declines"),
        ("OnCallEvent", "restOnError"),
        ("NewStatusEvent", "cannot be rejected"),
        ("MyEvent", "cannot be rejected"),
        ("_other", "only if it is no event"),
    ],
)
def test_a_call_s_meaning_goes_by_its_method(method: str, words: str) -> None:
    formatter = DecisionFormatter(1, (), {"MyEvent": MethodType.EVENT})
    assert words in formatter.format(decision(backend_reject(), method=method)).means
