"""Filters that choose decisions by whole numbers and by their place in a list; the rest is in test_journal."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.decision_view import DecisionFilter, DecisionFormatter, position
from gateway.telemetry.journal import Journal
from tests.telemetry.test_journal import NOW, decision, filled

MASKING = DecisionFormatter(1, ("caller", "callee"))
HOOK = {"caller": "+49 30 1234567", "callee": "sip:4000@pbx.example"}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (DecisionFilter(caller="004930-1234567"), True),
        (DecisionFilter(callee="4000"), True),
        (DecisionFilter(caller="+49301234567", callee="4000"), True),
        (DecisionFilter(caller="4000"), False),
        (DecisionFilter(caller="1234567"), False),
    ],
)
def test_a_whole_number_is_found_though_it_is_masked(wanted: DecisionFilter, found: bool) -> None:
    assert MASKING.matches(decision(fields=HOOK), wanted) is found


def test_a_hook_that_could_not_be_read_has_no_number() -> None:
    assert not MASKING.matches(decision(hook=None), DecisionFilter(caller="1"))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abcdefgh")), unique=True, max_size=30),
    st.integers(1, 7),
)
def test_pages_have_every_decision_once_also_where_times_are_equal(made: list[tuple[int, str]], size: int) -> None:
    decisions = [decision(time=NOW + second, request_id=name) for second, name in made]
    journal: Journal = filled(decisions)
    listed: list[tuple[int, str]] = []
    before = None
    while page := asyncio.run(journal.search(DecisionFilter(before=before, limit=size), MASKING)).positions:
        listed += page
        before = page[-1]
    assert listed == sorted(map(position, decisions), reverse=True)
    assert all(newer > older for newer, older in pairwise(listed))
