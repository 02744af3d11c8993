"""Why the server cannot be used, in words."""

from __future__ import annotations

import pytest

from gateway.fleet.reasons import Away, StateUnavailable, makes_useless, refusal_reason


@pytest.mark.parametrize(
    ("code", "useless"),
    [("READONLY", True), ("OOM", True), ("LOADING", True), ("WRONGPASS", True), ("NOAUTH", True), ("MISCONF", True),
     ("NOPERM", True), ("MOVED", True), ("WRONGTYPE", False), ("ERR", False), ("NOSCRIPT", False), ("", False)],
)  # fmt: skip
def test_some_errors_are_of_one_command_only(code: str, useless: bool) -> None:
    assert makes_useless(code) is useless


def test_the_server_s_own_words_are_used_where_there_are_no_better_ones() -> None:
    assert refusal_reason("READONLY", "READONLY You can't …") == "it is a replica, which cannot be written"
    assert refusal_reason("ERR", "ERR unknown command") == "it answers ERR unknown command"
    assert refusal_reason("ERR", "") == "it answers ERR"
    assert len(refusal_reason("ERR", "x" * 5000)) == 200


def test_who_catches_what_is_unavailable_catches_away() -> None:
    away = Away("it refuses connections")
    assert isinstance(away, StateUnavailable)
    assert (str(away), away.reason) == ("it refuses connections", "it refuses connections")
