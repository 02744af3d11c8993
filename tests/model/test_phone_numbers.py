"""A number is found however it is written; two numbers never become one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.phone_numbers import normalized_number


@pytest.mark.parametrize(
    "written",
    [
        "+4930123456",
        "004930123456",
        "4930123456",
        "+49 30 123456",
        "+49 (30) 123-456",
        "+49/30.123456",
        "sip:+4930123456@example.com;user=phone",
        "SIPS:+4930123456@192.0.2.1:5061",
        "tel:+49-30-123456",
        '"Alice" <sip:+4930123456@example.com>',
        "  +4930123456 ",
    ],
)
def test_every_way_to_write_a_number_is_the_same(written: str) -> None:
    assert normalized_number(written) == "4930123456"


def test_a_national_number_stays_national() -> None:
    assert normalized_number("030 123456") == "030123456"


def test_a_name_is_compared_without_case() -> None:
    assert normalized_number("sip:Alice@example.com") == normalized_number("ALICE") == "alice"


@given(st.from_regex(r"[1-9][0-9]{0,19}", fullmatch=True), st.from_regex(r"[1-9][0-9]{0,19}", fullmatch=True))
def test_two_numbers_never_become_one(one: str, other: str) -> None:
    assert (normalized_number(f"+{one}") == normalized_number(f"00{other}")) == (one == other)


@given(st.text(max_size=40))
def test_it_takes_any_text_and_white_space_around_it_does_not_count(text: str) -> None:
    assert normalized_number(text) == normalized_number(f"  {text}\t")
