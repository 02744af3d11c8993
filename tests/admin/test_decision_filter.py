"""Which decisions a query of ``GET /api/decisions`` selects, and what it says of mistakes."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.decision_filter import parse_filter
from gateway.telemetry.decision_view import MAX_LIMIT, DecisionFilter
from tests.telemetry.test_journal import FORMATTER, NOW, QUERY, decision, filled, found


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, DecisionFilter()),
        ({"app": "tenant-*", "q": "A b"}, DecisionFilter(app="tenant-*", q="A b")),
        ({"verdict": "reject", "source": "fallback"}, DecisionFilter(verdict="reject", source="fallback")),
        ({"since": "90s"}, DecisionFilter(since=NOW - 90)),
        ({"since": "1.5h"}, DecisionFilter(since=NOW - 5400)),
        ({"since": "1600000000.5"}, DecisionFilter(since=1600000000.5)),
        ({"since": "2023-11-14T22:13:20Z"}, DecisionFilter(since=NOW)),
        ({"since": "2023-11-14T22:13:20"}, DecisionFilter(since=NOW)),
        ({"since": "2023-11-14T23:13:20+01:00"}, DecisionFilter(since=NOW)),
        ({"since": "2023-11-14T23:13:20 01:00"}, DecisionFilter(since=NOW)),
        ({"failures": "1", "limit": "1000"}, DecisionFilter(failures=True, limit=1000)),
        ({"failures": "false"}, DecisionFilter()),
        (
            {"rule": "rules[0]", "ineffective": "1", "repaired": "true"},
            DecisionFilter(rule="rules[0]", ineffective=True, repaired=True),
        ),
        ({"shadow": "differs"}, DecisionFilter(shadow="differs")),
        ({"shadow": "candidate_failed", "repaired": "0"}, DecisionFilter(shadow="candidate_failed")),
        (dict.fromkeys(("app", "verdict", "q", "since", "until", "failures", "limit"), ""), DecisionFilter()),
    ],
)
def test_a_query_is_read(query: dict[str, str], expected: DecisionFilter) -> None:
    assert parse_filter(query.items(), NOW) == expected


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([("calid", "x")], "unknown parameter 'calid'; known parameters: app, method"),
        ([("app", "a"), ("app", "b")], "duplicate parameter app"),
        ([("verdict", "denied")], "verdict must be one of allow, reject, error, not 'denied'"),
        ([("reason", "x" * 200)], "reason must be one of ok, denied"),
        ([("limit", "0")], "limit must be a whole number from 1 to 1000, not '0'"),
        ([("limit", "1001")], "limit must be"),
        ([("limit", "٣")], "limit must be"),
        ([("failures", "yes")], "failures must be 1 or 0, not 'yes'"),
        ([("ineffective", "yes")], "ineffective must be 1 or 0, not 'yes'"),
        ([("repaired", "bom")], "repaired must be 1 or 0, not 'bom'"),
        ([("shadow", "1")], "shadow must be one of differs, match, verdict_differs, body_differs, candidate_failed"),
        ([("since", "yesterday")], "since must be a time such as"),
        ([("since", "-5m")], "since must be"),
        ([("since", "nan")], "since must be"),
        ([("until", "2023-13-01T00:00:00Z")], "until must be"),
        ([("q", "x" * 513)], "q is longer than 512 characters"),
    ],
)
def test_a_mistaken_query_is_refused_in_plain_words(query: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as raised:
        parse_filter(query, NOW)
    assert len(str(raised.value)) < 400


def test_the_time_copied_from_a_call_includes_that_call_at_both_ends() -> None:
    journal = filled([decision(time=NOW + 0.1239)])
    (call,) = found(journal)
    for name in ("since", "until"):
        asked = parse_filter([(name, call.time)], NOW)
        assert asyncio.run(journal.search(asked, FORMATTER)).matched == 1, name


@given(
    st.dictionaries(
        st.sampled_from([*QUERY, "since", "until", "failures", "limit", "repaired", "shadow"]), st.text(max_size=40)
    )
)
def test_any_other_text_is_a_query_or_refused(query: dict[str, str]) -> None:
    try:
        asked = parse_filter(query.items(), NOW)
    except ValueError:
        return
    assert 1 <= asked.limit <= MAX_LIMIT
    asyncio.run(filled([decision()]).search(asked, FORMATTER))
