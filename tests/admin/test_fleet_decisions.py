"""Pages of several gateways become one list: every decision once, in order, whoever has it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.decision_search import read_cursor, write_cursor
from gateway.admin.fleet_decisions import ReplicaPage, merge_pages
from gateway.telemetry.decision_view import Position

places = st.tuples(st.integers(0, 12), st.sampled_from("abc"))


class Source:
    """A gateway with a journal and a history, which reads only so much for one page."""

    def __init__(self, name: str, journal: set[Position], history: set[Position], most: int) -> None:
        self.name = name
        self.journal = journal
        self.history = history
        self.most = most

    def page(self, before: Position | None, limit: int, **more: Any) -> ReplicaPage:
        known = sorted(
            (place for place in self.journal | self.history if before is None or place < before), reverse=True
        )
        shown = known[: min(limit, self.most)]
        early = known[len(shown) :]
        following = None if not early else write_cursor(shown[-1] if shown else before or (99, ""))
        content = {
            "decisions": [{"request_id": name, "at": at} for at, name in shown],
            "places": [write_cursor(place) for place in shown],
            "in_journal": [place in self.journal for place in shown],
            "next": following,
            "matched": len(self.journal),
            "held": len(self.journal),
            "oldest": None,
            "journal_oldest": None,
            "history": {"configured": bool(self.history), "oldest": None, "error": None},
            "incomplete": [],
            **more,
        }
        return ReplicaPage(self.name, content)


def walk(sources: list[Source], limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    before: Position | None = None
    for _ in range(200):
        page = merge_pages([source.page(before, limit) for source in sources], limit)
        assert len(page["decisions"]) <= limit
        found += page["decisions"]
        if page["next"] is None:
            return found
        after = read_cursor(page["next"])
        assert before is None or after < before, "the next page gets no further"
        before = after
    raise AssertionError("no end")


@given(
    st.lists(st.tuples(st.sets(places), st.booleans(), st.integers(1, 5)), min_size=1, max_size=4),
    st.sets(places),
    st.integers(1, 7),
)
def test_every_decision_is_shown_once_and_in_order(
    parts: list[tuple[set[Position], bool, int]], shared: set[Position], limit: int
) -> None:
    sources = [
        Source(f"gw{number}", journal, journal | shared if has_history else set(), most)
        for number, (journal, has_history, most) in enumerate(parts)
    ]
    expected = sorted(set().union(*(source.journal | source.history for source in sources)), reverse=True)
    assert [(each["at"], each["request_id"]) for each in walk(sources, limit)] == expected


def test_a_decision_is_the_one_s_who_has_it_in_the_journal() -> None:
    both = {(5, "a"), (6, "b"), (7, "c")}
    one, other = Source("one", {(6, "b")}, both, 10), Source("other", {(7, "c")}, both, 10)
    for sources in ([one, other], [other, one]):
        found = {each["request_id"]: each["replica"] for each in walk(sources, 10)}
        assert found == {"a": None, "b": "one", "c": "other"}


def test_counts_add_up_and_each_error_of_a_history_names_its_gateway() -> None:
    one = Source("one", {(1, "a")}, set(), 9).page(None, 9, matched=3, held=10, oldest="2026-01-02T00:00:00.000Z")
    broken = {"configured": True, "oldest": "2026-01-01T00:00:00.000Z", "error": "the store is down"}
    other = Source("other", set(), set(), 9).page(None, 9, matched=4, held=20, history=broken)
    page = merge_pages([one, other], 9)
    assert (page["matched"], page["held"], page["oldest"]) == (7, 30, "2026-01-02T00:00:00.000Z")
    assert page["history"] == {
        "configured": True, "oldest": "2026-01-01T00:00:00.000Z", "error": "other: the store is down",
    }  # fmt: skip


def test_a_page_with_nonsense_for_a_cursor_is_an_error() -> None:
    with pytest.raises(ValueError, match="cursor"):
        merge_pages([Source("one", set(), set(), 9).page(None, 9, next="x")], 9)
