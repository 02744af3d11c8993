"""Text for people and logs: what is shown of it can do no harm, and what is hidden stays hidden."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.text import MAX_TEXT, mask_number, plural, printable, shorten, timestamp


@pytest.mark.parametrize(
    ("number", "shown"),
    [("+4930123456", "*********56"), ("12345", "***45"), ("1234", "****"), ("110", "***"), ("", "")],
)
def test_a_number_shows_its_last_two_characters_at_most(number: str, shown: str) -> None:
    assert mask_number(number) == shown


@given(st.text())
def test_a_masked_number_keeps_its_length(number: str) -> None:
    assert len(mask_number(number)) == len(number)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode", "plain, ünïcode"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\r\nb", "a\\r\\nb"),
        ("\u202e", "\\u202e"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_what_could_move_a_cursor_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_printable_text_is_printable_already(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown


@given(st.text())
def test_printable_text_keeps_the_line_ends_that_it_is_to_keep(text: str) -> None:
    shown = printable(text, keep="\n")
    assert shown.count("\n") == text.count("\n")
    assert shown.replace("\n", "").isprintable()
    assert printable(shown, keep="\n") == shown


@given(st.text(), st.integers(1, 2 * MAX_TEXT))
def test_a_text_is_shortened_where_it_is_too_long_and_says_so(text: str, limit: int) -> None:
    shown = shorten(text, limit)
    if len(text) <= limit:
        assert shown == text
    else:
        assert (len(shown), shown[:-1], shown[-1]) == (limit, text[: limit - 1], "…")


@given(st.floats(0, 4e9))
def test_a_timestamp_is_rfc_3339_in_utc_with_milliseconds(seconds: float) -> None:
    text = timestamp(seconds)
    assert text.endswith("Z")
    assert datetime.fromisoformat(text) == datetime.fromtimestamp(int(seconds), UTC).replace(
        microsecond=int(seconds * 1000) % 1000 * 1000
    )


@pytest.mark.parametrize(("count", "words"), [(0, "0 hooks"), (1, "1 hook"), (2, "2 hooks"), (12345, "12,345 hooks")])
def test_a_noun_is_in_the_plural_but_for_one(count: int, words: str) -> None:
    assert plural(count, "hook") == words
    assert plural(2, "match", "matches") == "2 matches"
