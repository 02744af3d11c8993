"""What counts as a failure, for log, journal and console alike."""

from __future__ import annotations

import pytest

from gateway.model.decision import Decision, counts_as_failure, is_failure
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
    rule_ruling,
)

TIMED_OUT = fallback_ruling(Failure(Cause.TIMEOUT, ProxyError.HTTP_RESPONSE_TIMEOUT, "late"), Fallback(), b"{}")


@pytest.mark.parametrize(
    ("ruling", "expected"),
    [
        (backend_allow(b"{}"), False),
        (backend_reject(), False),
        (rule_ruling(Verdict.REJECT, b"{}", "spam"), False),
        (backend_allow(b"{}").annotate(client_config="missing"), False),
        (TIMED_OUT, True),
        (Ruling(Verdict.ERROR, Source.GATEWAY, Reason.BAD_REQUEST, 400), True),
        (backend_reject().annotate(ineffective=True), True),
        (backend_allow(b"{}").annotate(repaired="bom"), True),
    ],
)
def test_anything_but_a_verdict_as_it_was_meant_is_a_failure(ruling: Ruling, expected: bool) -> None:
    decision = Decision(ruling, 0.0, "r", "a", "call", budget=None, duration=0.0)
    assert is_failure(decision) is expected


def test_a_view_of_a_decision_is_judged_by_the_same_rule() -> None:
    assert not counts_as_failure("allow", "")
    assert counts_as_failure("error", "")
    assert counts_as_failure("reject", "no answer")
    assert counts_as_failure("reject", "", ineffective=True)
    assert counts_as_failure("allow", "", repaired="bom")
