"""Units of time: each is what the next smaller one makes it."""

from __future__ import annotations

from gateway.model.units import SECONDS


def test_each_unit_is_a_multiple_of_the_one_before() -> None:
    assert list(SECONDS) == ["ms", "s", "m", "h", "d"]
    assert [SECONDS[unit] for unit in ("s", "m", "h", "d")] == [1, 60, 60 * 60, 24 * 60 * 60]
    assert SECONDS["ms"] * 1000 == SECONDS["s"]
