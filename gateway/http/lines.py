"""The guard against header injection: nothing that a header's value carries may begin another line."""

from __future__ import annotations


def breaks_lines(head: bytes, lines: int) -> bool:
    """Whether a head has other line breaks than the CR LF of its *lines*: a value has brought one of its own."""
    return head.count(b"\n") != lines or head.count(b"\r") != lines
