"""Journals and history as one list: every decision once, in one order, however the two overlap and pages are cut."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.decision_filter import parse_filter
from gateway.admin.decision_search import DecisionPage, DecisionSearch, detail_json, read_cursor, write_cursor
from gateway.config import Config, loads
from gateway.model.decision import Decision
from gateway.model.hooks import parse_hook
from gateway.policy.history import Bodies
from gateway.store.schema import history_block, history_body, history_shadow, history_shard
from gateway.telemetry.decision_view import DecisionFilter, DecisionFormatter, position
from gateway.telemetry.journal import Journal
from tests.support.decision_sources import WORKER, Journals, ListHistory
from tests.support.direct_store import DirectStore
from tests.telemetry.test_journal import NOW, RULINGS, decision, filled

MASKED: tuple[str, ...] = ("caller", "callee")
FORMATTER = DecisionFormatter(WORKER, MASKED)
STORE = 'store: {url: "sqlite:store.db"}\nhistory: {key: "0123456789abcdef0123456789abcdef"}\n'


def config(text: str = STORE) -> Config:
    return loads(text).config


def search(
    journals: Sequence[Journal], history: ListHistory | None, *, portion: int = 200, max_read: int = 5000
) -> DecisionSearch:
    found = config()
    return DecisionSearch(Journals(journals, FORMATTER), history, lambda: found, portion=portion, max_read=max_read)


def all_pages(searched: DecisionSearch, wanted: DecisionFilter) -> list[DecisionPage]:
    pages: list[DecisionPage] = []
    cursors: set[str] = set()
    before = None
    while True:
        page = asyncio.run(searched.page(msgspec.structs.replace(wanted, before=before)))
        pages.append(page)
        if page.next is None:
            return pages
        assert page.next not in cursors, "it does not get further"
        cursors.add(page.next)
        before = read_cursor(page.next)


class Made(NamedTuple):
    """A decision of a property's world."""

    microseconds: int
    name: str
    ruling: int
    journal: int | None
    kept: bool


made = st.builds(
    Made,
    st.integers(0, 6) | st.integers(0, 3_000_000),
    st.text("abcdef", min_size=1, max_size=2),
    st.integers(0, len(RULINGS) - 1),
    st.none() | st.integers(0, 1),
    st.booleans(),
).filter(lambda each: each.kept or each.journal is not None)


@given(
    st.lists(made, unique_by=lambda each: each[:2], max_size=40),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 30),
    st.booleans(),
    st.booleans(),
)
def test_pages_have_every_decision_once_in_one_order(
    world: list[Made], limit: int, portion: int, max_read: int, stingy: bool, failures: bool
) -> None:
    decisions = {
        each: decision(RULINGS[each.ruling], time=NOW + each.microseconds / 1e6, request_id=each.name) for each in world
    }
    journals = [filled(made for each, made in decisions.items() if each.journal == number) for number in (0, 1)]
    history = ListHistory([made for each, made in decisions.items() if each.kept], stingy=stingy)
    searched = search(journals, history, portion=portion, max_read=max_read)
    wanted = DecisionFilter(failures=failures, limit=limit)
    pages = all_pages(searched, wanted)
    expected = sorted(
        filter(lambda each: FORMATTER.matches(each, wanted), decisions.values()), key=position, reverse=True
    )
    assert [view for page in pages for view in page.decisions] == [FORMATTER.format(each) for each in expected]
    assert all(len(page.decisions) <= limit for page in pages)
    assert not any(page.history.error or page.incomplete for page in pages)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DirectStore]:
    opened = DirectStore(tmp_path_factory.mktemp("store"), bodies=Bodies.ALL)
    yield opened
    opened.close()


@given(st.lists(made, unique_by=lambda each: each[:2], min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 5))
def test_the_real_history_and_the_journals_are_one_list(
    store: DirectStore, world: list[Made], limit: int, portion: int
) -> None:
    with store.databases.history.write() as connection:
        for table in (history_block, history_shard, history_body, history_shadow):
            connection.execute(sa.delete(table))
    decisions = {
        each: decision(RULINGS[each.ruling], time=NOW + each.microseconds / 1e6, request_id=each.name) for each in world
    }
    store.decide(*(made for each, made in decisions.items() if each.kept), worker=WORKER)
    journals = [filled(made for each, made in decisions.items() if each.journal is not None)]
    found = config()
    searched = DecisionSearch(Journals(journals, FORMATTER), store, lambda: found, portion=portion)
    pages = all_pages(searched, DecisionFilter(limit=limit))
    expected = sorted(decisions.values(), key=position, reverse=True)
    assert [view for page in pages for view in page.decisions] == [FORMATTER.format(each) for each in expected]


def test_a_whole_number_and_a_body_are_found_in_the_real_history(store: DirectStore) -> None:
    body = b'{"appKey":"a","caller":"+4930987654","callee":"4000","password":"hunter2"}'
    made = decision(request_id="with-body", body=body, hook=parse_hook(body))
    store.decide(made)
    found = config()
    searched = DecisionSearch(Journals([Journal()], FORMATTER), store, lambda: found)
    for wanted in (DecisionFilter(caller="0049 30 987654"), DecisionFilter(q="+4930987654")):
        page = asyncio.run(searched.page(wanted))
        assert [(each.request_id, each.caller) for each in page.decisions] == [("with-body", "*********54")]
    assert asyncio.run(searched.page(DecisionFilter(callee="0049 30 987654"))).decisions == []
    view, detail, _ = asyncio.run(searched.one("with-body"))
    assert view is not None
    assert detail.config_revision == "rev-1"
    assert detail.hook_body is not None
    assert "hunter2" not in detail.hook_body
    assert "987654" not in detail.hook_body
    assert detail.answer_body == '{"a":1}'


def decisions_of(count: int, first: int = 0) -> list[Decision]:
    return [decision(time=NOW + number, request_id=f"r{number}") for number in range(first, first + count)]


def ids(page: DecisionPage) -> list[str]:
    return [each.request_id for each in page.decisions]


def test_it_says_how_far_back_it_looked() -> None:
    page = asyncio.run(search([filled(decisions_of(2, 5))], ListHistory(decisions_of(6))).page(DecisionFilter(app="x")))
    assert (page.decisions, page.next) == ([], None)
    assert (page.journal_oldest, page.oldest) == ("2023-11-14T22:13:25.000Z", "2023-11-14T22:13:20.000Z")
    assert page.history.oldest == page.oldest
    assert (page.held, page.matched) == (2, 0)


def test_without_a_history_the_journals_are_all() -> None:
    made = config("apps: {}")
    searched = DecisionSearch(Journals([filled(decisions_of(3))], FORMATTER), None, lambda: made)
    page = asyncio.run(searched.page(DecisionFilter(limit=2)))
    assert (ids(page), page.history.configured, page.history.error) == (["r2", "r1"], False, None)
    assert ids(asyncio.run(searched.page(DecisionFilter(before=read_cursor(page.next or ""))))) == ["r0"]


def test_a_history_that_waits_for_a_restart_is_said_to_be_missing() -> None:
    page = asyncio.run(search([Journal()], None).page(DecisionFilter()))
    assert page.history.error == "the store takes effect after a restart"


def test_a_store_that_is_down_is_said_and_the_journals_are_shown() -> None:
    history = ListHistory(decisions_of(9))
    history.fails_after = 0
    page = asyncio.run(search([filled(decisions_of(2, 7))], history).page(DecisionFilter()))
    assert ids(page) == ["r8", "r7"]
    assert (page.history.error, page.history.configured) == ("the store's process cannot be reached", True)


def test_a_store_that_goes_down_midway_shows_what_was_read() -> None:
    history = ListHistory(decisions_of(9))
    history.fails_after = 1
    page = asyncio.run(search([Journal()], history, portion=3).page(DecisionFilter()))
    assert ids(page) == ["r8", "r7", "r6"]
    assert page.history.error


def test_workers_that_do_not_answer_are_named() -> None:
    searched = DecisionSearch(Journals([Journal()], FORMATTER, silent=[17]), None, config)
    assert asyncio.run(searched.page(DecisionFilter())).incomplete == [17]


def test_one_request_reads_a_bounded_part_of_the_history() -> None:
    history = ListHistory(decisions_of(100))
    page = asyncio.run(search([Journal()], history, portion=5, max_read=20).page(DecisionFilter(app="other")))
    assert page.decisions == []
    assert page.next is not None
    assert len(history.asked) == 4


def test_a_whole_number_in_a_search_is_also_looked_up_by_its_hash() -> None:
    history = ListHistory([])
    asyncio.run(search([Journal()], history).page(DecisionFilter(q="0049 30 123456")))
    assert [each.wanted.number for each in history.asked] == [None, "+4930123456"]


def test_a_decision_by_its_id_comes_with_what_the_history_knows() -> None:
    made = decisions_of(3)
    view, detail, _ = asyncio.run(search([filled(made[:1])], ListHistory(made)).one("r0"))
    assert view is not None
    shown = detail_json(view, detail)
    assert (shown["request_id"], shown["config_revision"], shown["hook_body"]) == ("r0", "rev", None)
    missing, _, scope = asyncio.run(search([filled(made[:1])], ListHistory(made)).one("r9"))
    assert (missing, scope.configured) == (None, True)


@given(st.integers(0, 10**18 - 1), st.text(max_size=128))
def test_a_cursor_is_read_as_it_was_written(microseconds: int, request_id: str) -> None:
    assert read_cursor(write_cursor((microseconds, request_id))) == (microseconds, request_id)


@pytest.mark.parametrize("text", ["", "x", "-", "12", "-a", "1.5-a", "9" * 19 + "-a"])
def test_any_other_text_is_no_cursor(text: str) -> None:
    with pytest.raises(ValueError, match="cursor must be the next of an earlier answer"):
        read_cursor(text)


def test_a_number_that_has_no_content_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="caller must be a whole number"):
        parse_filter([("caller", "sip:")], NOW)
