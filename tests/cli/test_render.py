"""Rates, durations and ages in words."""

from __future__ import annotations

import pytest

from gateway.cli import render


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (0.01, "<0.1"), (0.3, "0.3"), (12.34, "12.3"), (99.96, "100.0"), (1234.5, "1234")],
)
def test_rates_in_words(value: float | None, text: str) -> None:
    assert render.rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.04, "0.0 ms"),
        (3.21, "3.2 ms"),
        (9.96, "10 ms"),
        (999.4, "999 ms"),
        (999.9, "1.0 s"),
        (2e4, "20.0 s"),
    ],
)
def test_durations_in_words(value: float | None, text: str) -> None:
    assert render.milliseconds(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (3661, "1 h 1 min"), (90061, "1 d 1 h")]
)
def test_ages_in_words(seconds: float, text: str) -> None:
    assert render.ago(seconds) == text
