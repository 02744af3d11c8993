"""No header's value begins another line."""

from __future__ import annotations

import pytest

from gateway.http.lines import breaks_lines


def test_a_head_with_one_line_break_per_line_passes() -> None:
    assert not breaks_lines(b"a: 1\r\nb: 2\r\n", 2)
    assert not breaks_lines(b"", 0)


@pytest.mark.parametrize("value", [b"1\r\nx: 2", b"1\nx: 2", b"1\rx: 2", b"\n", b"\r"])
def test_a_value_with_a_line_break_of_any_kind_is_found(value: bytes) -> None:
    assert breaks_lines(b"a: %b\r\nb: 2\r\n" % value, 2)


def test_fewer_lines_than_were_written_are_found_too() -> None:
    assert breaks_lines(b"a: 1\r\n", 2)
