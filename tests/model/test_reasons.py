"""Every reason has its words, once; where they are repeated, they are the same."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.model.reasons import FAILURE_CLAUSES, REASON_TEXTS, cause_detail
from gateway.model.verdicts import Cause, Reason

CONSOLE = Path(__file__).parents[2] / "gateway" / "admin" / "console" / "words.js"
_entry = re.compile(r'^  (\w+): \{ label: "([^"]+)", colour: "[a-z_]+"(?:, text: "([^"]+)")? \},$', re.MULTILINE)


def test_every_reason_has_its_words() -> None:
    assert list(REASON_TEXTS) == list(Reason)
    for reason, text in REASON_TEXTS.items():
        assert text.label
        assert text.detail
        assert bool(text.short) is (reason not in (Reason.OK, Reason.DENIED))


def test_every_cause_is_something_that_the_backend_did() -> None:
    for cause in Cause:
        assert f"the backend {cause_detail(cause)}" == REASON_TEXTS[Reason(cause.value)].detail


def test_every_cause_that_may_lead_to_failover_has_a_clause() -> None:
    assert set(Cause) - FAILURE_CLAUSES.keys() == {Cause.OVERLOAD}


def test_the_console_says_the_same() -> None:
    table = CONSOLE.read_text("utf-8").partition("export const REASONS = {")[2].partition("};")[0]
    shown = {reason: (label, text) for reason, label, text in _entry.findall(table)}
    assert shown == {reason.value: (text.label, text.short) for reason, text in REASON_TEXTS.items()}
