"""Decisions as CSV: one row each, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.render_decisions import COLUMNS, Form, csv_row, decision_printer
from gateway.telemetry.decision_view import DecisionView
from tests.telemetry.test_journal import FORMATTER, RULINGS, decision


def view(**changes: object) -> dict[str, object]:
    shown: dict[str, object] = msgspec.to_builtins(FORMATTER.format(decision()))
    return {**shown, **changes}


def test_every_column_is_a_field_of_the_admin_port() -> None:
    assert set(COLUMNS) < set(DecisionView.__struct_fields__)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"), ("-x", "'-x"),
        ("+49 30 123456", "+49 30 123456"), ("-1", "-1"), ("a=b", "a=b"), ("\x1b[2J", r"\x1b[2J"), ("a\nb", r"a\nb"),
    ],
)  # fmt: skip
def test_no_text_of_a_caller_becomes_a_formula(text: str, cell: str) -> None:
    assert csv_row(view(call_id=text))[COLUMNS.index("call_id")] == cell


def test_what_is_missing_is_empty_and_flags_are_one() -> None:
    row = dict(zip(COLUMNS, csv_row(view(ineffective=True, client_config="ok")), strict=True))
    assert (row["caller"], row["rule"], row["client_config"], row["ineffective"]) == ("", "", "", "1")
    assert (row["status"], row["budget_ms"], row["duration_ms"]) == ("200", "1500.0", "20.0")
    assert dict(zip(COLUMNS, csv_row(view()), strict=True))["ineffective"] == ""


@given(st.sampled_from(RULINGS), st.text(max_size=20), st.text(max_size=20))
def test_a_row_is_read_back_as_one_row(ruling: object, call_id: str, error: str) -> None:
    row = csv_row(view(call_id=call_id, error=error))
    out = io.StringIO()
    csv.writer(out).writerow(row)
    assert list(csv.reader([out.getvalue()])) == [row]
    assert out.getvalue().count("\n") == 1


def test_the_headings_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    decision_printer(Form.CSV)(view())
    head, row = capsys.readouterr().out.splitlines()
    assert head == ",".join(COLUMNS)
    assert row.split(",")[1] == "id-1"
