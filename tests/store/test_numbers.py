"""Telephone numbers as people write them, in one form, and their keyed hashes."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.numbers import HASH_BYTES, NumberHasher, normalize_number

BERLIN = "+493012345"


@pytest.mark.parametrize(
    "written",
    [
        "+493012345",
        "+49 30 123-45",
        "+49 (0) 30 123 45".replace("(0) ", "(0)"),
        "+49 (30) 12345",
        "+49/30/12345",
        "00493012345",
        "0049 30 123.45",
        "0049 (0)30 12345",
        "tel:+49-30-12345",
        "tel:+49-30-12345;phone-context=example.org",
        "sip:+493012345@192.0.2.1",
        "SIPS:+493012345@host:5061;transport=tls",
        "sip:%2B493012345@host",
        '"Anna" <sip:0049-30-12345@host;user=phone>;tag=1',
        "Anna <tel:+493012345>",
        "  +493012345 ",
        "+４９３０１２３４５",
        "+٤٩٣٠١٢٣٤٥",
    ],
)
def test_one_number_is_one_number_however_it_is_written(written: str) -> None:
    assert normalize_number(written) == BERLIN


@pytest.mark.parametrize(
    ("written", "normalized"),
    [
        ("030 123-45", "03012345"),  # national: nothing is known of its country
        ("112", "112"),
        ("00", "00"),
        ("0012", "0012"),  # an extension
        ("*21*12345#", "*21*12345#"),
        ("sip:Anna@example.org", "anna"),
        ("Anna", "anna"),
        ("sip:example.org", "example.org"),
        ("", ""),
        (" ", ""),
        ("sip:@host", ""),
        ("+", "+"),
        ("<>", ""),
    ],
)
def test_what_is_no_international_number_stays_what_it_is(written: str, normalized: str) -> None:
    assert normalize_number(written) == normalized


@given(st.text(alphabet="+0123456789 ()-./*#", max_size=30) | st.text(max_size=30))
def test_a_separator_more_or_less_changes_nothing_and_nothing_raises(text: str) -> None:
    normalized = normalize_number(text)
    assert normalize_number(f"sip:{text}@host" if "@" not in text else text) is not None
    if normalized.isascii() and normalized.lstrip("+").isdigit():
        assert normalize_number(normalized) == normalized
        assert normalize_number("-".join(normalized)) == normalized
        assert normalize_number(f'"x" <sip:{normalized}@h>') == normalized


@given(st.text(alphabet="123456789", min_size=7, max_size=15), st.text(alphabet="123456789", min_size=7, max_size=15))
def test_different_numbers_have_different_hashes(one: str, other: str) -> None:
    hasher = NumberHasher("secret")
    assert (hasher.hash(one) == hasher.hash(other)) == (one == other)


def test_a_hash_follows_from_key_and_number_alone() -> None:
    expected = hmac.new(b"secret", BERLIN.encode(), hashlib.sha256).digest()[:HASH_BYTES]
    assert NumberHasher("secret").hash("0049 30 12345") == expected
    assert NumberHasher("other").hash(BERLIN) != expected


def test_nothing_has_no_hash_and_the_key_is_not_shown() -> None:
    hasher = NumberHasher("secret")
    assert hasher.hash(" ") is None
    assert "secret" not in repr(hasher)


def test_a_text_that_is_no_unicode_can_be_hashed() -> None:
    assert NumberHasher("secret").hash("\udc80") is not None
