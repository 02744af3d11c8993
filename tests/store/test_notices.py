"""Notices between gateways that share a database: each change counts once, also beside a reading."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.backlog_table import SLOTS
from gateway.store.notices import MOST, Notice, Snapshot, encode_changes, parse_notice, parse_snapshot

SLOT_CHANGES = st.dictionaries(st.integers(0, SLOTS - 1), st.integers(-64, 64).filter(bool), max_size=1000)


@given(SLOT_CHANGES)
def test_changes_travel_whole_and_fit_into_notices(changes: dict[int, int]) -> None:
    found: Counter[int] = Counter()
    for text in encode_changes(changes):
        payload = f"{'f' * 32} {2**63} {text}"
        assert len(payload) < 8000
        notice = parse_notice(payload)
        assert (notice.owner, notice.transaction) == ("f" * 32, 2**63)
        assert len(notice.slots) <= MOST
        found.update(notice.slots)
    assert dict(found) == changes


@pytest.mark.parametrize("payload", ["", "x", "a b c", "a 1 ", "a 1 5", "a 1 +5", "a 1 z+1", "a 1 5+x", "a 1 5+1 6+1"])
def test_what_is_no_notice_is_none(payload: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its text is only logged
        parse_notice(payload)


def test_a_notice_is_what_was_sent() -> None:
    assert parse_notice("0a 77 1f+2,20-1") == Notice("0a", 77, {0x1F: 2, 0x20: -1})


@given(st.sets(st.integers(1, 40)), st.integers(1, 41))
def test_a_snapshot_has_seen_what_was_committed_before_it(running: set[int], following: int) -> None:
    """As PostgreSQL makes it: transactions up to *following* have begun, those *running* have not ended."""
    running = {each for each in running if each < following}
    xmin = min(running, default=following)
    snapshot = parse_snapshot(f"{xmin}:{following}:{','.join(map(str, sorted(running)))}")
    assert snapshot == Snapshot(xmin, following, frozenset(running))
    for transaction in range(1, 50):
        assert snapshot.has_seen(transaction) == (transaction < following and transaction not in running)
