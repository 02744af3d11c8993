"""A signature proves the token for one request to one gateway, for a while."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.admin.peer_auth import VALID_FOR, is_signed, sign

NOW = 1_700_000_000.0
HOST = "192.0.2.7:9180"
TARGET = "/api/decisions?limit=10&q=%2B49"
TOKEN = "the admin's token"


def check(header: str, *, token: str = TOKEN, host: str = HOST, target: str = TARGET, now: float = NOW) -> bool:
    return is_signed(header.encode(), token, host.encode(), target.encode(), now)


def test_what_was_signed_with_the_same_token_is_believed() -> None:
    assert check(sign(TOKEN, HOST, TARGET, NOW))


def test_the_token_itself_is_not_sent() -> None:
    assert TOKEN not in sign(TOKEN, HOST, TARGET, NOW)


@pytest.mark.parametrize("late", [-VALID_FOR, 0.0, VALID_FOR])
def test_clocks_may_differ_by_minutes(late: float) -> None:
    assert check(sign(TOKEN, HOST, TARGET, NOW), now=NOW + late)


@pytest.mark.parametrize("late", [-VALID_FOR - 1, VALID_FOR + 1])
def test_a_signature_is_of_no_use_later(late: float) -> None:
    assert not check(sign(TOKEN, HOST, TARGET, NOW), now=NOW + late)


def test_a_signature_is_of_no_use_elsewhere_for_something_else_or_with_another_token() -> None:
    header = sign(TOKEN, HOST, TARGET, NOW)
    assert not check(header, host="192.0.2.8:9180")
    assert not check(header, target="/api/decisions?limit=10")
    assert not check(header, token="another")


@given(st.binary(max_size=120))
def test_noise_is_no_signature(header: bytes) -> None:
    assert not is_signed(header, TOKEN, HOST.encode(), TARGET.encode(), NOW)


@given(st.integers(0, 200), st.characters(min_codepoint=33, max_codepoint=126))
def test_a_changed_signature_is_none(place: int, character: str) -> None:
    header = sign(TOKEN, HOST, TARGET, NOW)
    place %= len(header)
    assume(header[place].lower() != character.lower() or place > len("Fleet "))
    assume(header[place] != character)
    assert not check(header[:place] + character + header[place + 1 :])
