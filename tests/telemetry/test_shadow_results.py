"""Results of shadow copies: bounded in number and bytes; those that differ are kept longest."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from gateway.policy.comparison import Difference, Finding
from gateway.policy.shadow import ShadowResult
from gateway.telemetry.shadow_results import MAX_BYTES, MAX_RESULTS, ShadowResults, outcome_matches

DIFFERENCE: Final = Difference("verdict", "allow", "reject")


def result(outcome: str = "match", *differences: Difference, **changes: Any) -> ShadowResult:
    made = ShadowResult("new", outcome, status=200, error="", duration_ms=12.5, differences=differences)
    return msgspec.structs.replace(made, **changes)


def test_adversarial_results_are_bounded_in_number_and_bytes() -> None:
    results = ShadowResults()
    wide = Difference("p" * 256, "\U0001f600" * 200, "y" * 200)
    for number in range(3 * MAX_RESULTS):
        results.record(f"id-{number}", result("body_differs", *[wide] * 20, error="e" * 10_000))
        assert results.bytes <= MAX_BYTES
    assert results.find("id-0") is None
    assert results.find(f"id-{3 * MAX_RESULTS - 1}") is not None
    small = ShadowResults()
    for number in range(2 * MAX_RESULTS):
        small.record(f"id-{number}", result())
    assert small.find(f"id-{MAX_RESULTS // 4}") is None
    assert small.find(f"id-{2 * MAX_RESULTS - 1}") is not None
    assert len([number for number in range(2 * MAX_RESULTS) if small.find(f"id-{number}")]) <= MAX_RESULTS


def test_adversarial_one_request_id_for_all_hooks_leaves_one_result() -> None:
    results = ShadowResults()
    results.record("same", result("body_differs", DIFFERENCE))
    size = results.bytes
    for _ in range(10):
        results.record("same", result("body_differs", DIFFERENCE))
    assert results.bytes == size


def test_a_result_that_differs_outlasts_those_that_agree() -> None:
    results = ShadowResults()
    results.record("differs", result("verdict_differs", DIFFERENCE))
    for number in range(2 * MAX_RESULTS):
        results.record(str(number), result())
    assert results.find("differs") == result("verdict_differs", DIFFERENCE)
    assert results.find("0") is None


@pytest.mark.parametrize(
    ("wanted", "outcome", "expected"),
    [
        (None, None, True),
        (None, "match", True),
        ("match", "match", True),
        ("match", None, False),
        ("differs", Finding.VERDICT_DIFFERS, True),
        ("differs", Finding.BODY_DIFFERS, True),
        ("differs", "match", False),
        ("differs", None, False),
    ],
)
def test_a_query_names_an_outcome_or_all_that_differ(wanted: str | None, outcome: str | None, expected: bool) -> None:
    assert outcome_matches(wanted, None if outcome is None else result(outcome)) is expected
