"""Durations, sizes, shares and secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.config import (
    Settings,
    format_duration,
    loads,
    parse_duration,
    parse_size,
)
from tests.config.texts import problems_of

THREE_UPSTREAMS = "upstreams: {u: {url: http://h}, v: {url: http://i}, w: {url: http://j}}\n"


def settings(text: str, method: str | None = None, app: str = "a") -> Settings:
    return loads(THREE_UPSTREAMS + text).config.settings(app, method)


@given(st.integers(1, 100), st.integers(0, 9))
def test_a_share_in_percent_is_the_same_as_its_fraction(whole: int, tenth: int) -> None:
    if whole == 100:
        tenth = 0
    percent, fraction = f"{whole}.{tenth}%", (whole * 10 + tenth) / 1000
    read = [
        settings(f"apps: {{a: {{upstream: u, shadow: {{upstream: v, sample: {it}}}}}}}") for it in (percent, fraction)
    ]
    shadows = [it.shadow for it in read]
    assert all(it is not None and it.sample == pytest.approx(fraction) for it in shadows)


@pytest.mark.parametrize("number", ["9" * 400, "-" + "9" * 399, "1" + "0" * 20, ".nan", ".inf", "1e400"])
def test_a_share_is_no_number_that_a_float_cannot_hold(number: str) -> None:
    problems = problems_of(f"record: {{path: x, sample: {number}}}\n")
    assert problems == [
        f"1:19: record.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not {number[:60]}"
    ]


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


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = SecretStr("hunter2")
    assert secret.get_secret_value() == "hunter2"
    shown = [str(secret), repr(secret), f"{secret}", f"{secret!r:>5}", "%s" % secret, repr({"password": secret})]  # noqa: UP031
    assert "hunter2" not in "".join(shown)
    assert str(secret) == "**********"
    assert repr(secret) == "SecretStr('**********')"


def test_secrets_compare_by_what_they_hold() -> None:
    assert SecretStr("é") == SecretStr("é")
    assert SecretStr("a") != SecretStr("b")
    assert SecretStr("a") != "a"
    assert hash(SecretStr("a")) == hash(SecretStr("a"))
    assert not SecretStr("")
