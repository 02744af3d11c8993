"""Durations, sizes, addresses and secrets as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Address, Secret, format_duration, parse_address, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("3s", 3.0), ("1.5s", 1.5), ("2m", 120.0), ("1h", 3600.0), ("0s", 0.0), ("0.5ms", 0.0005)],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "3", "3 s", "s", "-1s", "+1s", "1m30s", "3S", "1e3s", ".5s", "1.s", "٣s", "3s\n", "9" * 99 + "s"]
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration such as 3s or 250ms"):
        parse_duration(text)


@given(st.integers(0, 10**9))
def test_a_duration_of_whole_milliseconds_survives_the_round_trip(milliseconds: int) -> None:
    seconds = parse_duration(f"{milliseconds}ms") if milliseconds < 10**9 else 1e6
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.25, "250ms"),
        (1.5, "1.5s"),
        (59.0, "59s"),
        (60.0, "1m"),
        (90.0, "90s"),
        (7200.0, "2h"),
        (14.5, "14.5s"),
    ],
)
def test_a_duration_is_written_as_an_operator_would(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("text", "size"), [("512B", 512), ("64KiB", 65536), ("1MiB", 1048576), ("1GiB", 1 << 30)])
def test_sizes_are_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "64", "64kb", "64KB", "1.5MiB", "-1B", "1 MiB", "9" * 50 + "B"])
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size such as 64KiB or 1MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("[::1]:8080", Address("::1", 8080)),
        ("[0:0::1]:1", Address("::1", 1)),
        (":8080", Address("", 8080)),
        ("localhost:0", Address("localhost", 0)),
        ("media_1.example.com.:65535", Address("media_1.example.com.", 65535)),
    ],
)
def test_addresses_are_host_and_port(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "8080", "h", "h:", "h:-1", "h:65536", "h:٣", "::1:80", "[::1]80", "[]:80", "[h]:80", "1.2.3:80",
     "300.1.1.1:80",
     "a b:80", "a..b:80", "-a:80", "unix:/run/g.sock", "http://h:80", "a" * 64 + ":80", "h:000080"],
)  # fmt: skip
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be an address such as 127\.0\.0\.1:8080"):
        parse_address(text)


@given(st.text(max_size=80))
def test_an_address_that_is_taken_can_be_written_and_read_again(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    shown = [str(secret), repr(secret), f"{secret}", f"{secret!r:>5}", "%s" % secret, repr({"password": secret})]  # noqa: UP031
    assert "hunter2" not in "".join(shown)
    assert str(secret) == repr(secret) == "***"


def test_secrets_compare_by_what_they_hold() -> None:
    assert Secret("é") == Secret("é")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert hash(Secret("a")) == hash(Secret("a"))
    assert not Secret("")
